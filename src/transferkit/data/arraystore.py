"""Arrays on disk under the key of what they were computed from: written whole, or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from transferkit.errors import OutputError

Stored: TypeAlias = NDArray[np.generic]

_FOLDER_VARIABLE = "TRANSFERKIT_CACHE"
_MARK = "arrays-"


def default_folder() -> Path:
    """The cache folder: ``$TRANSFERKIT_CACHE``, else ``transferkit`` in the user's cache folder."""
    chosen = os.environ.get(_FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transferkit"


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
        return tuple(sorted(found, key=lambda entry: entry.used))

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
            os.utime(path)
        except (OSError, ValueError):
            self.remove(key)
            return None
        return arrays

    def remove(self, key: str) -> None:
        """Forget one entry."""
        shutil.rmtree(self._place(key), ignore_errors=True)

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
        needed = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes)
        self._make_room(needed)
        draft = self.folder / f".{_MARK}{key}.{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            draft.mkdir(parents=True)
            yield tuple(
                _claim(draft / f"{place}.npy", shape, np.dtype(dtype))
                for place, (shape, dtype) in enumerate(shapes)
            )
            with suppress(FileExistsError):
                _move(draft, self._place(key))
        except OSError as error:
            raise OutputError(
                f"Cannot keep {needed / 1e6:.0f} MB in the cache {self.folder}: "
                f"{error.strerror or error}. Free some room or set {_FOLDER_VARIABLE}."
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _place(self, key: str) -> Path:
        return self.folder / f"{_MARK}{key}"

    def _make_room(self, needed: int) -> None:
        if needed > self.limit:
            raise OutputError(
                f"{needed / 1e6:.0f} MB exceed the cache's limit of {self.limit / 1e6:.0f} MB."
            )
        held = self.entries()
        excess = needed + sum(entry.size for entry in held) - self.limit
        for entry in held:
            if excess <= 0:
                return
            self.remove(entry.key)
            excess -= entry.size


def _is_entry(path: Path) -> bool:
    return path.is_dir() and path.name.startswith(_MARK)


def _is_draft(path: Path) -> bool:
    return path.is_dir() and path.name.startswith(f".{_MARK}")


def _entry(path: Path) -> Entry:
    sizes = [file.stat().st_size for file in path.glob("*.npy")]
    return Entry(path.name.removeprefix(_MARK), sum(sizes), path.stat().st_mtime)


def _claim(path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Stored:
    """Make an ``.npy`` file of the full size and map it.

    The blocks are claimed from the file system here: to run out of them later, under a memory map,
    would kill the process.
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


def _move(draft: Path, final: Path) -> None:
    try:
        draft.rename(final)
    except OSError as error:
        if not final.is_dir():
            raise
        raise FileExistsError(final) from error
