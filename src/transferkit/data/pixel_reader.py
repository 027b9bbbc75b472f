"""Reading listed images: decode in threads, bring to one size, store once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from tqdm import tqdm

from transferkit._typing import Int64Array, UInt8Array
from transferkit._validation import check_among, check_whole
from transferkit.data.disk_cache import temporary_pixels
from transferkit.data.image_decoding import Resize, fit, luminance, quiet_pillow, widen
from transferkit.data.listing import Part, Source
from transferkit.data.value_range import BITS
from transferkit.errors import DataError

Channels: TypeAlias = Literal["auto", 1, 3, 4]
OnError: TypeAlias = Literal["raise", "skip"]
CacheChoice: TypeAlias = Literal["auto", "disk"]
Reserve: TypeAlias = Callable[[tuple[int, ...]], UInt8Array]
"""Makes a new array of a given shape, to be filled."""

T = TypeVar("T")

CHUNK = 16
"""Images that one worker reads before it hands them over."""

LARGEST = 256
"""Largest side that images of mixed sizes are brought to by default."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Where decoded images lie; see ``load_splits``, whose options these are."""

    memory_limit: int = 2 << 30
    cache: CacheChoice | None = None
    folder: Path | None = None
    limit: int = 0

    def __post_init__(self) -> None:
        check_whole("memory_limit", self.memory_limit)
        check_whole("cache_limit", self.limit)
        check_among("cache", self.cache, ("auto", "disk", None))

    def reserve(self, shape: tuple[int, ...]) -> UInt8Array:
        """Return an array for pixels that are not kept."""
        return temporary_pixels(shape, limit=self.memory_limit, folder=self.folder)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How images are read; see ``load_splits``, whose options these are."""

    size: tuple[int, int] | None
    resize: Resize
    bits: int | None
    channels: Channels = "auto"
    on_error: OnError = "raise"
    workers: int | None = None
    progress: bool | None = False
    store: StoreOptions = StoreOptions()

    def __post_init__(self) -> None:
        if self.workers is not None:
            check_whole("workers", self.workers, least=1)
        check_among("on_error", self.on_error, ("raise", "skip"))
        check_among("channels", self.channels, ("auto", 1, 3, 4))
        check_among("resize", self.resize, ("squash", "crop", "pad"))
        check_among("bits", self.bits, BITS)

    @property
    def fewest_channels(self) -> int:
        """Channels that are stored even where every image is grey."""
        return 1 if self.channels == "auto" else self.channels

    @property
    def threads(self) -> int:
        """Threads that decode."""
        return self.workers or min(16, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImages:
    """All N images of a dataset that could be read, whatever split they are in."""

    pixels: UInt8Array  # (M, H, W, C), M >= N; rows beyond N are empty
    names: Sequence[str]
    sizes: Int64Array  # original heights and widths, (N, 2)
    skipped: Mapping[str, str]  # name of a file that was left out, to the reason
    bits: int  # largest bit depth of the images before they became uint8


def working_size(parts: Mapping[str, Part], options: ReadOptions) -> tuple[int, int]:
    """Return the height and width to store images at."""
    if options.size is not None:
        return options.size
    with quiet_pillow():
        found = map_images(parts, lambda source, name: source.size(name), options.threads)
        sizes = [size for _, size in found if size]
    if len(set(sizes)) == 1:
        return sizes[0]
    side = min(LARGEST, int(np.median(sizes))) if sizes else 1
    return side, side


def read_images(
    parts: Mapping[str, Part], size: tuple[int, int], options: ReadOptions, reserve: Reserve
) -> DecodedImages:
    """Read all images into one array, part by part."""

    def read(source: Source, name: str) -> tuple[UInt8Array, tuple[int, ...]] | DataError:
        try:
            image = source.read(name, alpha=options.channels == 4)
        except DataError as error:
            return error
        grey = luminance(image) if options.channels == 1 else image
        return fit(grey, size, options.resize), image.shape[:2]

    total = sum(len(part.names) for part in parts.values())
    pixels = PixelBuffer((total, *size, options.fewest_channels), reserve)
    names: list[str] = []
    sizes: list[tuple[int, ...]] = []
    skipped: dict[str, str] = {}
    hide = None if options.progress is None else not options.progress
    with (
        quiet_pillow(),
        tqdm(total=total, desc="reading images", unit="image", disable=hide) as bar,
    ):
        for name, result in map_images(parts, read, options.threads):
            bar.update()
            if isinstance(result, DataError):
                if options.on_error == "raise":
                    raise unreadable(name, result)
                skipped[name] = str(result)
                continue
            image, original = result
            pixels.append(image)
            names.append(name)
            sizes.append(original)
    scale = next(iter(parts.values())).source.scale  # one for all parts
    if scale.settle():
        # e.g. 12-bit values in 16-bit files, which only the largest of all values tells
        return read_images(parts, size, options, reserve)
    originals = np.array(sizes, np.int64).reshape(-1, 2)
    return DecodedImages(pixels.array, names, originals, skipped, scale.bits)


class PixelBuffer:
    """A uint8 array (N, H, W, C), filled image by image: grey until the first coloured one."""

    def __init__(self, shape: tuple[int, ...], reserve: Reserve) -> None:
        self.reserve = reserve
        self.used = 0
        self.array = reserve(shape)

    def append(self, image: UInt8Array) -> None:
        """Add one image, (H, W) or (H, W, C)."""
        if image.ndim == 3 and self.array.shape[3] == 1:
            grey, self.array = self.array, self.reserve((*self.array.shape[:3], 3))
            for row in range(self.used):
                self.array[row] = grey[row]
        self.array[self.used] = widen(image, self.array.shape[3])
        self.used += 1


def map_images(
    parts: Mapping[str, Part], function: Callable[[Source, str], T], threads: int
) -> Iterator[tuple[str, T]]:
    """Call ``function`` on all images in threads; yield names and results in order."""
    pieces = [
        (part.source, part.names[start : start + CHUNK])
        for part in parts.values()
        for start in range(0, len(part.names), CHUNK)
    ]

    def work(piece: tuple[Source, Sequence[str]]) -> list[tuple[str, T]]:
        source, names = piece
        return [(name, function(source, name)) for name in names]

    window = 2 * threads  # bounds the results that wait in memory
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(pieces), window):
            for results in pool.map(work, pieces[start : start + window]):
                yield from results


def unreadable(name: str, reason: object) -> DataError:
    """Build the error for a file that cannot be read."""
    return DataError(
        f"Cannot read {name}: {str(reason).rstrip('.')}. Repair or remove it; "
        "tk.load_splits with on_error='skip' leaves such files out and lists them."
    )
