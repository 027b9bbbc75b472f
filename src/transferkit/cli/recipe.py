"""Command-line options for every field of a Strategy and every option of the Trainer.

Names and help come from the docstrings of the two classes, and values are checked by the library.
The docstrings are read from the source, because importing the classes would import torch.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import click

from transferkit.cli.options import Command

if TYPE_CHECKING:
    from transferkit.workflows.strategy import Strategy

Value: TypeAlias = "bool | int | float | str | list[Value] | None"

_PACKAGE = Path(__file__).parents[1]
_NO_OPTION = ("method", "name", "options", "model", "restore_best", "augment", "checkpoint")
_OTHER_NAMES = {"upto": ("--unfreeze",)}
_KINDS = {
    "upto": "STAGE",
    "steps": "NUMBER|STAGES",
    "class_weights": "[balanced|NUMBERS]",
    "device": "DEVICE",
    "progress": "[true|false|none]",
    "cache": "[auto|memory|disk|none]",
    "compiled": "[true|false]",
}
_WORDS = {"none": None, "true": True, "false": False}


def documented(file: str, name: str) -> dict[str, str]:
    """The entries of the first list (Args or Attributes) of a class's docstring, by name."""
    tree = ast.parse((_PACKAGE / file).read_text(encoding="utf-8"))
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    block = re.search(
        r"(?:Args|Attributes):\n(.*?)\n\n", ast.get_docstring(next(classes)) or "", re.S
    )
    entries = re.split(r"\n    (?=\w+: )", "\n" + (block[1] if block else ""))[1:]
    return {name: " ".join(text.split()) for name, text in (e.split(": ", 1) for e in entries)}


STRATEGY = documented("workflows/strategy.py", "Strategy")
TRAINER = documented("training/trainer.py", "Trainer")
OPTIONS = {
    name: STRATEGY.get(name) or TRAINER[name]
    for name in (*STRATEGY, *TRAINER)
    if name not in _NO_OPTION
}


def help_text(entry: str) -> str:
    """A docstring entry as a shell needs it: plain text, and nothing that only Python can pass."""
    shell = re.sub(r" ?In Python.*?(?= Default:|$)", "", entry)
    plain = re.sub(r":\w+:`~?(?:transferkit\.)?([^`]*)`", r"\1", shell).replace("``", "")
    words = re.sub(r"\b(None|True|False)\b", lambda found: found[0].lower(), plain)
    return re.sub(r'Default: "?(.*?)"?\.$', r"[default: \1]", words)


def metavar(name: str, entry: str) -> str:
    """What stands for an option's value in the help: its choices, or the kind of value."""
    choices = re.findall(r'``"(\w+)"``', entry)
    return _KINDS.get(name) or (f"[{'|'.join(choices)}]" if choices else "NUMBER")


def parsed(text: str) -> Value:
    """A number, a text, none, true or false; with commas a list of them."""
    if "," in text:
        return [parsed(part.strip()) for part in text.split(",")]
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def recipe_options(command: Command) -> Command:
    """Add an option for each field of a Strategy and each option of the Trainer."""
    for name, entry in reversed(OPTIONS.items()):
        command = click.option(
            f"--{name.replace('_', '-')}",
            *_OTHER_NAMES.get(name, ()),
            name,
            expose_value=False,
            callback=_collect,
            metavar=metavar(name, entry),
            help=help_text(entry),
        )(command)
    return command


def _collect(context: click.Context, option: click.Parameter, text: str | None) -> None:
    """Collect the options of the command line; the others keep the library's defaults."""
    if text is not None:
        context.meta.setdefault(__name__, {})[option.name] = parsed(text)


def typed_strategy(
    context: click.Context, method: str, *, augment: bool, checkpoint: Path | None
) -> Strategy:
    """The strategy that the options of the command line describe."""
    from transferkit.data.augment import Augment
    from transferkit.workflows.strategy import Strategy

    typed: dict[str, Any] = context.meta.get(__name__, {})
    fields = {name: value for name, value in typed.items() if name in STRATEGY}
    options: dict[str, Any] = {n: value for n, value in typed.items() if n not in STRATEGY}
    if augment:
        options["augment"] = Augment()
    if checkpoint is not None:
        options["checkpoint"] = checkpoint
    return Strategy(cast(Any, method), **fields, options=cast(Any, options))
