from __future__ import annotations

import copy
import json

import pytest
import torch

import transferkit as tk
from transferkit.workflows.interpolate import estimate_statistics

QUIET = {"progress": False, "device": "cpu", "batch_size": 8}


@pytest.fixture
def ends(network, pictures):
    model = network()
    tk.linear_probe(model, pictures, epochs=3, **QUIET)
    first = copy.deepcopy(model)
    tk.fine_tune(model, pictures, epochs=3, lr=0.01, **QUIET)
    return first, model


def test_the_ends_are_the_models_and_both_stay_as_they_were(ends, pictures):
    before = [copy.deepcopy(model.state_dict()) for model in ends]
    for alpha, model in zip((0.0, 1.0), ends, strict=True):
        found = tk.interpolate(*ends, pictures, alphas=[alpha])
        assert found.alpha == alpha
        assert found.val.log_loss == tk.evaluate(model, pictures["val"]).log_loss
        assert found.test.log_loss == tk.evaluate(model, pictures["test"]).log_loss
    for state, model in zip(before, ends, strict=True):
        assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())


def test_weights_between_are_the_mean_and_statistics_are_measured(ends, pictures):
    half = tk.interpolate(*ends, pictures, alphas=[0.5], batch_size=8).classifier
    a, b, c = (dict(m.named_parameters()) for m in (*ends, half))
    for name in a:
        torch.testing.assert_close(c[name], (a[name] + b[name]) / 2)
    images = pictures["train"].batch(range(48))
    with torch.inference_mode():
        maps = half.backbone.stem[0](half.preprocess(images))
    norm = half.backbone.stem[1]
    torch.testing.assert_close(norm.running_mean, maps.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1
    assert not any(module.training for module in half.modules())


def test_untrained_statistics_stay(network, pictures):
    first, second = network(), network()
    with torch.no_grad():
        next(second.head.parameters()).zero_()
    second.classes = pictures.classes
    with pytest.warns(UserWarning, match="head of the first model was never trained"):
        half = tk.interpolate(first, second, pictures, alphas=[0.3]).classifier
    for name, tensor in first.backbone.state_dict().items():
        assert torch.equal(tensor, half.backbone.state_dict()[name])


def test_alpha_is_chosen_on_val_and_test_has_no_say(ends, pictures):
    found = tk.interpolate(*ends, pictures)
    accuracies = [scores.accuracy for scores in found.val_scores]
    assert found.val.accuracy == max(accuracies)
    swapped = {**pictures, "test": pictures["train"]}
    assert tk.interpolate(*ends, swapped).alpha == found.alpha
    assert f"{found.alpha:.2f}" in str(found)
    assert json.dumps(found.to_dict())


def test_what_cannot_be_interpolated(ends, pictures):
    other = tk.create_classifier("squeezenet1_1", 2, weights=None, image_size=32, seed=0)
    with pytest.raises(tk.ConfigError, match="one architecture"):
        tk.interpolate(ends[0], other, pictures)
    for alphas in ([], [1.5], [float("nan")]):
        with pytest.raises(tk.ConfigError, match="alphas"):
            tk.interpolate(*ends, pictures, alphas=alphas)


def test_statistics_of_a_norm_that_is_not_called_stay(network, pictures):
    model = network()
    spare = torch.nn.BatchNorm2d(3)
    model.spare = spare
    spare.running_mean += 7
    estimate_statistics(model, [spare, model.backbone.stem[1]], pictures["train"], batch_size=16)
    assert spare.running_mean.tolist() == [7, 7, 7]


def test_the_result_in_inference_mode_can_be_trained(ends, pictures):
    with torch.inference_mode():
        between = tk.interpolate(*ends, pictures, alphas=[0.5])
    assert not any(parameter.is_inference() for parameter in between.classifier.parameters())
