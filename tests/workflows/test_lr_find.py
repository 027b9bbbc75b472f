from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch

import transferkit as tk
from transferkit.workflows.lr_find import steepest

QUICK = {"steps": 20, "batch_size": 8, "device": "cpu"}


def states() -> tuple[object, ...]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - the caller's state is what is tested
    return (torch.get_rng_state().tolist(), random.getstate(), kind, keys.tolist(), *rest)


@pytest.mark.parametrize("frozen", [False, True])
def test_model_and_random_states_stay_bit_for_bit(network, pictures, frozen):
    model = network().train()
    if frozen:
        tk.freeze(model)
    for parameter in model.head.parameters():
        parameter.grad = torch.ones_like(parameter)
    weights = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    learning = [p.requires_grad for p in model.parameters()]
    before = states()
    tk.lr_find(model, pictures, **QUICK)
    assert states() == before
    assert all(torch.equal(weights[name], t) for name, t in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == learning
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.head.parameters())


def test_same_seed_same_curve_and_it_ends_where_it_diverges(network, pictures):
    a, b = (tk.lr_find(network(), pictures["train"], seed=3, **QUICK) for _ in range(2))
    assert a.losses.tolist() == b.losses.tolist()
    far = tk.lr_find(network(), pictures, lowest=1e-4, highest=1e6, optimizer="sgd", **QUICK)
    assert len(far.losses) < 20
    assert far.suggestion < far.rates[-1]
    assert "suggestion" in str(far)
    assert far.to_dict()["suggestion"] == far.suggestion


def test_a_rate_that_learns_is_suggested(network, pictures):
    found = tk.lr_find(network(), pictures, lowest=1e-5, highest=1.0, steps=60, batch_size=16)
    assert 1e-4 < found.suggestion < 1.0


def test_steepest_on_a_curve_that_is_known():
    rates = np.geomspace(1e-6, 1, 61)
    x = np.log10(rates)
    losses = 1 - 1 / (1 + np.exp(-4 * (x + 3))) + np.where(x > -1, (x + 1) * 10, 0)
    assert steepest(rates, losses) == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_steepest_is_not_fooled_by_the_noise_of_the_first_steps(seed):
    rates = np.geomspace(1e-6, 1, 100)
    losses = 1 - 0.8 / (1 + np.exp(-4 * (np.log10(rates) + 3)))
    losses += np.random.default_rng(seed).normal(0, 0.3, 100) * np.exp(-np.arange(100))
    assert 3e-4 < steepest(rates, losses) < 3e-3


def test_the_loss_is_that_of_the_training_that_the_rate_is_for(network, pictures):
    def first_loss(**options):
        return tk.lr_find(network(), pictures, **QUICK | options).losses[0]

    rows = first_loss(accumulate=2, batch_size=4)
    assert rows == pytest.approx(first_loss(batch_size=8), rel=0.05)
    assert first_loss(label_smoothing=0.3) != first_loss()
    assert first_loss(augment=torch.zeros_like) != first_loss()
    with pytest.raises(tk.UnknownNameError, match="batch_size"):
        first_loss(batchsize=8)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"lowest": 0.0}, "lowest"),
        ({"lowest": 2.0}, "highest .* above 2"),
        ({"steps": 3}, "steps"),
        ({"warmup": 1000}, "warmup"),
        ({"scheduler": "step"}, "scheduler"),
    ],
)
def test_bad_options(network, pictures, bad, named):
    with pytest.raises(tk.ConfigError, match=named):
        tk.lr_find(network(), pictures, **bad)


def test_everything_frozen(network, pictures):
    model = network()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(tk.TrainingError, match="frozen"):
        tk.lr_find(model, pictures)


def test_inference_mode_outside_changes_nothing(network, pictures):
    outside = tk.lr_find(network(), pictures, steps=12)
    with torch.inference_mode():
        within = tk.lr_find(network(), pictures, steps=12)
    assert np.array_equal(outside.losses, within.losses)
