"""Runs that are broken off and resumed: exact, or refused."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torchvision.transforms import v2

import transferkit as tk
from transferkit.errors import ConfigError, DataError, OutputError, TrainingError
from transferkit.models.freezing import freeze, unfreeze
from transferkit.training.checkpoint import TrainState
from transferkit.training.options import Options
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


def test_a_state_after_unfreezing_has_the_best_weights_whole(small, train, val, tmp_path):
    """The best epoch trained the head only, and the next one will train everything."""
    model, options = small(), {**OPTIONS, "scheduler": "constant", "lr": 0.05}
    freeze(model)
    trainer = Trainer(model, **options)
    trainer.fit(train, val, epochs=3)
    unfreeze(model)
    trainer.state.save(tmp_path / "state.safetensors")

    other = small(seed=99)
    resumed = Trainer(other, **options)
    resumed.resume(tmp_path / "state.safetensors")
    assert equal(model, other)
    trainer.fit(train, val, epochs=5)
    resumed.fit(train, val, epochs=5)
    assert equal(model, other)
    assert all(
        torch.equal(trainer.state.weights[n], resumed.state.weights[n]) for n in model.state_dict()
    )


def test_a_state_after_freezing(small, train, val, tmp_path):
    model = small()
    trainer = Trainer(model, **OPTIONS)
    trainer.fit(train, val, epochs=3)
    freeze(model)
    trainer.state.save(tmp_path / "state.safetensors")

    other = small(seed=99)
    resumed = Trainer(other, **OPTIONS)
    resumed.resume(tmp_path / "state.safetensors")
    assert equal(model, other)
    trainer.fit(train, val, epochs=5)
    resumed.fit(train, val, epochs=5)
    assert equal(model, other)


def test_a_state_has_the_weights_that_were_loaded_last(small, train, val):
    model, other = small(), small(seed=99)
    trainer = Trainer(model, **OPTIONS)
    trainer.fit(train, val, epochs=2)
    model.load_state_dict(small(seed=7).state_dict())
    state = trainer.state
    assert all(torch.equal(t, state.weights[n]) for n, t in small(seed=7).state_dict().items())
    resumed = Trainer(other, **OPTIONS)
    resumed.resume(state)
    trainer.fit(train, val, epochs=4)
    resumed.fit(train, val, epochs=4)
    assert equal(model, other)


def test_a_new_head_of_the_same_shape_between_two_fits(small, train, val):
    model = small()
    trainer = Trainer(model, **OPTIONS)
    trainer.fit(train, val, epochs=2)
    model.head = torch.nn.Linear(model.head.in_features, model.head.out_features)
    trainer.fit(train, val, epochs=4)
    held = {p for group in trainer._run.optimizer.param_groups for p in group["params"]}
    assert held == set(model.parameters())


def test_a_state_asked_for_within_an_epoch_is_that_of_the_last_whole_one(small, train, val):
    model, states, last = small(), [], None

    def look(images):
        states.append(trainer.state)
        if len(states) == last:
            raise KeyboardInterrupt
        return images

    trainer = Trainer(model, **OPTIONS, augment=look, restore_best=False)
    run = trainer.epochs(train, val, epochs=3)
    next(run)
    last = len(states) + 3  # the second batch of the second epoch is past
    after = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert all(torch.equal(tensor, after[n]) for n, tensor in states[-1].weights.items())
    assert all(torch.equal(tensor, after[n]) for n, tensor in model.state_dict().items())


def test_a_finished_state_gives_back_its_best_model(small, train, val, tmp_path):
    model, other = small(), small(seed=99)
    trainer = Trainer(model, **{**OPTIONS, "lr": 0.3})
    trainer.fit(train, val, epochs=6)
    trainer.state.save(tmp_path / "state.safetensors")
    Trainer(other, **{**OPTIONS, "lr": 0.3}).resume(tmp_path / "state.safetensors")
    assert equal(model, other)
    assert not other.training


CHANGED = {
    "lr": 0.5,
    "optimizer": "sgd",
    "weight_decay": 0.3,
    "momentum": 0.5,
    "layer_decay": 0.5,
    "scheduler": "constant",
    "warmup": 1,
    "batch_size": 16,
    "label_smoothing": 0.25,
    "class_weights": [1.0, 2.0],
    "clip_norm": 0.1,
    "accumulate": 2,
    "precision": "bfloat16",
    "augment": tk.Augment(),
    "monitor": "val_loss",
    "seed": 77,
}
HARMLESS = {
    "restore_best": False,
    "patience": 40,
    "device": torch.device("cpu"),
    "progress": None,
    "cache": None,
    "compiled": False,
    "checkpoint": None,
}


def test_the_options_are_all_tried():
    assert CHANGED.keys() | HARMLESS.keys() == {one.name for one in fields(Options)}


@pytest.mark.parametrize("option", CHANGED)
def test_an_option_that_changes_the_numbers_is_refused_by_name(small, train, tmp_path, option):
    trainer = Trainer(small(), **OPTIONS)
    trainer.fit(train, epochs=1)
    trainer.state.save(tmp_path / "state.safetensors")
    model = small(seed=99)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = Trainer(model, **OPTIONS | {option: CHANGED[option]})
    with pytest.raises(TrainingError, match=f"made with {option}="):
        other.resume(tmp_path / "state.safetensors")
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())
    assert len(other.history) == 0


@pytest.mark.parametrize("option", HARMLESS)
def test_an_option_that_changes_no_number_may_differ(small, train, val, tmp_path, option):
    whole, second = small(), small(seed=99)
    Trainer(whole, **OPTIONS).fit(train, val, epochs=3)
    trainer = Trainer(small(), **OPTIONS)
    for _ in trainer.epochs(train, val, epochs=3):
        break
    trainer.state.save(tmp_path / "state.safetensors")
    resumed = Trainer(second, **OPTIONS | {option: HARMLESS[option]})
    resumed.resume(tmp_path / "state.safetensors")
    resumed.fit(train, val, epochs=3)
    if option != "restore_best":
        assert equal(whole, second)


def test_what_a_cache_changes_is_refused(small, train):
    trainer = Trainer(small(), **OPTIONS)
    trainer.fit(train, epochs=1)
    other = Trainer(small(), **OPTIONS, cache=tk.Cache(precision="float16"))
    with pytest.raises(TrainingError, match=r"cache\.precision"):
        other.resume(trainer.state)


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


def test_a_state_of_other_classes_is_refused(small, train):
    trainer = Trainer(small(), **OPTIONS)
    trainer.fit(train, epochs=1)
    state = trainer.state
    swapped, unnamed = small(seed=99), small(seed=99)
    swapped.classes = ("c1", "c0")
    before = {name: tensor.clone() for name, tensor in swapped.state_dict().items()}
    with pytest.raises(TrainingError, match=r"Create the model with classes=\['c0', 'c1'\]"):
        Trainer(swapped, **OPTIONS).resume(state)
    assert all(torch.equal(tensor, before[n]) for n, tensor in swapped.state_dict().items())
    Trainer(unnamed, **OPTIONS).resume(state)
    assert unnamed.classes == ("c0", "c1")


def test_another_number_of_images_is_refused(small, train, tmp_path):
    """The schedule counts steps: with half the images it would end, and the rate be 0."""
    trainer = Trainer(small(), **OPTIONS)
    for _ in trainer.epochs(train, epochs=3):
        break
    trainer.state.save(tmp_path / "state.safetensors")
    resumed = Trainer(small(), **OPTIONS)
    resumed.resume(tmp_path / "state.safetensors")
    for one in (trainer, resumed):
        with pytest.raises(DataError, match="had 50 training images, and the train split has 20"):
            one.fit(train.subset(range(20)), epochs=3)
        assert one.fit(train, epochs=3).records[-1].step == 3 * 7


@dataclass
class Decay:
    """A schedule whose repr shows its settings."""

    rate: float

    def __call__(self, step: int, total: int) -> float:
        return self.rate**step

    def method(self, step: int, total: int) -> float:
        return self.rate**step


class Nameless:
    """A schedule whose repr is an address."""

    def __call__(self, step: int, total: int) -> float:
        return 1.0


def decay(step: int, total: int, rate: float) -> float:
    return rate**step


@pytest.mark.parametrize(
    ("ours", "same", "other"),
    [
        (Decay(0.5), Decay(0.5), Decay(0.25)),
        (Decay(0.5).method, Decay(0.5).method, Decay(0.25).method),
        (partial(decay, rate=0.5), partial(decay, rate=0.5), partial(decay, rate=0.25)),
        (partial(max, 0.5), partial(max, 0.5), partial(max, 0.25)),
        (partial(max, 0.5), partial(max, 0.5), partial(min, 0.5)),
    ],
)
def test_functions_are_compared_by_their_settings(small, train, ours, same, other):
    trainer = Trainer(small(), scheduler=ours, **OPTIONS)
    trainer.fit(train, epochs=1)
    Trainer(small(), scheduler=same, **OPTIONS).resume(trainer.state)
    with pytest.raises(TrainingError, match="made with scheduler="):
        Trainer(small(), scheduler=other, **OPTIONS).resume(trainer.state)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("scheduler", lambda step, total: 1.0),
        ("scheduler", partial(lambda rate, step, total: rate, 1.0)),
        ("scheduler", Nameless()),
        ("scheduler", Nameless().__call__),
        ("augment", lambda images: images),
        ("augment", v2.Compose([v2.Lambda(lambda images: images)])),
    ],
)
def test_what_cannot_be_compared_is_refused(small, train, option, value):
    trainer = Trainer(small(), **{option: value}, **OPTIONS)
    trainer.fit(train, epochs=1)
    other = Trainer(small(), **{option: value}, **OPTIONS)
    with pytest.raises(TrainingError, match=f"{option}=.* cannot be compared.* of a module, or"):
        other.resume(trainer.state)


def test_a_state_that_is_no_path(small):
    trainer = Trainer(small(), **OPTIONS)
    for nothing in (None, 3, ""):
        with pytest.raises(ConfigError, match="path must be the path of a file"):
            trainer.resume(nothing)
        with pytest.raises(ConfigError, match="path must be the path of a file"):
            trainer.state.save(nothing)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_another_dtype_between_two_fits_is_refused(small, train, optimizer):
    model = small()
    trainer = Trainer(model, optimizer=optimizer, **OPTIONS)
    trainer.fit(train, epochs=1)
    model.double()
    with pytest.raises(TrainingError, match=r"another shape or dtype.* Make a new Trainer"):
        trainer.fit(train, epochs=2)
    model.float()
    assert len(trainer.fit(train, epochs=2)) == 2
