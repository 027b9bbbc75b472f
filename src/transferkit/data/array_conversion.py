"""Conversion of arguments: images to uint8 (N, H, W, C), labels and groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import count
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from transferkit._typing import Int64Array, UInt8Array
from transferkit._validation import check_among, check_whole
from transferkit.data.image_decoding import BROKEN, drop_alpha, to_array, widen
from transferkit.data.value_range import BITS, DatasetScale, chunks
from transferkit.errors import DataError

CHANNELS = (1, 3, 4)
"""Numbers of channels that are understood by themselves: grey, colour, and colour with alpha."""

MISSING = frozenset({"None", "nan", "NaN", "<NA>", "NaT"})
"""Missing values as text: NumPy writes them so into an array of texts."""

UNGROUPED = count()
"""Numbers for images without a group, which image names alone may not tell apart."""


@runtime_checkable
class TensorLike(Protocol):
    """The methods of a torch tensor, so that torch need not be imported to accept one."""

    @property
    def shape(self) -> Sequence[int]:
        """The sizes of all dimensions."""

    def detach(self) -> TensorLike:
        """Return the values without their graph."""

    def cpu(self) -> TensorLike:
        """Return the values in main memory."""

    def numpy(self) -> NDArray[np.generic]:
        """Return the values as an array."""


def to_numpy(value: ArrayLike | TensorLike) -> NDArray[np.generic]:
    """Turn an array, a nested list or a torch tensor into an array, without copying if possible."""
    try:
        if isinstance(value, TensorLike):
            return value.detach().cpu().numpy()
        array = np.asanyarray(value)
    except TypeError as error:
        raise DataError(f"Expected an array or a dense tensor of numbers: {error}") from error
    except ValueError as error:
        raise DataError(f"Expected images or labels of equal shape: {error}") from error
    if array.dtype == object:
        raise DataError("Expected an array of numbers, got an array of Python objects (ragged?).")
    return array


def to_images(
    value: ArrayLike | TensorLike, bits: int | None = None, channels: int | None = None
) -> tuple[UInt8Array, int]:
    """Turn images of any layout and type into uint8 (N, H, W, C), and return their bit depth."""
    check_among("bits", bits, BITS)
    if channels is not None:
        check_whole("channels", channels, least=1)
    if isinstance(value, Image.Image):
        raise DataError(
            "Expected several images, got one PIL image. Give a list of images, "
            "tk.ImageData([image]), or read files with tk.load_images(paths)."
        )
    if isinstance(value, list | tuple) and value and isinstance(value[0], Image.Image):
        value = stack_pil_images(value, channels or 1)
    array = to_channels_last(to_numpy(value), channels)
    scale = DatasetScale(bits)
    if array.dtype != np.uint8:
        if array.size:
            scale.see(array)
            scale.settle()
        images = np.empty(array.shape, np.uint8)
        for part in chunks(array):
            images[part] = scale.convert(array[part])
        array = images
    pixels = cast(UInt8Array, array)
    return pixels if channels == 4 else drop_alpha(pixels), scale.bits


def stack_pil_images(images: Sequence[object], channels: int) -> NDArray[np.generic]:
    """Decode PIL images of one size, in any modes, to an array of ``channels`` or more."""
    try:
        arrays = [to_array(cast(Image.Image, image), alpha=channels == 4) for image in images]
    except (AttributeError, *BROKEN) as error:
        raise DataError(f"Expected PIL images only, all of them readable: {error}.") from error
    if len({(array.shape[:2], array.dtype) for array in arrays}) > 1:
        raise DataError(
            "Expected PIL images of one size and bit depth, got "
            f"{sorted({f'{a.shape[1]}x{a.shape[0]} {a.dtype}' for a in arrays})}. Resize them, or "
            "save them and read the files: tk.load_splits(folder, image_size=64)."
        )
    most = max(channels, *(array.shape[2] for array in arrays if array.ndim == 3), 1)
    return np.stack([widen(array, most) for array in arrays])


def to_channels_last(
    array: NDArray[np.generic], channels: int | None = None
) -> NDArray[np.generic]:
    """View (N, H, W), (N, H, W, C) or (N, C, H, W) as (N, H, W, C)."""
    allowed = CHANNELS if channels is None else (channels,)
    found = None
    if array.ndim == 3 and 1 in allowed:
        if channels is None and array.shape[2] in (3, 4):
            raise DataError(
                f"An array of shape {array.shape} may be one image (H, W, C) or {len(array)} grey "
                "images (N, H, W). Pass images[None] for the one, images[..., None] or "
                "channels=1 for the others."
            )
        found = array[..., None]
    elif array.ndim == 4:
        found = with_channels_last(array, allowed)
    if found is not None:
        return found
    count = "1, 3 or 4" if channels is None else channels
    raise DataError(
        f"Expected images of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with {count} channels, "
        f"got {array.shape}. For other channels say how many: tk.ImageData(images, channels=5)."
    )


def with_channels_last(
    array: NDArray[np.generic], allowed: Collection[int], *, first_of_both: bool = False
) -> NDArray[np.generic] | None:
    """View (..., H, W, C) or (..., C, H, W) as (..., H, W, C); None if neither end may be C."""
    first, last = (array.shape[axis] in allowed for axis in (-3, -1))
    if last and not (first and first_of_both):
        return array
    return np.moveaxis(array, -3, -1) if first else None


def to_labels(value: ArrayLike | TensorLike) -> Int64Array:
    """Turn class numbers of shape (N,) or (N, 1) into int64 (N,)."""
    array = to_numpy(value)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(
            f"Expected one label per image, of shape (N,) or (N, 1), got {array.shape}. "
            "Multi-label data are not supported; for one-hot labels pass labels.argmax(axis=1)."
        )
    numeric = array.dtype.kind in "biuf"
    if not numeric or not np.array_equal(np.rint(array.astype(np.float64)), array):
        raise DataError(f"Labels must be whole numbers from 0, got the type {array.dtype}.")
    return array.astype(np.int64)


def to_group_names(groups: Iterable[object], images: Sequence[str]) -> list[str]:
    """Return one group name per image; a missing group gets a name that no other image has."""
    return [
        to_group_name(group) or f"{image} (no group, {next(UNGROUPED):09d})"
        for group, image in zip(groups, images, strict=True)
    ]


def to_group_name(group: object) -> str:
    """Return a group's name, with whole floats as integers; empty where the group is missing."""
    if isinstance(group, np.generic | TensorLike) and hasattr(group, "item"):
        group = group.item()
    if isinstance(group, float) and group.is_integer():
        group = int(group)
    name = str(group)
    return "" if name in MISSING else name
