"""Arrays on disk: kept for later runs under a key, or for one process only."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from transferkit._typing import UInt8Array
from transferkit.errors import OutputError

Stored: TypeAlias = NDArray[np.generic]

KINDS = {"boundary": "activations", "images": "decoded images"}
"""Folders below the cache folder, and their contents."""

_FOLDER_VARIABLE = "TRANSFERKIT_CACHE"
_PREFIX = "arrays-"
_ABANDONED = 24 * 3600
"""Seconds after which an unfinished entry belongs to a process that was killed."""


class CacheWarning(UserWarning):
    """The cache cannot be used as asked; work goes on without it."""


def default_folder() -> Path:
    """Return the cache folder: ``$TRANSFERKIT_CACHE``, else one in the user's cache folder."""
    chosen = os.environ.get(_FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transferkit"
    except RuntimeError:  # a user without a home, as some containers have
        return Path(tempfile.gettempdir()) / "transferkit"


class Entry(NamedTuple):
    """One key of a store: its size in bytes, and when it was last used (seconds of the epoch)."""

    key: str
    size: int
    used: float


@dataclass(frozen=True, slots=True)
class ArrayStore:
    """A folder with one subfolder of ``.npy`` files per key, within ``limit`` bytes.

    Several processes may share it: an entry is written beside its place and then renamed.
    """

    folder: Path
    limit: int

    def entries(self) -> tuple[Entry, ...]:
        """Return all entries, the least recently used first."""
        found = []
        for path in self.folder.glob(f"{_PREFIX}*/"):
            with suppress(FileNotFoundError):  # another process removes it at this moment
                size = sum(file.stat().st_size for file in path.glob("*.npy"))
                found.append(Entry(path.name.removeprefix(_PREFIX), size, path.stat().st_mtime))
        return tuple(sorted(found, key=lambda entry: entry.used))

    def get(self, key: str) -> tuple[Stored, ...] | None:
        """Return the arrays of ``key`` as memory maps, or None; an unreadable entry is removed."""
        path = self._place(key)
        files = sorted(path.glob("*.npy"), key=lambda file: int(file.stem))
        if not files:
            return None
        try:
            # copy-on-write: the file never changes, and torch takes the array without a warning
            arrays = tuple(np.load(file, mmap_mode="c", allow_pickle=False) for file in files)
        except (OSError, ValueError):
            self.remove(key)
            return None
        with suppress(OSError):  # a folder that can only be read keeps its times
            os.utime(path)
        return arrays

    def remove(self, key: str) -> None:
        """Remove one entry at once and whole, so that no reader finds a part of it."""
        path, aside = self._place(key), self._unfinished(key)
        with suppress(OSError):
            path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def clear(self) -> None:
        """Remove all entries, also unfinished ones."""
        for path in (*self.folder.glob(f"{_PREFIX}*/"), *self._all_unfinished()):
            shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def adding(self, key: str) -> Iterator[NewEntry]:
        """Yield a new entry, stored under ``key`` if the block ends well, else removed."""
        entry, place = NewEntry(self._unfinished(key), self.make_room), self._place(key)
        try:
            entry.folder.mkdir(parents=True)
            yield entry
            for array in entry.arrays:
                array.flush()  # a power cut must not leave an entry of zeros
            try:
                entry.folder.rename(place)
            except OSError:
                if not place.is_dir():  # else another process was first
                    raise
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(
                f"Cannot keep {entry.size / 1e6:.0f} MB in the cache {self.folder}: "
                f"{error.strerror or error}. Free some room or set {_FOLDER_VARIABLE}."
            ) from error
        finally:
            shutil.rmtree(entry.folder, ignore_errors=True)

    def make_room(self, needed: int) -> None:
        """Remove the least recently used entries until there is room for ``needed`` bytes."""
        if needed > self.limit:
            raise OutputError(
                f"{needed / 1e6:.0f} MB exceed the cache's limit of {self.limit / 1e6:.0f} MB."
            )
        for path in self._all_unfinished():
            with suppress(OSError):  # another process may finish it right now
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    shutil.rmtree(path, ignore_errors=True)
        held = self.entries()
        excess = needed + sum(entry.size for entry in held) - self.limit
        for entry in held:
            if excess <= 0:
                return
            self.remove(entry.key)
            excess -= entry.size

    def _place(self, key: str) -> Path:
        return self.folder / f"{_PREFIX}{key}"

    def _unfinished(self, key: str) -> Path:
        """Return a new path for an entry being written or removed."""
        return self.folder / f".{_PREFIX}{key}.{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def _all_unfinished(self) -> Iterator[Path]:
        return self.folder.glob(f".{_PREFIX}*/")


class NewEntry:
    """An entry that is being written: numbered ``.npy`` files, each of its full size at once."""

    def __init__(self, folder: Path, make_room: Callable[[int], None]) -> None:
        self.folder = folder
        self.make_room = make_room
        self.arrays: list[np.memmap[tuple[int, ...], np.dtype[np.generic]]] = []

    @property
    def size(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays)

    def add(self, shape: tuple[int, ...], dtype: DTypeLike) -> Stored:
        """Return one more array, to be filled; OSError where the disk has no room."""
        self.make_room(self.size + count_bytes(shape, dtype))
        array = map_new_file(self.folder / f"{len(self.arrays)}.npy", shape, np.dtype(dtype))
        self.arrays.append(array)
        return array

    def restart(self) -> None:
        """Remove the arrays so far from the entry; their mappings stay readable."""
        for number in range(len(self.arrays)):
            (self.folder / f"{number}.npy").unlink()
        self.arrays.clear()


def stores_below(folder: Path) -> dict[str, ArrayStore]:
    """Return the stores of a cache folder by their contents, to list or to clear."""
    below = {kind: ArrayStore(folder / name, limit=0) for name, kind in KINDS.items()}
    return {**below, "other": ArrayStore(folder, limit=0)}


def temporary_pixels(shape: tuple[int, ...], *, limit: int, folder: Path | None) -> UInt8Array:
    """Return a new array, above ``limit`` bytes in a file that is removed with the array."""
    size = count_bytes(shape, np.uint8)
    if size <= limit:
        return np.empty(shape, np.uint8)
    place = Path(folder or tempfile.gettempdir())
    try:
        place.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="transferkit-", suffix=".npy", dir=place)
        os.close(handle)
    except OSError as error:
        raise OutputError(f"Cannot write decoded images to {place}: {error}.") from error
    try:
        array = map_new_file(Path(name), shape, np.dtype(np.uint8))
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise OutputError(
            f"No room for {size / 2**30:.2f} GiB of decoded images in {place}: {error}. "
            "Give a smaller image_size, or another folder as cache_folder."
        ) from error
    remove_with(array, Path(name))
    return cast(UInt8Array, array)


def map_new_file(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic]
) -> np.memmap[tuple[int, ...], np.dtype[np.generic]]:
    """Make an ``.npy`` file of the full size and map it; OSError where the disk has no room."""
    array: np.memmap[tuple[int, ...], np.dtype[np.generic]]
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    # A mapped file is sparse at first. If the disk is full when its pages are written, the kernel
    # kills the process (SIGBUS) and Python has nothing to catch; allocated now, it is an OSError.
    end, zeros = path.stat().st_size, bytes(1 << 20)
    with path.open("r+b", buffering=0) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, end)
            return array
        file.seek(array.offset)
        for place in range(array.offset, end, len(zeros)):
            file.write(zeros[: end - place])
    return array


def remove_with(array: Stored, path: Path) -> None:
    """Remove the file: at once where an open mapping survives that (POSIX), else with the array."""
    try:
        path.unlink()
    except PermissionError:
        weakref.finalize(array, path.unlink, missing_ok=True)


def count_bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    """Return the bytes of an array."""
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
