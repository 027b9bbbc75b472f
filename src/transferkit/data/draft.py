"""An entry of the array store while it is being written."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

Stored: TypeAlias = NDArray[np.generic]


@dataclass(slots=True, eq=False)
class Draft:
    """A folder that takes ``.npy`` files one by one, each of its full size from the start.

    Attributes:
        folder: Where it is.
        make_room: Told the bytes of the whole entry before it grows to that; may refuse.
        size: Bytes claimed so far.
    """

    folder: Path
    make_room: Callable[[int], None]
    size: int = 0
    _arrays: dict[Path, Stored] = field(default_factory=dict)
    _next: int = 0

    def claim(self, shape: tuple[int, ...], dtype: DTypeLike) -> Stored:
        """Make room for one more array, and return it to be filled.

        Raises:
            OutputError: ``make_room`` refuses.
            OSError: There is no room on the disk, or it cannot be written.
        """
        needed = count_bytes(shape, dtype)
        self.make_room(self.size + needed)
        self.size += needed
        path = self.folder / f"{self._next}.npy"
        self._arrays[path] = claimed(path, shape, np.dtype(dtype))
        self._next += 1
        return self._arrays[path]

    def drop(self, array: Stored) -> None:
        """Leave out an array that was claimed before; what it holds can still be read."""
        path = next(path for path, held in self._arrays.items() if held is array)
        path.unlink()
        del self._arrays[path]
        self.size -= array.nbytes

    def flush(self) -> None:
        """Write what is in memory only: a power cut must not leave an entry of zeros."""
        for array in self._arrays.values():
            if isinstance(array, np.memmap):
                array.flush()


def count_bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    """Bytes of an array."""
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def claimed(path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Stored:
    """Make an ``.npy`` file of the full size and map it.

    The blocks are claimed from the file system here: to run out of them later, under a memory map,
    would kill the process.

    Raises:
        OSError: There is no room for it, or it cannot be written.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    size = path.stat().st_size
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            _fill(file.fileno(), array.offset, size)
    return array


def _fill(handle: int, start: int, end: int) -> None:
    block = bytes(1 << 20)
    os.lseek(handle, start, os.SEEK_SET)
    for place in range(start, end, len(block)):
        os.write(handle, block[: end - place])
