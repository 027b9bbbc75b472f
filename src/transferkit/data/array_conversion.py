"""Conversion of arguments: images to uint8 (N, H, W, C), labels and groups."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from transferkit._format import describe
from transferkit._typing import Int64Array, UInt8Array
from transferkit._validation import check_among, check_whole
from transferkit.data.image_decoding import BROKEN, decode, drop_alpha, to_array, widen
from transferkit.data.value_range import BITS, DatasetScale, chunks
from transferkit.errors import DataError

CHANNELS = (1, 3, 4)
"""Numbers of channels that are understood by themselves: grey, colour, and colour with alpha."""

MISSING = frozenset({"None", "nan", "NaN", "<NA>", "NaT"})
"""Missing values as text: NumPy writes them so into an array of texts."""


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
    known = isinstance(value, list | tuple | TensorLike) or hasattr(value, "__array__")
    if hasattr(value, "__getitem__") and not known:
        raise DataError(
            f"Expected images as an array, a tensor or a list, got {describe(value)}. A dataset of "
            "images and labels is read by tk.load_splits(dataset)."
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


def label_values(
    value: object,
) -> tuple[NDArray[np.integer] | NDArray[np.str_], int | None]:
    """Turn labels of any usual form into whole numbers or texts (N,), and K if one-hot (N, K)."""
    plain = value.detach().cpu().numpy() if isinstance(value, TensorLike) else value
    try:
        array = np.asarray(plain)
    except (TypeError, ValueError) as error:
        raise DataError(f"Expected one label per image: {error}.") from error
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype == object and all(isinstance(label, str) for label in array.flat):
        array = array.astype(str)
    width = None
    if array.ndim == 2 and array.dtype.kind in "biuf" and is_one_hot(array):
        array, width = array.argmax(axis=1), array.shape[1]
    if array.ndim != 1:
        raise DataError(
            f"Expected one label per image, of shape (N,) or (N, 1), or one-hot (N, K), got "
            f"{array.shape}. Multi-label data are not supported."
        )
    if array.dtype.kind == "U" or (array.dtype.kind in "biuf" and is_whole(array)):
        return array if array.dtype.kind == "U" else array.astype(np.int64), width
    raise DataError(f"Labels must be whole numbers from 0, or texts, got the type {array.dtype}.")


def is_one_hot(array: NDArray[np.generic]) -> bool:
    """Whether each row (K,) holds one 1 and else 0."""
    return bool(np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all())


def is_whole(array: NDArray[np.generic]) -> bool:
    """Whether all numbers are whole."""
    return np.array_equal(np.rint(array.astype(np.float64)), array)


def label_texts(value: object) -> list[str]:
    """Turn labels of any usual form into texts."""
    values, _ = label_values(value)
    if values.dtype.kind != "U" and len(values) and values.min() < 0:
        raise DataError(f"Labels must be whole numbers from 0, got {values.min()}.")
    return list(map(str, values.tolist()))


def to_labels(value: object, classes: Sequence[str] | None) -> tuple[Int64Array, tuple[str, ...]]:
    """Return class numbers (N,) and the names of the classes, which by default labels tell.

    Numbers are names where they are 1 to K or 0 and 255, and else the classes up to the largest.
    """
    values, width = label_values(value)
    if values.dtype.kind == "U":
        found, names = number_labels("ImageData", {"labels": values.tolist()}, classes)
        return cast(Int64Array, found["labels"]), names
    numbers = values.astype(np.int64)
    present = np.unique(numbers).tolist()
    if classes is None:
        if present == [0, 255] or (len(present) > 1 and present == [*range(1, len(present) + 1)]):
            return np.searchsorted(present, numbers), tuple(map(str, present))
        count = max(present, default=-1) + 1 if width is None else width
        return numbers, tuple(map(str, range(count)))
    if present == [0, 255] and len(classes) == 2:
        numbers = numbers // 255
    elif present and present[0] >= 1 and present[-1] == len(classes):
        numbers = numbers - 1
    return numbers, tuple(classes)


def number_labels(
    place: str, texts: Mapping[str, Sequence[str] | None], classes: Sequence[str] | None = None
) -> tuple[dict[str, Int64Array | None], tuple[str, ...]]:
    """Number the labels of all splits by the classes of the first, which others must not exceed."""
    first = next((split for split, own in texts.items() if own), None)
    if first is None:
        return dict.fromkeys(texts), ()
    names = in_natural_order(texts[first] or ()) if classes is None else tuple(classes)
    number = {name: place for place, name in enumerate(names)}
    numbers: dict[str, Int64Array | None] = {}
    for split, own in texts.items():
        wrong = next((row for row, text in enumerate(own or ()) if text not in number), None)
        if own is not None and wrong is not None:
            raise DataError(
                f"{place}: the label {own[wrong]!r} of {split}[{wrong}] is none of the classes "
                f"{f'of {first}' if classes is None else 'named'}: {', '.join(names[:20])}."
            )
        numbers[split] = None if own is None else np.array([number[t] for t in own], np.int64)
    return numbers, names


def in_natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return the different names, sorted, numbers by their value."""
    return tuple(sorted({*names}, key=lambda n: (0, int(n), n) if n.isdecimal() else (1, 0, n)))


def to_group_names(groups: Iterable[object]) -> list[str | None]:
    """Return one group name per image, or None where the group is missing."""
    return [to_group_name(group) or None for group in groups]


def to_group_name(group: object) -> str:
    """Return a group's name, with whole floats as integers; empty where the group is missing."""
    if isinstance(group, np.generic | TensorLike) and hasattr(group, "item"):
        group = group.item()
    if isinstance(group, float) and group.is_integer():
        group = int(group)
    name = str(group)
    return "" if name in MISSING else name


def to_one_array(name: str, item: object, channels: int) -> NDArray[np.generic]:
    """Turn a path, a PIL image, an array or a tensor into one image (H, W, C)."""
    allowed = {*CHANNELS, channels}
    try:
        if isinstance(item, str | os.PathLike):
            array = decode(Path(item), alpha=channels == 4)
        elif isinstance(item, Image.Image):
            array = to_array(item, alpha=channels == 4)
        elif isinstance(item, np.ndarray | TensorLike):
            array = to_numpy(item)
        else:
            raise DataError(f"expected a path, a PIL image or an array, got {describe(item)}.")
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
