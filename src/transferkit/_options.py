"""Options that callers give, checked: a wrong type or value is a ConfigError that names the option.

Values come in as ``object``, because who passes a text for a number does not run a type checker.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from math import isfinite
from numbers import Integral, Real
from pathlib import Path

from transferkit.errors import ConfigError


def is_number(value: object) -> bool:
    """Whether a value is a finite number (True and False are none)."""
    return not isinstance(value, bool) and isinstance(value, Real) and isfinite(value)


def check_whole(option: str, value: object, *, least: int = 0) -> None:
    """See that an option is a whole number, ``least`` or more.

    Raises:
        ConfigError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ConfigError(f"{option} must be a whole number, {least} or more, got {value!r}.")


def check_number(
    option: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """See that an option is a finite number within bounds.

    Args:
        option: Its name.
        value: What came.
        least: The smallest that is allowed.
        above: What it must exceed.
        most: The largest that is allowed.
        below: What it must stay below.

    Raises:
        ConfigError: It is not.
    """
    number = float(value) if isinstance(value, Real) else 0.0
    fits = (
        is_number(value)
        and (least is None or number >= least)
        and (above is None or number > above)
        and (most is None or number <= most)
        and (below is None or number < below)
    )
    if not fits:
        bounds = (("at least", least), ("above", above), ("at most", most), ("below", below))
        said = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        kind = f"a number {said}" if said else "a finite number"
        raise ConfigError(f"{option} must be {kind}, got {value!r}.")


def to_sides(option: str, value: object) -> tuple[int, int]:
    """Return the height and width that an option gives: two whole numbers from 1, or one for both.

    Raises:
        ConfigError: It gives something else.
    """
    sides = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(sides) != 2:
        raise ConfigError(f"{option} must be one side, or height and width, got {value!r}.")
    for side in sides:
        check_whole(option, side, least=1)
    return int(sides[0]), int(sides[1])


def check_text(option: str, value: object) -> None:
    """See that an option is a text.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{option} must be a text, got {value!r}.")


def check_among(option: str, value: object, known: Collection[object]) -> None:
    """See that an option is one of a few values.

    Raises:
        ConfigError: It is not.
    """
    if not any(type(value) is type(one) and value == one for one in known):
        raise ConfigError(f"{option} must be one of {tuple(known)}, got {value!r}.")


def check_sequence(option: str, value: object) -> None:
    """See that an option is a list or tuple, which a text is not.

    Raises:
        ConfigError: It is not.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{option} must be a list, got {value!r}.")


def to_path(option: str, value: object) -> Path:
    """Return the path that an option gives.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(value, str | os.PathLike) and os.fspath(value):
        return Path(value)
    raise ConfigError(f"{option} must be the path of a file or folder, got {value!r}.")
