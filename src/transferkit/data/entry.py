"""What is kept of a decoded folder: its pixels, and whose they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from transferkit._typing import Int64Array, UInt8Array
from transferkit.data.draft import Draft, Stored
from transferkit.data.read import Filled, OnError, leave_out
from transferkit.data.source import Part
from transferkit.errors import DataError


def describe(draft: Draft, splits: Sequence[Filled]) -> None:
    """Add to the pixels what else is known of each image, and of those left out."""
    sizes = np.concatenate([np.zeros((1, 2), np.int64), *(own.sizes for own in splits)])
    names = [name for own in splits for name in own.part.names]
    skipped = {file.path: file.reason for own in splits for file in own.skipped}
    text = np.frombuffer(json.dumps({"names": names, "skipped": skipped}).encode(), np.uint8)
    for values in (sizes, text):
        draft.claim(values.shape, values.dtype)[:] = values


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """What is kept of a folder.

    Attributes:
        pixels: Images in the order in which they were read; rows at the end may be empty.
        sizes: Original height and width of each image.
        rows: Row of each image by name.
        skipped: Why a file was left out, by name.
    """

    pixels: UInt8Array
    sizes: Int64Array
    rows: Mapping[str, int]
    skipped: Mapping[str, str]

    @classmethod
    def of(cls, arrays: Sequence[Stored]) -> Entry:
        """Read the arrays of an entry.

        Raises:
            ValueError: They are not what was written.
        """
        pixels, sizes, text = arrays
        told = json.loads(text.tobytes())
        names: list[str] = told["names"]
        fits = pixels.ndim == 4 and pixels.dtype == np.uint8 and len(pixels) >= len(names)
        if not fits or sizes.shape != (len(names) + 1, 2):
            raise ValueError("an entry of another shape")
        rows = {name: row for row, name in enumerate(names)}
        numbers = sizes[1:].astype(np.int64)
        return cls(cast(UInt8Array, pixels), numbers, rows, told["skipped"])

    def part(self, part: Part, on_error: OnError) -> Filled:
        """Find the images of one split.

        Raises:
            DataError: One could not be read, and that is an error.
        """
        names = part.names
        skipped = [
            leave_out(name, DataError(self.skipped[name]), on_error)
            for name in names
            if name in self.skipped
        ]
        there = [place for place, name in enumerate(names) if name in self.rows]
        rows = np.array([self.rows[names[place]] for place in there], np.int64)
        kept = part.take(np.array(there, np.int64))
        return Filled(side_by_side(rows), kept, self.sizes[rows], tuple(skipped))


def side_by_side(rows: Int64Array) -> slice | Int64Array:
    """Return rows that follow each other as a slice."""
    if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return slice(int(rows[0]), int(rows[0]) + len(rows))
    return rows
