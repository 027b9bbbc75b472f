"""The small parts of the loop: plans, loaders, losses, meters, progress, random numbers."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

import transferkit as tk
from transferkit.errors import ConfigError, TrainingError
from transferkit.models.device import autocast, has_room, seeded
from transferkit.training import batches
from transferkit.training.batches import (
    Loader,
    ordered_batches,
    reader_of_images,
    reader_of_tensors,
    shuffled_batches,
)
from transferkit.training.train_epoch import AUX_WEIGHT, Loss, Meter, class_weights

CPU = torch.device("cpu")


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 5), st.integers(1, 9))
def test_a_plan_holds_every_row_once(count, size, seed, epoch):
    plan = shuffled_batches(count, size, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(plan)) == list(range(count))
    full, rest = divmod(count, size)
    assert len(plan) == full + (rest > 1 or (rest == 1 and full == 0))
    assert all(len(rows) in {size, size + 1} for rows in plan[:-1])
    assert size == 1 or count == 1 or len(plan[-1]) > 1


def test_plans_follow_seed_and_epoch():
    def order(seed, epoch):
        return np.concatenate(shuffled_batches(50, 8, seed=seed, epoch=epoch)).tolist()

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2)
    assert order(1, 1) != order(2, 1)
    assert np.concatenate(ordered_batches(np.arange(50), 8)).tolist() == list(range(50))


def test_loaders_of_images_and_of_tensors(train, monkeypatch):
    rows = np.array([4, 2, 7])
    loader = Loader(reader_of_images(train, CPU), train.labels, tuple)
    (images,), labels = loader.batch(rows, CPU)
    assert images.dtype == torch.uint8
    assert torch.equal(images, train.batch(rows))
    assert labels.tolist() == train.labels[rows].tolist()

    assert not has_room(CPU, 1)
    monkeypatch.setattr(batches, "has_room", lambda device, needed: True)
    (resident,) = reader_of_images(train, CPU)(rows)
    assert torch.equal(resident, images)

    read = reader_of_tensors((torch.arange(20.0).reshape(10, 2), torch.ones(10, 3, 4)))
    first, second = read(rows)
    assert first.tolist() == [[8, 9], [4, 5], [14, 15]]
    assert second.shape == (3, 3, 4)


@given(st.integers(0, 99), st.sampled_from([0.0, 0.1]), st.booleans())
def test_loss_over_mass_is_torchs_mean(seed, smoothing, weighted):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(9, 3, generator=generator)
    labels = torch.randint(0, 3, (9,), generator=generator)
    weights = np.array([0.2, 1.0, 3.0]) if weighted else None
    loss = Loss(weights, smoothing)
    mean = loss((logits,), labels) / loss.mass(labels.numpy())
    theirs = cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    mass = torch.ones(9) if weights is None else torch.tensor(weights, dtype=torch.float32)[labels]
    torch.testing.assert_close(mean, (mass * theirs).sum() / mass.sum())
    if not smoothing:  # torch weighs the smoothing within a sample too
        torch.testing.assert_close(
            mean,
            cross_entropy(
                logits,
                labels,
                weight=None if weights is None else torch.tensor(weights, dtype=torch.float32),
            ),
        )


def test_auxiliary_logits_weigh_0_3():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    one = Loss()((logits,), labels)
    assert AUX_WEIGHT == 0.3
    torch.testing.assert_close(Loss()((logits, logits, logits), labels), one * 1.6)


def test_balanced_weights_give_each_class_the_same_mass():
    labels = np.array([0] * 6 + [1] * 3 + [2])
    weights = class_weights("balanced", labels, 3)
    assert weights * np.bincount(labels) == pytest.approx([10 / 3] * 3)
    with_absent = class_weights("balanced", labels, 4)
    assert with_absent.tolist() == [*weights, 0.0]


def test_weights_that_leave_nothing_to_learn():
    with pytest.raises(ConfigError, match="no training image"):
        class_weights([0, 0, 1], np.array([0, 1, 1]), 3)


def test_a_meter_finds_the_first_bad_batch(monkeypatch):
    meter = Meter(CPU)
    logits, labels = torch.eye(2), torch.tensor([0, 0])
    for value in (1.0, 2.0):
        meter.add(torch.tensor(value), 2.0, logits, labels)
    meter.check(epoch=1, accumulate=2)
    assert meter.figures() == (0.75, 0.5)
    for value in (3.0, torch.inf, torch.nan):
        meter.add(torch.tensor(value), 2.0, logits, labels)
    monkeypatch.setattr(meter, "device", torch.device("cuda"))
    meter.check(epoch=1, accumulate=2)
    with pytest.raises(TrainingError, match=r"became inf at epoch 1, step 2\."):
        meter.check(epoch=1, accumulate=2, all_of_them=True)


def test_random_numbers_follow_seed_and_epoch_and_leave_the_callers():
    before = torch.get_rng_state()
    drawn = []
    for seed, epoch in ((0, 1), (0, 1), (0, 2), (1, 1)):
        with seeded((seed, epoch, 1), CPU):
            drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[1]
    assert len({tuple(numbers) for numbers in drawn}) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_precision_is_float32_on_the_cpu_unless_asked():
    for precision, dtype in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        with autocast(precision, CPU):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def fit(train, val, progress):
    model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, seed=0)
    tk.freeze(model)
    tk.Trainer(model, progress=progress).fit(train, val, epochs=10)


def test_a_log_file_gets_one_plain_line_an_epoch(train, val, capsys):
    fit(train, val, None)
    lines = capsys.readouterr().err.splitlines()
    figures = r"train loss \d\.\d{4} acc \d+\.\d %  val loss \d\.\d{4} acc \d+\.\d %  \d+\.\d s"
    assert len(lines) == 10
    for number, line in enumerate(lines, start=1):
        assert re.fullmatch(rf"epoch {number:>2}/10  {figures}", line)


def test_a_terminal_gets_a_bar(train, val, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fit(train, val, None)
    shown = capsys.readouterr().err
    steps = 10 * len(shuffled_batches(len(train), 32, seed=0, epoch=1))
    assert f"/{steps} " in shown
    assert "encoding" in shown
    assert "\nepoch" not in shown


def test_silence(train, val, capsys):
    fit(train, val, False)
    assert capsys.readouterr() == ("", "")
