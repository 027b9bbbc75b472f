"""Arrays on disk under the key of what they were computed from: written whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from transferkit.data.draft import Draft, Stored, count_bytes
from transferkit.errors import OutputError

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
