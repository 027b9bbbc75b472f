"""How errors are worded, and what `**` may stand for: one style over the whole library."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

import transferkit as tk

SRC = Path(tk.__file__).parent
TREES = {p.relative_to(SRC): ast.parse(p.read_text("utf-8")) for p in sorted(SRC.rglob("*.py"))}
ERRORS = {
    name
    for module in ("transferkit.errors", "transferkit.audit.report")
    for name in vars(importlib.import_module(module))
    if name.endswith("Error")
}
# A message may begin with the name of an option, as it is written in code.
OPTIONS = {
    node.arg if isinstance(node, ast.arg) else node.target.id
    for tree in TREES.values()
    for node in ast.walk(tree)
    if isinstance(node, ast.arg)
    or (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name))
}
PLACEHOLDER = "\0"


def text_of(node: ast.expr) -> str | None:
    """The literal text of a message, with a placeholder for each value put into it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or PLACEHOLDER for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (text_of(node.left) or PLACEHOLDER) + (text_of(node.right) or PLACEHOLDER)
    return None


def messages() -> list[tuple[str, str]]:
    found = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                text = text_of(node.args[0])
                if node.func.id in ERRORS and text:
                    found.append((f"{path}:{node.lineno}", text))
    return found


def begins_well(text: str) -> bool:
    word = text.replace("=", " ").replace(",", " ").split(" ")[0]
    return text[0].isupper() or text[0] == PLACEHOLDER or word in OPTIONS or word[:2] == "--"


MESSAGES = messages()


def test_there_are_messages_to_look_at() -> None:
    assert len(MESSAGES) > 150


@pytest.mark.parametrize(("place", "text"), MESSAGES, ids=[place for place, _ in MESSAGES])
def test_a_message_is_a_sentence(place: str, text: str) -> None:
    shown = text.replace(PLACEHOLDER, "{}")
    assert begins_well(text), f"{place}: {shown!r} begins neither with a capital nor an option"
    assert text[-1] in ".?" or text[-1] == PLACEHOLDER, f"{place}: {shown!r} has no full stop"


def public_callables() -> dict[str, Callable[..., object]]:
    found: dict[str, Callable[..., object]] = {}
    for name in tk.__all__:
        thing = getattr(tk, name)
        if inspect.isclass(thing):
            methods = {k: v for k, v in vars(thing).items() if inspect.isfunction(v)}
            found |= {f"{name}.{k}": v for k, v in methods.items() if k[0] != "_"}
            found |= {f"{name}.{k}": v for k, v in methods.items() if k == "__init__"}
        elif callable(thing):
            found[name] = thing
    return found


@pytest.mark.parametrize("name", public_callables())
def test_keywords_are_collected_by_type_only(name: str) -> None:
    parameters = inspect.signature(public_callables()[name]).parameters.values()
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            assert str(parameter.annotation).startswith("Unpack["), f"{name}(**{parameter.name})"
