"""Results as text: one table format for the terminal and one for numbers with intervals."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line formats its help without NumPy
    from transferkit._typing import JSON


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Lay out ``rows`` under ``header`` in aligned columns.

    Args:
        header: Column titles, K of them.
        rows: Rows of K cells, already formatted.
        left: How many leading columns are flush left; the rest are flush right.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        pairs = enumerate(zip(cells, widths, strict=True))
        return "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in pairs).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])


def percent(value: float, *, digits: int = 1) -> str:
    """Format a share in [0, 1] as a percentage: ``0.8125`` is ``"81.2 %"``."""
    return f"{100 * value:.{digits}f} %"


def percent_interval(value: float, interval: tuple[float, float], *, digits: int = 1) -> str:
    """Format a share with its interval: ``"81.2 % [77.1, 84.8]"``."""
    low, high = interval
    return f"{percent(value, digits=digits)} [{100 * low:.{digits}f}, {100 * high:.{digits}f}]"


def plain(value: object) -> JSON:
    """Turn arrays, tuples, mappings and NumPy numbers into lists, dicts and Python numbers.

    What is not finite has no place in JSON and becomes None.

    Raises:
        TypeError: A value with no plain form.
    """
    if callable(tolist := getattr(value, "tolist", None)):  # NumPy arrays and numbers
        return plain(tolist())
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    raise TypeError(f"No plain form for {type(value).__name__}.")


def describe(value: object) -> str:
    """Name a value in an error message: its type and shape, or the path that it is."""
    if value is None:
        return "None"
    if isinstance(value, str | os.PathLike):
        return f"the path {os.fspath(value)!r}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value).__name__
    shape = getattr(value, "shape", None)
    return f"a value of type {kind}" + (f" and shape {tuple(shape)}" if shape is not None else "")
