"""Reading the pixels of listed images: decode in threads, bring to one size, store once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from transferkit._typing import Int64Array, UInt8Array
from transferkit.data.array_conversion import (
    chunks,
    drop_alpha,
    pixel_scale,
    rescale,
    to_channels_last,
)
from transferkit.data.disk_cache import PixelStore, Room, Temporary
from transferkit.data.image_data import ImageData, SkippedFile, Splits
from transferkit.data.image_decoding import (
    Resize,
    decode,
    drop_equal_channels,
    fit,
    luminance,
    probe,
)
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
