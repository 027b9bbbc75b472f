"""Images as callers have them: files, PIL images, arrays and tensors, one or many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from transferkit._format import describe
from transferkit._typing import Int64Array
from transferkit._validation import check_among, to_path, to_sides
from transferkit.data.array_conversion import CHANNELS, TensorLike, to_numpy, with_channels_last
from transferkit.data.folder_layout import image_files
from transferkit.data.image_data import ImageData, require_images, trusted_images
from transferkit.data.image_decoding import BROKEN, Resize, decode, drop_alpha, to_array
from transferkit.data.pixel_reader import (
    Channels,
    FileSource,
    Part,
    ReadOptions,
    read_images,
    working_size,
)
from transferkit.data.value_range import BITS, DatasetScale, report_depth
from transferkit.errors import ConfigError, DataError

PathInput: TypeAlias = "str | os.PathLike[str]"
ImageInput: TypeAlias = "PathInput | Image.Image | NDArray[np.generic] | TensorLike"
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
        paths: A file, a folder that is searched for images, or several of them.
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
    options = ReadOptions(
        size=None if image_size is None else to_sides("image_size", image_size),
        resize=resize,
        bits=bits,
        channels=channels,
        progress=False,
    )
    names = list(map(str, list_files(paths)))
    parts = {"": Part(FileSource(Path(), DatasetScale(bits)), names, None)}
    images = read_images(parts, working_size(parts, options), options, options.reserve)
    report_depth(images.bits, bits, stacklevel=2)
    return trusted_images(images.pixels, None, (), names, images.sizes, None, images.bits)


def list_files(paths: object) -> list[Path]:
    """Return the image files that paths of files and folders lead to, in their order."""
    several = [paths] if isinstance(paths, str | os.PathLike) else paths
    if not isinstance(several, Sequence) or not several:
        raise DataError(f"Expected the path of an image, or a list of paths, got {paths!r}.")
    files = []
    for path in (to_path("paths", path) for path in several):
        if path.is_dir():
            found = image_files(path)
            if not found:
                raise DataError(f"The folder {path} holds no image.")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise DataError(f"There is no file or folder {path}.")
    return files


def to_image_groups(
    value: object, channels: int = 3, bits: int | None = None
) -> list[tuple[Int64Array, ImageData]]:
    """Turn images in any form into groups of one shape, each with its places among all images.

    Images are not resized here but by the classifier, so that it sees an image alike whether it
    comes alone or in a list.
    """
    check_among("bits", bits, BITS)
    if isinstance(value, ImageData):
        if bits is not None:
            raise ConfigError("bits is that of the ImageData; give it where those are made.")
        return [(np.arange(len(value)), value)]
    if isinstance(value, np.ndarray) and value.ndim == 1:  # of paths or of PIL images
        value = value.tolist()
    if isinstance(value, list | tuple) and value and is_item(value[0]):
        return group_by_shape(value, channels, bits)
    if isinstance(value, list | tuple):  # of numbers or rows
        value = to_numpy(value)
    if is_one_image(value, channels):
        return group_by_shape([value], channels, bits)
    if value is None or isinstance(value, Mapping):
        require_images("The images", value)
    shape = tuple(getattr(value, "shape", ()))
    named = channels not in (1, 3) and len(shape) == 4 and channels in (shape[1], shape[3])
    images = ImageData(cast(ArrayLike, value), channels=channels if named else None, bits=bits)
    return [(np.arange(len(images)), images)]


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


def group_by_shape(
    items: Iterable[object], channels: int, bits: int | None
) -> list[tuple[Int64Array, ImageData]]:
    """Group images by height, width and channels, all on one scale."""
    found: list[tuple[str, object]] = []
    for place, item in enumerate(items):
        if isinstance(item, str | os.PathLike):
            found += [(str(path), path) for path in list_files(item)]
        else:
            found.append((f"image[{place}]", item))
    names = [name for name, _ in found]
    arrays = [to_one_array(name, item, channels) for name, item in found]
    scale = DatasetScale(bits)
    for array in arrays:
        scale.see(array[None])
    scale.settle()
    report_depth(scale.bits, bits, stacklevel=4)
    places: dict[tuple[int, ...], list[int]] = {}
    for place, array in enumerate(arrays):
        places.setdefault(array.shape, []).append(place)
    groups = []
    for own in places.values():
        pixels = np.stack([scale.convert(arrays[place]) for place in own])
        if channels != 4:
            pixels = drop_alpha(pixels)
        sizes = np.tile(np.array(pixels.shape[1:3], np.int64), (len(own), 1))
        titles = [names[place] for place in own]
        images = trusted_images(pixels, None, (), titles, sizes, None, scale.bits)
        groups.append((np.array(own, np.int64), images))
    return groups


def to_one_array(name: str, item: object, channels: int) -> NDArray[np.generic]:
    """Turn a path, a PIL image, an array or a tensor into one image (H, W, C)."""
    allowed = {*CHANNELS, channels}
    try:
        if isinstance(item, Path):
            array = decode(item, alpha=channels == 4)
        elif isinstance(item, Image.Image):
            array = to_array(item, alpha=channels == 4)
        elif isinstance(item, np.ndarray | TensorLike):
            array = to_numpy(item)
        else:
            raise DataError(f"Expected a path, a PIL image or an array, got {describe(item)}.")
    except BROKEN as error:
        raise DataError(f"Cannot read {name}: {str(error).rstrip('.')}.") from error
    if array.ndim == 2:
        return array[..., None]
    if array.ndim == 3:
        tensor = isinstance(item, TensorLike)
        found = with_channels_last(array, allowed, first_of_both=tensor)
        if found is not None:
            return found
    raise DataError(
        f"Expected {name} to have the shape (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 "
        f"channels, got {array.shape}."
    )
