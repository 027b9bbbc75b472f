"""The options of training: one list of names, types, defaults and explanations."""

from __future__ import annotations

import copy
import inspect
import math
import re
from dataclasses import fields
from typing import get_type_hints

import pytest
from torch import nn
from torchvision.transforms import v2

import transferkit as tk
from transferkit.training.options import Options, TrainOptions, plain_option

OWN = {"lr", "restore_best"}


def documented(thing: object) -> dict[str, str]:
    """The entries of the first list in a docstring, by name."""
    text = inspect.getdoc(thing) or ""
    block = re.search(r"(?:Args|Attributes):\n(.*?)\n\n", text, re.DOTALL)
    assert block is not None
    entries = re.split(r"\n    (?=\w+: )", f"\n{block[1]}")[1:]
    return {name: " ".join(said.split()) for name, said in (e.split(": ", 1) for e in entries)}


def test_the_names_and_types_are_the_same_in_both():
    options = get_type_hints(Options)
    assert {n: kind for n, kind in options.items() if n not in OWN} == get_type_hints(TrainOptions)


def test_the_trainer_documents_each_option_with_its_default():
    entries = documented(tk.Trainer)
    entries.pop("model")
    assert list(entries) == [one.name for one in fields(Options)]
    for one in fields(Options):
        default = f'"{one.default}"' if isinstance(one.default, str) else repr(one.default)
        assert entries[one.name].endswith(f"Default: {default}."), one.name


def test_the_defaults_of_the_trainers_own_keywords():
    defaults = {one.name: one.default for one in fields(Options)}
    assert tk.Trainer.__init__.__kwdefaults__ == {name: defaults[name] for name in OWN}


def test_a_strategy_documents_each_field():
    assert list(documented(tk.Strategy)) == [one.name for one in fields(tk.Strategy)]


INVALID = {
    "optimizer": ["adm", None, ["adamw"], 3],
    "weight_decay": [-1, "a", math.nan, True],
    "momentum": [1, -0.1, "a", None],
    "layer_decay": [0, math.inf, "a", None],
    "scheduler": ["cosin", 3, None],
    "warmup": [-1, 1.5, "a", None, math.nan],
    "batch_size": [0, 2.5, "32", None, True],
    "label_smoothing": [1, -0.1, "a", None],
    "class_weights": [
        "even",
        [1, -1],
        [0, 0],
        {0: 1.0, 1: 2.0},
        {1.0, 2.0},
        [1],
        3,
        ["a", "b"],
        [],
    ],
    "clip_norm": [0, -1, "a", math.nan],
    "accumulate": [0, 1.5, "a", None],
    "precision": ["float16", None, 16],
    "augment": ["flip", 3, True, lambda images: None, lambda images: images[:1]],
    "monitor": ["accuracy", None, 3],
    "patience": [0, 1.5, "a"],
    "device": ["nowhere", 3.5, ["cpu"], "cuda:99"],
    "seed": [-1, 0.5, "a", None],
    "progress": ["yes", 2],
    "cache": ["ram", 3, True],
    "compiled": ["yes", None, 2],
    "checkpoint": [3, ""],
}


def test_every_option_has_an_invalid_value():
    assert INVALID.keys() == TrainOptions.__annotations__.keys()


@pytest.mark.parametrize(
    ("option", "value"), [(name, value) for name, values in INVALID.items() for value in values]
)
def test_an_invalid_value_ends_in_an_error_of_ours(small, train, val, option, value):
    """At construction or when the run starts, and never as a foreign traceback."""
    with pytest.raises(tk.TransferkitError) as caught:
        tk.Trainer(small(), **{"progress": False, option: value}).fit(train, val, epochs=1)
    assert option in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (v2.RandomRotation([-10, 10]), v2.RandomRotation([-20, 20])),
        (
            v2.Compose([v2.RandomApply([v2.Grayscale()], p=0.3)]),
            v2.Compose([v2.RandomApply([v2.Grayscale()], p=0.7)]),
        ),
        (
            nn.Sequential(v2.RandomApply([v2.Grayscale()], p=0.3)),
            nn.Sequential(v2.RandomApply([v2.Grayscale()], p=0.7)),
        ),
        (tk.Augment(rotation=10), tk.Augment(rotation=20)),
    ],
)
def test_augmentations_of_other_settings_have_other_texts(one: object, other: object) -> None:
    texts = [plain_option(copy.deepcopy(one)), plain_option(one), plain_option(other)]
    assert texts[0] == texts[1] != texts[2]
