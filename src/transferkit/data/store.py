"""Where decoded pixels go: an array in memory, or a memory-mapped file where they are many."""

from __future__ import annotations

import os
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from transferkit._typing import UInt8Array
from transferkit.errors import OutputError


class Room(Protocol):
    """Where arrays of pixels come from."""

    def reserve(self, shape: tuple[int, ...]) -> UInt8Array:
        """Return an array of ``shape`` to be filled."""

    def release(self, array: UInt8Array) -> None:
        """Take back an array that is not needed any more."""


@dataclass(frozen=True, slots=True)
class Temporary:
    """Room in memory, or beyond ``limit`` bytes in a temporary file, which goes with the array.

    Attributes:
        limit: Bytes above which a file is used.
        folder: Where the file lies; the system's folder for temporary files if None.
    """

    limit: int
    folder: Path | None = None

    def reserve(self, shape: tuple[int, ...]) -> UInt8Array:
        """Return an array of ``shape``, in memory or in a file.

        Raises:
            OutputError: There is no room for the file.
        """
        if int(np.prod(shape, dtype=np.int64)) <= self.limit:
            return np.empty(shape, np.uint8)
        return temporary_memmap(shape, self.folder)

    def release(self, array: UInt8Array) -> None:
        """Do nothing: the room is free when the array is not used any more."""


class PixelStore:
    """A uint8 array (N, H, W, C) that is filled image by image.

    It starts with one channel and goes over to three when the first coloured image comes, so that
    grey data never take three times the room.
    """

    def __init__(self, capacity: int, size: tuple[int, int], *, channels: int, room: Room) -> None:
        """Reserve the room.

        Args:
            capacity: The most images that may come.
            size: Their height and width.
            channels: 1 to start with grey, or 3.
            room: Where the array comes from.

        Raises:
            OutputError: There is no room.
        """
        self.room = room
        self.used = 0
        self.array = room.reserve((capacity, *size, channels))

    def append(self, image: UInt8Array) -> None:
        """Add one image, (H, W) or (H, W, 3)."""
        if image.ndim == 3 and self.array.shape[3] == 1:
            self.widen()
        self.array[self.used] = image if image.ndim == 3 else image[..., None]
        self.used += 1

    def widen(self) -> None:
        """Go over from one channel to three."""
        capacity, height, width, _ = self.array.shape
        grey, wide = self.array, self.room.reserve((capacity, height, width, 3))
        for row in range(self.used):
            wide[row] = grey[row]
        self.array = wide
        self.room.release(grey)


def temporary_memmap(shape: tuple[int, ...], folder: Path | None) -> UInt8Array:
    """Map a new temporary file of exactly this size, whose room on disk is reserved first.

    Without the reservation a full disk would kill the process at the first write that finds no
    room, instead of raising an error.

    Raises:
        OutputError: The file cannot be made or there is no room for it.
    """
    count = int(np.prod(shape, dtype=np.int64))
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="transferkit-", suffix=".pixels", dir=folder)
    except OSError as error:
        raise OutputError(f"Cannot write decoded images to {folder}: {error}.") from error
    try:
        allocate(handle, count)
        array = np.memmap(name, np.uint8, mode="r+", shape=shape)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise OutputError(
            f"No room for {count / 2**30:.2f} GiB of decoded images in {Path(name).parent}: "
            f"{error}. Give a smaller image_size, or another folder as cache_folder."
        ) from error
    finally:
        os.close(handle)
    remove_with(array, Path(name))
    return array


def allocate(handle: int, count: int) -> None:
    """Give a file ``count`` bytes that are really there, where the system can promise it."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, count)
    else:
        os.truncate(handle, count)


def remove_with(array: UInt8Array, path: Path) -> None:
    """Remove the file: at once where an open mapping survives that (POSIX), else with the array."""
    try:
        path.unlink()
    except PermissionError:
        weakref.finalize(array, path.unlink, missing_ok=True)
