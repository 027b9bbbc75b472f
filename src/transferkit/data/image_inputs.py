"""Images as callers have them: files, PIL images, arrays and tensors, one or many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from transferkit._typing import Int64Array, UInt8Array
from transferkit._validation import check_among, to_path, to_sides
from transferkit.data.array_conversion import CHANNELS, TensorLike, to_numpy, to_one_array
from transferkit.data.folder_layout import Tree
from transferkit.data.image_data import ImageData, printable, require_images, trusted_images
from transferkit.data.image_decoding import BROKEN, Reading, Resize, drop_alpha
from transferkit.data.listing import FileSource, Part
from transferkit.data.pixel_reader import Channels, ReadOptions, read_images, working_size
from transferkit.data.table_layout import paths_in_table
from transferkit.data.value_range import BITS, DatasetScale, report_depth
from transferkit.errors import ConfigError, DataError

PathInput: TypeAlias = "str | os.PathLike[str]"
ImageInput: TypeAlias = "PathInput | Image.Image | NDArray[np.generic] | TensorLike"
Item: TypeAlias = tuple[str, object]
"""The name of an image, and the image in any form."""

ImagesInput: TypeAlias = "ImageData | ImageInput | Sequence[ImageInput] | ArrayLike"


def load_images(
    paths: PathInput | Sequence[PathInput],
    *,
    image_size: int | tuple[int, int] | None = None,
    resize: Resize = "squash",
    bits: int | None = None,
    channels: Channels = "auto",
) -> ImageData:
    """Read image files without labels, to predict on or to look at.

    Args:
        paths: A file, a folder that is searched for images, a pattern such as ``"scans/*.png"``, a
            ``.csv`` with a column of paths, or several of these.
        image_size: Height and width, as in :func:`load_splits`.
        resize: Resizing, as in :func:`load_splits`.
        bits: Bit depth of 16-bit images, as in :func:`load_splits`.
        channels: 1, 3, 4 or ``"auto"``, as in :func:`load_splits`.

    Raises:
        DataError: A path does not exist, a folder holds no image, or a file cannot be read.
        ConfigError: An option has a value that cannot work.

    Warns:
        UserWarning: A bit depth below 16 was inferred.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> import transferkit as tk
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("a.png", "b.png"):
        ...         Image.new("L", (50, 40)).save(Path(folder, name))
        ...     images = tk.load_images(folder)
        >>> images
        ImageData(2 images 40x50x1, classes [], no labels)
    """
    size = None if image_size is None else to_sides("image_size", image_size)
    options = ReadOptions(size, resize, bits, channels)
    names = list(map(str, list_files(paths)))
    parts = {"": Part(FileSource(Path(), DatasetScale(bits)), names, None)}
    images = read_images(parts, working_size(parts, options), options, options.store.reserve)
    report_depth(images.bits, bits, stacklevel=2)
    shown = map(printable, names)
    return trusted_images(images.pixels, None, (), shown, images.sizes, None, images.bits, resize)


def list_files(paths: object) -> list[Path]:
    """Return the image files that paths of files and folders lead to, in their order."""
    several = [paths] if isinstance(paths, str | os.PathLike) else paths
    if not isinstance(several, Sequence) or not several:
        raise DataError(f"Expected the path of an image, or a list of paths, got {paths!r}.")
    files = []
    for path in (to_path("paths", path) for path in several):
        if path.is_dir():
            found = Tree(path, ()).images
            if not found:
                raise DataError(f"The folder {path} holds no image.")
            files += [path / name for name in found]
        elif path.suffix.lower() in (".csv", ".tsv") and path.is_file():
            files += paths_in_table(path)
        elif path.exists():
            files.append(path)
        elif matched := sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
            files += list_files(matched)
        else:
            raise DataError(f"There is no file or folder {path}.")
    return files


class ImageStream:
    """Images in any form, read a few at a time, all on one scale.

    Images are not resized here but by the classifier, so that it sees an image alike whether it
    comes alone or in a list, unless ``reading`` says how those that it was trained on were read.
    """

    def __init__(
        self,
        value: object,
        channels: int = 3,
        bits: int | None = None,
        reading: Reading | None = None,
    ) -> None:
        check_among("bits", bits, BITS)
        self.channels, self.reading = channels, reading
        self.depth = reading.bits if bits is None and reading and reading.bits > 8 else bits
        self.whole: ImageData | None = None
        self.items: list[Item] = []
        if isinstance(value, ImageData) and bits is not None:
            raise ConfigError("bits is that of the ImageData; give it where those are made.")
        if isinstance(value, np.ndarray) and value.ndim == 1:  # of paths or of PIL images
            value = value.tolist()
        if isinstance(value, list | tuple) and not (value and is_item(value[0])):
            value = to_numpy(value)  # of numbers or rows
        if isinstance(value, ImageData):
            self.whole = value
            return
        if not isinstance(value, list | tuple):
            if not is_one_image(value, channels):
                self.whole = self._images(value)
                return
            value = [value]
        for place, item in enumerate(value):
            if isinstance(item, str | os.PathLike):
                self.items += [(str(path), path) for path in list_files(item)]
            else:
                self.items.append((f"image[{place}]", item))

    def _images(self, value: object) -> ImageData:
        """A batch of images as an ImageData."""
        if value is None or isinstance(value, Mapping):
            require_images("The images", value)
        shape = tuple(getattr(value, "shape", ()))
        named = self.channels not in (1, 3) and self.channels in (shape[1:2] + shape[3:])
        channels = self.channels if named and len(shape) == 4 else None
        return ImageData(cast(ArrayLike, value), channels=channels, bits=self.depth)

    def __len__(self) -> int:
        return len(self.items) if self.whole is None else len(self.whole)

    def __iter__(self) -> Iterator[tuple[Int64Array, ImageData]]:
        """Groups of images of one shape, each with its places among all images."""
        if self.whole is not None:
            yield np.arange(len(self.whole)), self.whole
            return
        scale = DatasetScale(self.depth)
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            deep = (item for item in self.items if may_be_deep(item[1]))
            for part in batched(deep):  # only the largest of all values tells their bit depth
                for array in pool.map(self._array, part):
                    scale.see(array[None])
            scale.settle()
            report_depth(scale.bits, self.depth, stacklevel=4)
            for number, part in enumerate(batched(self.items)):
                pixels = pool.map(lambda item: self._pixels(self._array(item), scale), part)
                yield from self._grouped(list(pixels), part, number * AT_ONCE, scale.bits)

    def _array(self, item: Item) -> NDArray[np.generic]:
        return to_one_array(*item, self.channels)

    def _pixels(self, array: NDArray[np.generic], scale: DatasetScale) -> UInt8Array:
        """One image (H, W, C) as uint8, read as those of the training were."""
        pixels = scale.convert(array)
        if self.channels != 4:
            pixels = drop_alpha(pixels)
        if self.reading is None or pixels.shape[2] not in (1, 3):
            return pixels
        return self.reading.apply(pixels)

    def _grouped(
        self,
        pixels: Sequence[UInt8Array],
        items: Sequence[Item],
        first: int,
        bits: int,
    ) -> Iterator[tuple[Int64Array, ImageData]]:
        rows: dict[tuple[int, ...], list[int]] = {}
        for row, image in enumerate(pixels):
            rows.setdefault(image.shape, []).append(row)
        for shape, own in rows.items():
            sizes = np.tile(np.array(shape[:2], np.int64), (len(own), 1))
            names = [printable(items[row][0]) for row in own]
            stack = np.stack([pixels[row] for row in own])
            images = trusted_images(stack, None, (), names, sizes, None, bits)
            yield first + np.array(own, np.int64), images


AT_ONCE = 64
"""Images whose pixels, of any size, wait in memory together."""


def batched(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items, ``AT_ONCE`` at a time."""
    left = iter(items)
    while part := list(islice(left, AT_ONCE)):
        yield part


