"""The structure of a module: classes and settings of its parts, hooks, and shapes of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

_WITHOUT_EFFECT = frozenset({"training", "train", "grad_checkpointing", "statistics"})
"""Attributes that change no prediction: modes, which freezing sets, and copies of buffers."""

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def module_structure(module: nn.Module, prefix: str = "") -> dict[str, str]:
    """Everything but values that decides what a module computes, by dotted name."""
    found = {
        name: f"of shape {tuple(tensor.shape)}"
        for name, tensor in distinct_tensors(module, prefix).items()
    }
    for path, part in module.named_modules(prefix=prefix):
        stem = f"{path}." if path else ""
        found[path] = f"a {type(part).__module__}.{type(part).__qualname__}"
        for name, value in vars(part).items():
            if name.startswith("_") or name in _WITHOUT_EFFECT:
                continue
            if text := _setting(value):
                found[stem + name] = text
        for kind in _HOOKS:
            if hooks := getattr(part, kind):
                found[stem + kind] = ", ".join(map(_callable_name, hooks.values()))
    return found


def distinct_tensors(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and persistent buffers; one that has two names is under the first only."""
    found: dict[int, tuple[str, Tensor]] = {}
    stem = f"{prefix}." if prefix else ""
    for name, tensor in module.state_dict(prefix=stem, keep_vars=True).items():
        if isinstance(tensor, Tensor):
            found.setdefault(id(tensor), (name, tensor))
    return dict(found.values())


def differences(ours: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """The parts that are missing, unexpected or different, in the order of their names."""
    return sorted(
        [f"{name} is missing" for name in expected.keys() - ours.keys()]
        + [f"{name} is unexpected" for name in ours.keys() - expected.keys()]
        + [
            f"{name} is {ours[name]}, expected {expected[name]}"
            for name in ours.keys() & expected.keys()
            if ours[name] != expected[name]
        ]
    )


def _setting(value: object) -> str | None:
    """A setting as text; None for what is no setting, such as a cache, empty or full."""
    if isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, tuple | list):
        texts = [_setting(item) for item in value]
        return f"({', '.join(map(str, texts))})" if any(texts) else None
    return _callable_name(value) if callable(value) else None


def _callable_name(value: object) -> str:
    """The name of a function, a method or a class; of another callable, that of its class."""
    if isinstance(value, partial):
        return f"partial of {_callable_name(value.func)} {value.args} {value.keywords}"
    name = str(getattr(value, "__qualname__", type(value).__qualname__))
    # functions without a name of their own are told apart by their code, within this process
    code = getattr(value, "__code__", None)
    return f"{name} ({hash(code):x})" if code and name.endswith(">") else name
