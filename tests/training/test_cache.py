from __future__ import annotations

import os
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from transferkit.data.disk_cache import ArrayStore, CacheWarning
from transferkit.data.image_data import ImageData
from transferkit.errors import ConfigError, UnknownNameError
from transferkit.models.classifier import Classifier, create_classifier
from transferkit.models.freezing import freeze, stages, unfreeze
from transferkit.models.prefix_cache import Cache, machine_memory
from transferkit.training.trainer import Trainer

OPTIONS = {"lr": 0.02, "batch_size": 8, "progress": False, "device": "cpu"}


def trained(model, train, val, *, epochs=3, upto="head", **options):
    unfreeze(model, upto=upto)
    history = Trainer(model, **OPTIONS | options).fit(train, val, epochs=epochs)
    return model, history


def assert_close(a: torch.nn.Module, b: torch.nn.Module, tolerance: float = 1e-5) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance, msg=name)


@pytest.fixture
def calls(small, monkeypatch):
    """Counts the images that pass the preprocessing: one a cached image, however many epochs."""
    seen = []

    def build(seed: int = 0) -> Classifier:
        model = small(seed=seed)
        model.preprocess.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
        return model

    build.seen = seen
    return build


@pytest.fixture
def disk(tmp_path) -> Cache:
    return Cache(where="disk", folder=tmp_path / "cache")


def second_stage(model: Classifier) -> str:
    return stages(model)[1]


@pytest.mark.parametrize("place", ["head", "stage"])
@pytest.mark.parametrize("where", ["auto", "memory", "disk"])
def test_with_and_without_the_cache_are_the_same(small, train, val, tmp_path, where, place):
    upto = "head" if place == "head" else second_stage(small())
    cache = Cache(where=where, folder=tmp_path)
    cached, with_cache = trained(small(), train, val, upto=upto, cache=cache)
    plain, without = trained(small(), train, val, upto=upto, cache=None)
    assert_close(cached, plain)
    for a, b in zip(with_cache.records, without.records, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, abs=1e-5)
        assert a.val_loss == pytest.approx(b.val_loss, abs=1e-5)
        assert a.val_accuracy == b.val_accuracy


def test_each_image_is_encoded_once(calls, train, val):
    trained(calls(), train, val, epochs=5)
    assert sum(calls.seen) < 2 * (len(train) + len(val))


def test_without_a_cache_each_epoch_encodes(calls, train, val):
    trained(calls(), train, val, epochs=5, cache=None)
    assert sum(calls.seen) == 4 + 5 * (len(train) + len(val))  # 4 to check the folding


def test_augmentation_and_full_fine_tuning_are_not_cached(calls, train, val):
    trained(calls(), train, val, epochs=3, augment=lambda images: images)
    trained(calls(), train, val, epochs=3, upto=None)
    assert sum(calls.seen) == 4 + 2 * 3 * (len(train) + len(val))


def test_a_later_run_reads_the_disk(calls, train, val, disk):
    first, _ = trained(calls(), train, val, cache=disk)
    calls.seen.clear()
    second, _ = trained(calls(), train, val, cache=disk)
    assert sum(calls.seen) < 10
    assert_close(first, second, 0.0)


def test_other_weights_data_or_preprocessing_make_other_entries(small, train, val, disk):
    def entries() -> int:
        return len(disk.store().entries())

    trained(small(), train, None, cache=disk)
    assert entries() == 1
    trained(small(seed=1), train, None, cache=disk)
    assert entries() == 2
    trained(small(), val, None, cache=disk)
    assert entries() == 3
    pixels = train.images.copy()
    pixels[3, 2, 1, 0] ^= 1
    trained(small(), ImageData(pixels, train.labels, classes=train.classes), None, cache=disk)
    assert entries() == 4
    model = create_classifier("test-small", 2, weights=None, image_size=20, seed=0)
    trained(model, train, None, cache=disk)
    assert entries() == 5
    trained(small(), train, None, cache=disk, upto=second_stage(small()))
    assert entries() == 6
    trained(small(seed=7), train, None, cache=disk)
    trained(small(), train, None, cache=disk)
    assert entries() == 7