def may_be_deep(item: object) -> bool:
    """Whether an image may have values other than 8-bit ones; a file's header tells."""
    if isinstance(item, Path):
        try:
            with Image.open(item) as image:
                return image.mode[0] in "IF"
        except BROKEN:
            return False  # decoding it says what is wrong
    if isinstance(item, Image.Image):
        return item.mode[0] in "IF"
    return not isinstance(item, np.ndarray) or item.dtype != np.uint8


def is_item(value: object) -> bool:
    """Whether the first element of a list is an image, rather than a number or a row."""
    if isinstance(value, str | os.PathLike | Image.Image):
        return True
    return isinstance(value, np.ndarray | TensorLike) and len(value.shape) in (2, 3)


def is_one_image(value: object, channels: int) -> bool:
    """Whether a value is one image, rather than several; DataError if it may be both."""
    if isinstance(value, str | os.PathLike | Image.Image):
        return True
    shape = tuple(getattr(value, "shape", ()))
    if len(shape) != 3:
        return len(shape) == 2
    first, last = (side in {*CHANNELS, channels} for side in (shape[0], shape[2]))
    if first or last:
        # (1, H, W) is the same grey image either way, and in torch an image is (C, H, W)
        if last or shape[0] == 1 or isinstance(value, TensorLike):
            return True
        raise DataError(
            f"An array of shape {shape} may be one image (C, H, W) or {shape[0]} grey images "
            "(N, H, W). Pass images[None] for the one, images[..., None] for the others."
        )
    if isinstance(value, TensorLike):
        raise DataError(
            f"Expected a tensor of one image (C, H, W) with 1, 3 or 4 channels, or of several, "
            f"(N, C, H, W), got {shape}. For grey images pass images[:, None]."
        )
    return False
