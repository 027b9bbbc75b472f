"""Arrays on disk under the key of what they were computed from: written whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from transferkit._typing import UInt8Array
from transferkit.errors import OutputError

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


KINDS = {"boundary": "activations", "images": "decoded images"}
"""Folders below the cache folder, and what is in them."""

_FOLDER_VARIABLE = "TRANSFERKIT_CACHE"
_MARK = "arrays-"
_ABANDONED = 24 * 3600
"""Seconds after which a draft belongs to a process that was killed."""


def default_folder() -> Path:
    """The cache folder: ``$TRANSFERKIT_CACHE``, else ``transferkit`` in the user's cache folder.

    A user without a home, as some containers have, gets one in the system's temporary folder.
    """
    chosen = os.environ.get(_FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transferkit"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "transferkit"


class CacheWarning(UserWarning):
    """The cache cannot be used as asked; work goes on without it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a store: its size in bytes, and when it was last used (seconds of the epoch)."""

    key: str
    size: int
    used: float


@dataclass(frozen=True, slots=True)
class ArrayStore:
    """A folder with one subfolder a key, each holding one or more ``.npy`` files.

    Several processes may share a folder: an entry is written beside its place and moved there
    whole, and the first to finish wins.

    Attributes:
        folder: Where the entries are; made on the first write.
        limit: Bytes that all entries may take together; the least recently used give way.
    """

    folder: Path
    limit: int

    def entries(self) -> tuple[Entry, ...]:
        """What is stored, the least recently used first."""
        if not self.folder.is_dir():
            return ()
        found = [_entry(path) for path in self.folder.iterdir() if _is_entry(path)]
        there = [entry for entry in found if entry is not None]
        return tuple(sorted(there, key=lambda entry: entry.used))

    def size(self) -> int:
        """Bytes in use."""
        return sum(entry.size for entry in self.entries())

    def get(self, key: str) -> tuple[Stored, ...] | None:
        """The arrays stored under ``key`` as memory maps, or None; what cannot be read goes."""
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
        """Forget one entry: at once and whole, so that no reader finds a part of it."""
        path, aside = self._place(key), self._aside(key)
        with suppress(OSError):
            path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def clear(self) -> int:
        """Forget everything, also what a killed process left; return the bytes freed."""
        freed = self.size()
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if _is_entry(path) or _is_draft(path):
                    shutil.rmtree(path, ignore_errors=True)
        return freed

    @contextmanager
    def writing(
        self, key: str, shapes: Sequence[tuple[tuple[int, ...], DTypeLike]]
    ) -> Iterator[tuple[Stored, ...]]:
        """Yield arrays to fill; when the block ends well they are stored under ``key``.

        The room is claimed first, so a full disk is found before anything is computed. A block
        that fails leaves nothing behind.

        Args:
            key: A file name.
            shapes: Shape and type of each array.

        Raises:
            OutputError: The disk is full or cannot be written, or the arrays exceed the limit.
        """
        self.make_room(sum(count_bytes(shape, dtype) for shape, dtype in shapes))
        with self.drafting(key) as draft:
            yield tuple(draft.claim(shape, dtype) for shape, dtype in shapes)

    @contextmanager
    def drafting(self, key: str) -> Iterator[Draft]:
        """Yield an empty entry that takes arrays one by one, for shapes not known beforehand.

        Args:
            key: A file name, under which the entry is stored when the block ends well.

        Raises:
            OutputError: The disk is full or cannot be written, or the arrays exceed the limit.
        """
        draft = Draft(self._aside(key), self.make_room)
        try:
            draft.folder.mkdir(parents=True)
            yield draft
            draft.flush()
            with suppress(FileExistsError):
                _move(draft.folder, self._place(key))
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(
                f"Cannot keep {draft.size / 1e6:.0f} MB in the cache {self.folder}: "
                f"{error.strerror or error}. Free some room or set {_FOLDER_VARIABLE}."
            ) from error
        finally:
            shutil.rmtree(draft.folder, ignore_errors=True)

    def make_room(self, needed: int) -> None:
        """Let the least recently used give way until ``needed`` bytes keep within the limit.

        Raises:
            OutputError: They exceed the limit by themselves.
        """
        if needed > self.limit:
            raise OutputError(
                f"{needed / 1e6:.0f} MB exceed the cache's limit of {self.limit / 1e6:.0f} MB."
            )
        self._sweep()
        held = self.entries()
        excess = needed + sum(entry.size for entry in held) - self.limit
        for entry in held:
            if excess <= 0:
                return
            self.remove(entry.key)
            excess -= entry.size

    def _place(self, key: str) -> Path:
        return self.folder / f"{_MARK}{key}"

    def _aside(self, key: str) -> Path:
        """A place of its own for what is not an entry yet, or not any more."""
        return self.folder / f".{_MARK}{key}.{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def _sweep(self) -> None:
        """Remove drafts that killed processes left."""
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            with suppress(OSError):  # another process may end its draft right now
                if _is_draft(path) and time.time() - path.stat().st_mtime > _ABANDONED:
                    shutil.rmtree(path, ignore_errors=True)


def stores_below(folder: Path) -> dict[str, ArrayStore]:
    """The stores of a cache folder by what is in them, to look at or to clear."""
    below = {said: ArrayStore(folder / name, limit=0) for name, said in KINDS.items()}
    return {**below, "other": ArrayStore(folder, limit=0)}


def _is_entry(path: Path) -> bool:
    return path.is_dir() and path.name.startswith(_MARK)


def _is_draft(path: Path) -> bool:
    return path.is_dir() and path.name.startswith(f".{_MARK}")


def _entry(path: Path) -> Entry | None:
    """What is known of an entry; None if another process removes it at this moment."""
    try:
        sizes = [file.stat().st_size for file in path.glob("*.npy")]
        return Entry(path.name.removeprefix(_MARK), sum(sizes), path.stat().st_mtime)
    except FileNotFoundError:
        return None


def _move(draft: Path, final: Path) -> None:
    try:
        draft.rename(final)
    except OSError as error:
        if not final.is_dir():
            raise
        raise FileExistsError(final) from error


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