def test_unfreezing_between_epochs_makes_the_cache_anew(small, train, val):
    models = []
    for cache in ("memory", None):
        model = small()
        freeze(model)
        for epoch in Trainer(model, cache=cache, **OPTIONS).epochs(train, val, epochs=4):
            if epoch.epoch == 1:
                unfreeze(model, upto=second_stage(model))
            if epoch.epoch == 2:
                unfreeze(model)
        models.append(model)
    assert_close(*models)


def test_frozen_weights_written_between_epochs_are_seen(small, train):
    models = []
    for cache in ("memory", None):
        model = small()
        freeze(model)
        for _ in Trainer(model, cache=cache, **OPTIONS).epochs(train, epochs=3):
            with torch.no_grad():
                model.get_parameter("backbone.stem.0.weight").mul_(1.5)
        models.append(model)
    assert_close(*models)


def test_half_precision_is_close(small, train, val, disk):
    half = Cache(where="disk", folder=disk.folder, precision="float16")
    upto = second_stage(small())
    cached, _ = trained(small(), train, val, upto=upto, cache=half, optimizer="sgd")
    plain, _ = trained(small(), train, val, upto=upto, cache=None, optimizer="sgd")
    assert_close(cached, plain, 5e-3)
    assert sum(entry.size for entry in half.store().entries()) < 80 * 16 * 16 * 8 * 4


def test_a_budget_that_is_too_small(small, train, val, tmp_path):
    freeze(model := small())
    trainer = Trainer(model, cache=Cache(where="memory", memory=100), **OPTIONS)
    with pytest.raises(ConfigError, match="budget"):
        trainer.fit(train, val, epochs=1)
    spilling = Cache(memory=100, folder=tmp_path)
    trained(small(), train, val, cache=spilling)
    assert len(spilling.store().entries()) == 2


def test_a_full_disk_falls_back_and_leaves_nothing(small, train, val, disk, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    plain, _ = trained(small(), train, val, cache=None)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.warns(CacheWarning, match=r"No space left.*in memory instead"):
        kept, _ = trained(small(), train, val, cache=disk)
    nowhere = Cache(folder=disk.folder, memory=1)
    with pytest.warns(CacheWarning, match=r"No space left.*every epoch"):
        uncut, _ = trained(small(), train, val, cache=nowhere)
    assert_close(kept, plain)
    assert_close(uncut, plain)
    assert list(disk.store().folder.iterdir()) == []


def test_stopping_while_encoding_leaves_nothing(small, train, disk, monkeypatch):
    model = small()
    freeze(model)
    count = []

    def interrupt(*_: object) -> None:
        count.append(1)
        if sum(count) == 6:
            raise KeyboardInterrupt

    handle = model.preprocess.register_forward_hook(interrupt)
    big = train.subset(np.arange(400) % len(train))
    with pytest.raises(KeyboardInterrupt):
        Trainer(model, cache=disk, **OPTIONS).fit(big, epochs=1)
    handle.remove()
    assert list(disk.store().folder.iterdir()) == []
    assert not model.training


def test_a_damaged_entry_is_computed_again(small, train, val, disk):
    first, _ = trained(small(), train, val, cache=disk)
    for file in disk.store().folder.rglob("*.npy"):
        file.write_bytes(b"junk")
    second, _ = trained(small(), train, val, cache=disk)
    assert_close(first, second, 0.0)
    assert len(disk.store().entries()) == 2


def test_names_and_the_default_folder(small, monkeypatch, tmp_path):
    with pytest.raises(UnknownNameError, match="cache"):
        Trainer(small(), cache="dsik")
    with pytest.raises(UnknownNameError, match="precision"):
        Cache(precision="float8")
    monkeypatch.setenv("TRANSFERKIT_CACHE", str(tmp_path))
    assert isinstance(Cache().store(), ArrayStore)
    assert Cache().store().folder.is_relative_to(tmp_path)
    assert machine_memory() > 2**28
    assert Cache().memory_budget() <= machine_memory()
    for failing in (ValueError, OSError, AttributeError):
        monkeypatch.setattr(os, "sysconf", Mock(side_effect=failing))
        assert machine_memory() > 2**28
    monkeypatch.setattr(os, "sysconf", lambda _: -1)  # as where the system does not tell
    assert machine_memory() > 2**28
