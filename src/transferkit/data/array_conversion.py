"""Conversion of arguments: images to uint8 (N, H, W, C), labels, sizes and class names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from transferkit._typing import Int64Array, UInt8Array
from transferkit._validation import check_among, check_whole
from transferkit.data.value_range import BITS, DatasetScale, chunks
from transferkit.errors import DataError

CHANNELS = (1, 3, 4)
"""Numbers of channels that are understood by themselves: grey, colour, and colour with alpha."""

MISSING = frozenset({"None", "nan", "NaN", "<NA>", "NaT"})
"""Missing values as text: NumPy writes them so into an array of texts."""

UNGROUPED = count()
"""Numbers for images without a group, which image names alone may not tell apart."""

Indices: TypeAlias = "Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]"


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


def to_channels_last(
    array: NDArray[np.generic], channels: int | None = None
) -> NDArray[np.generic]:
    """View (N, H, W), (N, H, W, C) or (N, C, H, W) as (N, H, W, C)."""
    allowed = CHANNELS if channels is None else (channels,)
    if array.ndim == 3 and 1 in allowed:
        if channels is None and array.shape[2] in (3, 4):
            raise DataError(
                f"An array of shape {array.shape} may be one image (H, W, C) or {len(array)} grey "
                "images (N, H, W). Pass images[None] for the one, images[..., None] or "
                "channels=1 for the others."
            )
        return array[..., None]
    if array.ndim == 4 and array.shape[3] in allowed:
        return array
    if array.ndim == 4 and array.shape[1] in allowed:
        return array.transpose(0, 2, 3, 1)
    count = "1, 3 or 4" if channels is None else channels
    raise DataError(
        f"Expected images of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with {count} channels, "
        f"got {array.shape}. For other channels say how many: tk.ImageData(images, channels=5)."
    )


def drop_alpha(images: UInt8Array) -> UInt8Array:
    """Composite the fourth channel, if there is one, on black; works on any (..., C) array."""
    if images.shape[-1] != 4:
        return images
    alpha = images[..., 3:].astype(np.uint16)
    composite: UInt8Array = ((images[..., :3] * alpha + 127) // 255).astype(np.uint8)
    return composite


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


def to_rows(indices: Indices, count: int) -> Int64Array:
    """Turn indices or a mask into row numbers."""
    rows = np.asarray(indices)
    if rows.dtype == bool:
        if rows.shape != (count,):
            raise DataError(f"A mask must have one entry per image, ({count},), got {rows.shape}.")
        return np.flatnonzero(rows).astype(np.int64)
    if rows.dtype.kind not in "iu" and rows.size:
        raise DataError(f"Images are chosen by whole numbers or a mask, got {indices!r}.")
    numbers = rows.astype(np.int64).reshape(-1)
    if numbers.size and not -count <= numbers.min() <= numbers.max() < count:
        raise DataError(f"There is no image {numbers[np.argmax(np.abs(numbers))]} of {count}.")
    return numbers


def to_sizes(sizes: ArrayLike, count: int) -> Int64Array:
    """Turn original heights and widths into int64 (N, 2)."""
    try:
        return np.asarray(sizes, np.int64).reshape(count, 2)
    except (TypeError, ValueError) as error:
        raise DataError(f"sizes must be a height and a width for each image: {error}.") from error


def to_class_names(classes: object, labels: Int64Array | None) -> tuple[str, ...]:
    """Return the class names, by default the numbers up to the largest label."""
    if classes is None:
        top = -1 if labels is None or len(labels) == 0 else int(labels.max())
        return tuple(map(str, range(top + 1)))
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise DataError(f"classes must be a list of class names, got {classes!r}.")
    names = tuple(map(str, classes))
    if len(set(names)) < len(names):
        raise DataError(f"Class names must differ, got {', '.join(names)}.")
    return names


def renumber(
    labels: Int64Array | None, classes: tuple[str, ...], wanted: tuple[str, ...]
) -> tuple[tuple[str, ...], Int64Array | None]:
    """Return class names and labels for another order of classes; see ImageData.with_classes."""
    if set(classes) <= set(wanted):
        order = np.array([wanted.index(name) for name in classes], np.int64)
        return wanted, None if labels is None else order[labels]
    if len(wanted) == len(classes) and are_numbers(wanted):
        return classes, labels
    if labels is not None and not (are_numbers(classes) and len(wanted) > labels.max()):
        raise DataError(
            f"The images have {len(classes)} classes {list(classes)}, expected {len(wanted)} "
            f"classes {list(wanted)} in any order. Give images of these classes, or set "
            "model.classes where only the names differ."
        )
    return wanted, labels


def are_numbers(classes: Sequence[str]) -> bool:
    """Whether class names are ``"0"``, ``"1"``, ..., which stand for no names."""
    return tuple(classes) == tuple(map(str, range(len(classes))))


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


def check_lengths(count: int, fields: Mapping[str, object]) -> None:
    """Raise unless every field that is not None has one entry per image."""
    for key, value in fields.items():
        length = len(value) if hasattr(value, "__len__") else -1
        if value is not None and length != count:
            raise DataError(f"{count} images but {length} {key}; each image needs exactly one.")


def check_label_range(
    labels: Int64Array | None, classes: Sequence[str], names: Sequence[str]
) -> None:
    """Raise if a label is not in [0, K), naming the first image that has one."""
    if labels is None:
        return
    bad = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(bad):
        first = int(bad[0])
        raise DataError(
            f"Label {labels[first]} of {names[first]} is outside 0..{len(classes) - 1} "
            f"(classes: {', '.join(classes)}); {len(bad)} labels are."
        )
