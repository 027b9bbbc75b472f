"""Where the pixels of a split come from before they are one array: files, or arrays on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transferkit._typing import Int64Array, UInt8Array
from transferkit.data.arrays import drop_alpha, pixel_scale, rescale, to_channels_last
from transferkit.data.decode import decode, drop_equal_channels, probe
from transferkit.errors import DataError


class Source(Protocol):
    """N images that can be read one at a time."""

    @property
    def names(self) -> tuple[str, ...]:
        """N names."""

    @property
    def labels(self) -> Int64Array | None:
        """Class numbers (N,), or None where there are none."""

    def read(self, row: int) -> UInt8Array:
        """Return one image, (H, W) or (H, W, 3); DataError (why, not which) if damaged."""

    def size(self, row: int) -> tuple[int, int] | None:
        """Return an image's height and width, or None if it is damaged."""


@dataclass(frozen=True, slots=True, eq=False)
class FileSource:
    """Image files below one folder; ``names`` are their paths relative to it, with slashes."""

    root: Path
    names: tuple[str, ...]
    labels: Int64Array | None

    def read(self, row: int) -> UInt8Array:
        """Decode one file."""
        return decode(self.root / self.names[row])

    def size(self, row: int) -> tuple[int, int] | None:
        """Read one file's header."""
        return probe(self.root / self.names[row])


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    """Images of one or more arrays, which may be memory maps, one after the other.

    Attributes:
        arrays: Each (n, H, W, C), of any type whose scale is clear.
        scales: Factor from each array's values to 0..255.
        starts: Row at which each array begins, and the total at the end.
    """

    names: tuple[str, ...]
    labels: Int64Array | None
    arrays: tuple[NDArray[np.generic], ...]
    scales: tuple[float, ...]
    starts: Int64Array

    @classmethod
    def of(
        cls,
        arrays: Sequence[tuple[str, NDArray[np.generic]]],
        names: Sequence[str],
        labels: Int64Array | None,
    ) -> ArraySource:
        """Check layout and scale of named arrays.

        Raises:
            DataError: An array's layout or values cannot be understood; the message names it.
        """
        views, scales = [], []
        for title, array in arrays:
            try:
                view = to_channels_last(array)
                scales.append(pixel_scale(view))
            except DataError as error:
                raise DataError(f"{title}: {error}") from error
            views.append(view)
        starts = np.cumsum([0, *map(len, views)]).astype(np.int64)
        return cls(tuple(names), labels, tuple(views), tuple(scales), starts)

    def read(self, row: int) -> UInt8Array:
        """Convert one image."""
        which = int(np.searchsorted(self.starts, row, side="right")) - 1
        values = self.arrays[which][row - self.starts[which]]
        image = rescale(values, self.scales[which])
        return drop_equal_channels(drop_alpha(image))

    def size(self, row: int) -> tuple[int, int] | None:
        """Return the size of the array's images."""
        which = int(np.searchsorted(self.starts, row, side="right")) - 1
        height, width = self.arrays[which].shape[1:3]
        return height, width


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The rows of a source that make one split."""

    source: Source
    rows: Int64Array

    @classmethod
    def whole(cls, source: Source) -> Part:
        """Take all rows."""
        return cls(source, np.arange(len(source.names), dtype=np.int64))

    @property
    def labels(self) -> Int64Array | None:
        """Class numbers of the rows."""
        return None if self.source.labels is None else self.source.labels[self.rows]

    @property
    def names(self) -> list[str]:
        """Names of the rows."""
        return [self.source.names[row] for row in self.rows]

    def take(self, rows: Int64Array) -> Part:
        """Keep some of the rows, counted within this part."""
        return Part(self.source, self.rows[rows])
