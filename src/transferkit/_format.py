"""Results as text, CSV and JSON: tables, percentages, intervals, plain values."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line formats its help without NumPy
    from _typeshed import DataclassInstance

    from transferkit._typing import JSON


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Align ``rows`` under ``header``: the first ``left`` columns flush left, the rest right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        pairs = enumerate(zip(cells, widths, strict=True))
        return "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in pairs).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])


def printable(text: str) -> str:
    """The text with control characters, which file names may hold, as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of formatted cells.

    Attributes:
        title: Title, the caption in HTML.
        header: K column titles.
        rows: Rows of K cells.
        left: How many leading columns are flush left; the rest are flush right.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1

    def text(self) -> str:
        """Aligned columns for a terminal."""
        return table(self.header, self.rows, left=self.left)

    def markdown(self) -> str:
        """A pipe table, as GitHub and Sphinx read it."""
        alignment = tuple(":--" if i < self.left else "--:" for i in range(len(self.header)))

        def line(cells: tuple[str, ...]) -> str:
            one_line = (cell.replace("|", r"\|").replace("\n", " ") for cell in cells)
            escaped = (escape(cell, quote=False) for cell in one_line)
            return f"| {' | '.join(escaped)} |"

        return "\n".join(map(line, (self.header, alignment, *self.rows)))

    def html(self) -> str:
        """A ``<table>`` with every cell escaped; columns that are flush left have the class l."""

        def line(cells: tuple[str, ...], tag: str) -> str:
            opened = (
                f"<{tag} class=l>" if i < self.left else f"<{tag}>" for i in range(len(cells))
            )
            filled = (f"{o}{escape(c)}</{tag}>" for o, c in zip(opened, cells, strict=True))
            return f"<tr>{''.join(filled)}</tr>"

        body = "\n".join(line(row, "td") for row in self.rows)
        return (
            f"<table><caption>{escape(self.title)}</caption>\n"
            f"<thead>{line(self.header, 'th')}</thead>\n<tbody>\n{body}\n</tbody></table>"
        )


def percent(value: float | None, *, digits: int = 1) -> str:
    """Format a share in [0, 1] as a percentage: ``0.8125`` is ``"81.2 %"``, None a dash."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None) -> str:
    """Format a number with four decimals, None as a dash."""
    return "-" if value is None else f"{value:.4f}"


def percent_interval(value: float, interval: tuple[float, float], *, digits: int = 1) -> str:
    """Format a share with its interval: ``"81.2 % [77.1, 84.8]"``."""
    low, high = interval
    return f"{percent(value, digits=digits)} [{100 * low:.{digits}f}, {100 * high:.{digits}f}]"


def csv_text(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table as CSV; a text that begins as a formula gets an apostrophe before it (OWASP)."""

    def cell(value: object) -> object:
        if not isinstance(value, str):
            return value
        shown = printable(value)
        return f"'{shown}" if re.match(r"[=+\-@].", shown) else shown

    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([cell(value) for value in row] for row in (header, *rows))
    return file.getvalue()


def plain(value: object) -> JSON:
    """Turn results, arrays, sequences, mappings and NumPy numbers into values for JSON.

    NaN and infinity, which JSON does not have, become None.
    """
    if callable(to_dict := getattr(value, "to_dict", None)):
        return plain(to_dict())
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
    raise TypeError(f"{type(value).__name__} has no form in JSON.")


def plain_fields(result: DataclassInstance, *, without: Collection[str] = ()) -> dict[str, JSON]:
    """The fields of a dataclass as values for JSON, except those named in ``without``."""
    names = [field.name for field in fields(result) if field.name not in without]
    return {name: plain(getattr(result, name)) for name in names}


class PlainResult:
    """Base of the dataclasses whose JSON form is that of their fields."""

    __slots__ = ()

    def to_dict(self: DataclassInstance) -> dict[str, JSON]:
        """Return the fields as JSON-ready values; NaN and infinity are None."""
        return plain_fields(self)


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
