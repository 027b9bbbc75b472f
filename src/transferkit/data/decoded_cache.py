"""Decoded folders on disk: what one run has decoded, later runs map."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import cast

import numpy as np
import PIL

from transferkit._typing import Int64Array, UInt8Array
from transferkit.data.disk_cache import (
    ArrayStore,
    CacheWarning,
    Draft,
    Stored,
    Temporary,
    default_folder,
)
from transferkit.data.image_decoding import VERSION
from transferkit.data.pixel_reader import (
    FileSource,
    Filled,
    OnError,
    Options,
    Part,
    Read,
    leave_out,
    read_parts,
    working_size,
)
from transferkit.errors import DataError, OutputError


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


WORTH_KEEPING = 32 << 20
"""Bytes of image files from which ``"auto"`` keeps them decoded: decoding takes seconds."""

LAYOUT = 1
"""To be raised when entries are laid out in another way."""

SAMPLES = 16
"""Files whose first bytes are part of the key, for archives that set all times alike."""

SAMPLE_BYTES = 1 << 16


def read_or_map(parts: Mapping[str, Part], options: Options) -> Read:
    """Map the pixels that an earlier run kept, or read them, and keep them where it pays.

    Raises:
        DataError: An image cannot be read, and that is an error.
        OutputError: No room for a temporary file.
    """
    paths = image_paths(parts)
    if options.cache is None or not paths:
        return read_parts(parts, working_size(parts, options), options, options.temporary)
    key, total = mark(paths, options)
    store = ArrayStore(options.cache_folder or default_folder() / "images", options.cache_limit)
    found = look_up(store, key, parts, options)
    if found is not None:
        return found
    size, room = working_size(parts, options), options.temporary
    if options.cache == "disk" or pays(total, len(paths), size, options):
        try:
            return keep(store, key, parts, size, options)
        except OutputError as error:
            said = f"{error} The images are decoded, but not kept for the next run."
            warnings.warn(said, CacheWarning, stacklevel=3)
            room = Temporary(options.memory_limit)  # not where there was no room just now
    return read_parts(parts, size, options, room)


def image_paths(parts: Mapping[str, Part]) -> dict[str, Path]:
    """Return the files of all parts by name; none where pixels come from arrays."""
    return {
        name: part.source.root / name
        for part in parts.values()
        if isinstance(part.source, FileSource)
        for name in part.names
    }


def mark(paths: Mapping[str, Path], options: Options) -> tuple[str, int]:
    """Return the key of what these files become, and their bytes in all.

    It is made of every file's name, size and time of change, the first bytes of some, the options
    that change pixels, and the versions of what decodes. The split that a file is in is not part
    of it, nor is the folder's own place: another seed, or a copy that keeps the times, finds it.
    """
    digest = hashlib.blake2b(digest_size=16)
    settings = (LAYOUT, VERSION, PIL.__version__, options.size, options.resize, options.channels)
    digest.update(repr(settings).encode())
    names, total = sorted(paths), 0
    for name in names:
        size, changed = stamp(paths[name])
        total += size
        digest.update(f"{name}\0{size}\0{changed}\n".encode(errors="surrogateescape"))
    for place in np.linspace(0, len(names) - 1, SAMPLES).astype(int):
        digest.update(first_bytes(paths[names[place]]))
    return digest.hexdigest(), total


def stamp(path: Path) -> tuple[int, int]:
    """Return a file's size and time of change in ns; zeros if it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def first_bytes(path: Path) -> bytes:
    """Read the beginning of a file; nothing if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(SAMPLE_BYTES)
    except OSError:
        return b""


def pays(total: int, count: int, size: tuple[int, int], options: Options) -> bool:
    """Say whether keeping saves seconds, or whether the pixels need a file in any case."""
    channels = 3 if options.channels == 3 else 1
    return total > WORTH_KEEPING or prod((count, *size, channels)) > options.memory_limit


@dataclass(frozen=True, slots=True)
class DraftRoom:
    """Room in an entry that is being written."""

    draft: Draft

    def reserve(self, shape: tuple[int, ...]) -> UInt8Array:
        """Claim one more array on the disk."""
        return cast(UInt8Array, self.draft.claim(shape, np.uint8))

    def release(self, array: UInt8Array) -> None:
        """Take an array out of the entry."""
        self.draft.drop(array)


def keep(
    store: ArrayStore,
    key: str,
    parts: Mapping[str, Part],
    size: tuple[int, int],
    options: Options,
) -> Read:
    """Read all images straight into a new entry of the store, and map it.

    Raises:
        OutputError: There is no room for it, or it cannot be written.
    """
    with store.drafting(key) as draft:
        read = read_parts(parts, size, options, DraftRoom(draft))
        describe(draft, list(read.splits.values()))
    found = look_up(store, key, parts, options)
    if found is None:
        raise OutputError(f"The cache {store.folder} lost what was written to it.")
    return found


def look_up(
    store: ArrayStore, key: str, parts: Mapping[str, Part], options: Options
) -> Read | None:
    """Map the entry of this key; None where there is none, or a damaged one, which goes.

    Raises:
        DataError: An image could not be read, and that is an error.
    """
    arrays = store.get(key)
    if arrays is None:
        return None
    try:
        entry = Entry.of(arrays)
    except (ValueError, KeyError, TypeError):
        store.remove(key)
        return None
    splits = {name: entry.part(part, options.on_error) for name, part in parts.items()}
    return Read(entry.pixels, splits)
