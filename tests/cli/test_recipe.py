"""The options of ``transferkit train``: every field of a Strategy, every option of the Trainer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import Result

import transferkit as tk
from transferkit.cli.recipe import OPTIONS, STRATEGY, documented, help_text, metavar, parsed
from transferkit.workflows import strategies

Run = Callable[..., Result]


def test_every_field_and_every_option_is_there(run: Run) -> None:
    own = {one.name for one in fields(tk.Strategy)} - {"method", "name", "options"}
    every = own | tk.TrainOptions.__annotations__.keys()
    assert {*OPTIONS, "augment", "checkpoint"} == every  # checkpoint is --resume
    shown = run("train", "--help").output
    for name in (*OPTIONS, "augment", "strategy", "resume"):
        assert f"--{name.replace('_', '-')}" in shown


def test_the_help_is_that_of_the_docstring() -> None:
    entry = documented("training/trainer.py", "Trainer")["warmup"]
    assert help_text(entry).startswith("Linear warm-up: a float is a share of the run")
    assert help_text(entry).endswith("[default: 0.0]")
    assert help_text("an :class:`~transferkit.Augment`, ``None``") == "an Augment, none"


def test_the_help_says_what_a_shell_can_type(run: Run) -> None:
    shown = " ".join(run("train", "--help").output.split())
    for python in (" None", "True", "False", "In Python", "->", "Cache(", "Default:"):
        assert python not in shown
    for choices in ("[adamw|adam|sgd]", "[minibatch|lbfgs]", "[auto|memory|disk|none]"):
        assert choices in shown
    for name, entry in OPTIONS.items():
        for choice in metavar(name, entry).strip("[]").split("|"):
            value = parsed(choice)
            known = {"STAGE", "STAGES", "NUMBER", "NUMBERS", "DEVICE"}
            if choice not in known and name not in STRATEGY:
                tk.Strategy("fine_tune", options={name: value})  # raises if it is none


def test_the_help_needs_no_torch() -> None:
    program = (
        "import sys\nfrom transferkit.cli import main\n"
        "main(['train', '--help'], standalone_mode=False)\n"
        "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("none", None),
        ("True", True),
        ("layer4", "layer4"),
        ("features.12", "features.12"),
        ("0.5, 2", [0.5, 2]),
        ("head,layer4", ["head", "layer4"]),
    ],
)
def test_values(text: str, value: object) -> None:
    assert parsed(text) == value
    assert type(parsed(text)) is type(value)


@pytest.fixture
def typed(run: Run, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Type options of train; returns the result and the strategy that was run."""
    seen: list[tk.Strategy] = []
    real = strategies.run

    def watched(strategy, model, splits):
        seen.append(strategy)
        return real(strategy, model, splits)

    monkeypatch.setattr(strategies, "run", watched)

    def invoke(*more: object) -> tuple[Result, tk.Strategy | None]:
        options = ("--backbone", "squeezenet1_1", "--weights", "none", "--image-size", 32)
        result = run("train", data_file, *options, "--device", "cpu", "--out", tmp_path, *more)
        return result, seen[-1] if seen else None

    return invoke


def test_options_reach_the_strategy(typed) -> None:
    result, strategy = typed(
        "--strategy", "lp_ft", "--probe-epochs", 1, "--epochs", 1, "--upto", "features.12",
        "--weight-decay", 0.1, "--class-weights", "1,2.5", "--label-smoothing", "0.1",
        "--patience", 3, "--seed", 5, "--augment", "--cache", "none",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert strategy == tk.Strategy(
        "lp_ft",
        probe_epochs=1,
        epochs=1,
        upto="features.12",
        options={
            "weight_decay": 0.1,
            "class_weights": [1, 2.5],
            "label_smoothing": 0.1,
            "patience": 3,
            "seed": 5,
            "augment": tk.Augment(),
            "cache": None,
            "device": "cpu",
        },
    )


@pytest.mark.parametrize("method", ["gradual_unfreeze", "interpolate", "from_scratch"])
def test_the_other_strategies(typed, method: str) -> None:
    more = ("--probe-epochs", 1) if method == "interpolate" else ()
    result, strategy = typed("--strategy", method, "--epochs", 2, *more)
    assert result.exit_code == 0, result.output
    assert strategy is not None
    assert strategy.method == method


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--batch-size", "many"), "batch_size must be a whole number"),
        (("--optimizer", "adm"), "'adam'"),
        (("--strategy", "lpft"), "'lp_ft'"),
        (("--epochs", 0), "epochs of 'linear_probe' must be"),
        (("--upto", "features.12"), "linear_probe does not use upto"),
        (("--strategy", "from_scratch", "--steps", 3), "from_scratch does not use steps"),
        (("--seed", "a"), "seed must be a whole number"),
    ],
)
def test_values_are_checked_by_the_library(typed, options, says: str) -> None:
    result, strategy = typed(*options)
    assert result.exit_code == 2
    assert says in result.output
    assert strategy is None
