from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from transferkit.errors import OutputError, TrainingError
from transferkit.models.freezing import freeze
from transferkit.training.checkpoint import TrainState
from transferkit.training.trainer import Trainer

OPTIONS = {"lr": 0.05, "batch_size": 8, "warmup": 3, "progress": False, "device": "cpu"}


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("frozen", [False, True])
def test_two_and_two_epochs_are_four_bit_for_bit(small, train, val, tmp_path, optimizer, frozen):
    whole, first, second = small(), small(), small(seed=99)
    if frozen:
        freeze(whole)
        freeze(first)
    history = Trainer(whole, optimizer=optimizer, **OPTIONS).fit(train, val, epochs=4)

    trainer = Trainer(first, optimizer=optimizer, **OPTIONS)
    for epoch in trainer.epochs(train, val, epochs=4):
        if epoch.epoch == 2:
            break
    trainer.state.save(tmp_path / "state.safetensors")

    resumed = Trainer(second, optimizer=optimizer, **OPTIONS)
    resumed.resume(tmp_path / "state.safetensors")
    again = resumed.fit(train, val, epochs=4)
    assert equal(whole, second)
    for ours, theirs in zip(again.records, history.records, strict=True):
        assert ours.val_loss == theirs.val_loss
        assert ours.train_loss == theirs.train_loss
        assert ours.step == theirs.step
        assert ours.lr == theirs.lr


def test_going_on_in_the_same_trainer_is_exact(small, train, val):
    whole, broken = small(), small()
    Trainer(whole, **OPTIONS).fit(train, val, epochs=5)
    trainer = Trainer(broken, **OPTIONS)
    for until in (1, 3, 9):
        for epoch in trainer.epochs(train, val, epochs=5):
            if epoch.epoch == until:
                break
    assert equal(whole, broken)


def test_the_state_saved_within_the_loop(small, train, tmp_path):
    whole, second = small(), small()
    trainer = Trainer(whole, **OPTIONS)
    for epoch in trainer.epochs(train, epochs=3):
        if epoch.epoch == 1:
            trainer.state.save(tmp_path / "state.safetensors")
    resumed = Trainer(second, **OPTIONS)
    resumed.resume(TrainState.load(tmp_path / "state.safetensors"))
    resumed.fit(train, epochs=3)
    assert equal(whole, second)


def test_a_state_of_other_things_is_refused(small, plain, train, tmp_path):
    trainer = Trainer(small(), **OPTIONS)
    trainer.fit(train, epochs=1)
    state = trainer.state
    with pytest.raises(TrainingError, match="another model"):
        Trainer(plain(), **OPTIONS).resume(state)
    with pytest.raises(TrainingError, match="seed"):
        Trainer(small(), seed=4, **OPTIONS).resume(state)
    with pytest.raises(TrainingError, match="monitor"):
        Trainer(small(), monitor="val_loss", **OPTIONS).resume(state)


def test_files_that_are_no_state(tmp_path):
    with pytest.raises(TrainingError, match="no training state"):
        TrainState.load(tmp_path / "missing.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(TrainingError, match="does not hold"):
        TrainState.load(tmp_path / "junk.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(TrainingError, match="does not hold"):
        TrainState.load(tmp_path / "weights.safetensors")
    facts = {"transferkit training state": '{"format": 99}'}
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors", metadata=facts)
    with pytest.raises(TrainingError, match="format 99"):
        TrainState.load(tmp_path / "other.safetensors")


def test_saving_into_a_missing_folder(small, tmp_path):
    with pytest.raises(OutputError):
        Trainer(small(), **OPTIONS).state.save(tmp_path / "no" / "state.safetensors")
