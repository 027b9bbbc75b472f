"""Reading the pixels of listed images: decode in threads, bring to one size, store once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from tqdm import tqdm

from transferkit._typing import Int64Array, UInt8Array
from transferkit.data.arrays import chunks
from transferkit.data.dataset import ImageData, SkippedFile, Splits
from transferkit.data.decode import Resize, fit, luminance
from transferkit.data.source import Part
from transferkit.data.store import PixelStore, Room, Temporary
from transferkit.errors import DataError

Channels: TypeAlias = Literal["auto", 1, 3]
OnError: TypeAlias = Literal["raise", "skip"]
Keep: TypeAlias = Literal["auto", "disk"]

AT_ONCE = 16
"""Images that one worker reads before it hands them over."""

LARGEST = 256
"""The most pixels a side that mixed sizes are brought to unasked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How images are read; see ``load.load_splits``."""

    size: tuple[int, int] | None
    resize: Resize
    channels: Channels
    on_error: OnError
    workers: int
    memory_limit: int
    cache: Keep | None
    cache_folder: Path | None
    cache_limit: int
    progress: bool | None

    @property
    def temporary(self) -> Temporary:
        """Where pixels go that are not kept."""
        return Temporary(self.memory_limit, self.cache_folder)


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """The pixels of all images, and which of them make each split."""

    pixels: UInt8Array
    splits: Mapping[str, Filled]


def working_size(parts: Mapping[str, Part], options: Options) -> tuple[int, int]:
    """Return the height and width to store images at."""
    if options.size is not None:
        return options.size
    with ThreadPoolExecutor(options.workers) as pool:
        found = pool.map(lambda job: [job[0].source.size(row) for row in job[1]], jobs(parts))
        sizes = [size for chunk in found for size in chunk if size is not None]
    return common_size(sizes)


def jobs(parts: Mapping[str, Part]) -> Iterator[tuple[Part, list[int]]]:
    """Cut every part's rows into pieces of work."""
    for part in parts.values():
        for start in range(0, len(part.rows), AT_ONCE):
            yield part, part.rows[start : start + AT_ONCE].tolist()


def common_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the one size, or a square of the median side, ``LARGEST`` at most."""
    if len(set(sizes)) == 1:
        return sizes[0]
    side = min(LARGEST, int(np.median(sizes))) if sizes else 1
    return side, side


def read_parts(
    parts: Mapping[str, Part], size: tuple[int, int], options: Options, room: Room
) -> Read:
    """Read all pixels into one array, of which each split is a slice."""
    total = sum(len(part.rows) for part in parts.values())
    channels = 3 if options.channels == 3 else 1
    store = PixelStore(total, size, channels=channels, room=room)
    filled: dict[str, Filled] = {}
    hide = None if options.progress is None else not options.progress
    with (
        ThreadPoolExecutor(options.workers) as pool,
        tqdm(total=total, desc="reading images", unit="image", disable=hide) as bar,
    ):
        for name, part in parts.items():
            filled[name] = fill(store, size, part, options, pool, bar.update)
    return Read(store.array, filled)


def assemble(
    read: Read,
    classes: tuple[str, ...],
    grouping: Mapping[str, str] | None,
    options: Options,
) -> Splits:
    """Make the splits of their pixels."""
    return Splits(
        {
            name: collect(name, taken(read.pixels, own.where, options), own, classes, grouping)
            for name, own in read.splits.items()
        },
        skipped=[file for own in read.splits.values() for file in own.skipped],
    )


def taken(pixels: UInt8Array, where: slice | Int64Array, options: Options) -> UInt8Array:
    """Return some rows: without copying where they lie side by side."""
    if isinstance(where, slice):
        return pixels[where]
    images = options.temporary.reserve((len(where), *pixels.shape[1:]))
    for part in chunks(images):
        images[part] = pixels[where[part]]
    return images


@dataclass(frozen=True, slots=True, eq=False)
class Filled:
    """One split that was read: its rows of the pixels, images, sizes, and what was left out."""

    where: slice | Int64Array
    part: Part
    sizes: Int64Array
    skipped: tuple[SkippedFile, ...]


def fill(
    store: PixelStore,
    size: tuple[int, int],
    part: Part,
    options: Options,
    pool: ThreadPoolExecutor,
    advance: Callable[[], object],
) -> Filled:
    """Read one split into the store."""
    start = store.used
    rows: list[int] = []
    sizes: list[tuple[int, ...]] = []
    skipped: list[SkippedFile] = []
    for row, result in enumerate(read_rows(part, size, options, pool)):
        advance()
        if isinstance(result, DataError):
            name = part.source.names[part.rows[row]]
            skipped.append(leave_out(name, result, options.on_error))
            continue
        image, original = result
        store.append(image)
        rows.append(row)
        sizes.append(original)
    originals = np.array(sizes, np.int64).reshape(-1, 2)
    kept = part.take(np.array(rows, np.int64))
    return Filled(slice(start, store.used), kept, originals, tuple(skipped))


def leave_out(name: str, error: DataError, on_error: OnError) -> SkippedFile:
    """Note an unreadable file, or raise."""
    if on_error == "skip":
        return SkippedFile(name, str(error))
    raise DataError(
        f"Cannot read {name}: {error}. Repair or remove it, or load with on_error='skip' to leave "
        "such files out and have them listed."
    ) from error


Outcome: TypeAlias = tuple[UInt8Array, tuple[int, ...]] | DataError


def read_rows(
    part: Part, size: tuple[int, int], options: Options, pool: ThreadPoolExecutor
) -> Iterator[Outcome]:
    """Read a split's images in order, a bounded number ahead."""
    chunks = [rows for _, rows in jobs({"": part})]
    ahead = 2 * options.workers
    for start in range(0, len(chunks), ahead):
        window = chunks[start : start + ahead]
        for results in pool.map(
            lambda rows: [read(part, row, size, options) for row in rows], window
        ):
            yield from results


def read(part: Part, row: int, size: tuple[int, int], options: Options) -> Outcome:
    """Read one image and bring it to the working size; an error is returned, not raised."""
    try:
        image = part.source.read(row)
    except DataError as error:
        return error
    original = image.shape[:2]
    if options.channels == 1:
        image = luminance(image)
    return fit(image, size, options.resize), original


def collect(
    name: str,
    images: UInt8Array,
    own: Filled,
    classes: tuple[str, ...],
    grouping: Mapping[str, str] | None,
) -> ImageData:
    """Make one split of its pixels.

    Raises:
        DataError: So many files were left out that the split or one of its classes is empty.
    """
    names, labels = own.part.names, own.part.labels
    if not names:
        raise DataError(f"No image of the {name} split can be read: {own.skipped[0]}.")
    groups = None if grouping is None else [grouping[file] for file in names]
    data = ImageData(images, labels, classes=classes, names=names, sizes=own.sizes, groups=groups)
    if labels is not None and own.skipped and data.class_counts().min() == 0:
        title = classes[int(data.class_counts().argmin())]
        raise DataError(f"No image of the class {title} in the {name} split can be read.")
    return data
