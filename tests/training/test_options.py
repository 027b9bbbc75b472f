"""The options of training: one list of names, types, defaults and explanations."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import get_type_hints

import transferkit as tk
from transferkit.training.options import Options, TrainOptions

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
