"""What callers give, converted: images to uint8 (N, H, W, C), labels, sizes and class names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transferkit._typing import Int64Array, UInt8Array
from transferkit.errors import DataError

CHUNK_BYTES = 1 << 26
"""How much of a large array is looked at in one go (64 MiB)."""


Indices: TypeAlias = "Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]"


@runtime_checkable
class TensorLike(Protocol):
    """The methods of a torch tensor, so that torch need not be imported to accept one."""

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


def to_images(value: ArrayLike | TensorLike) -> UInt8Array:
    """Turn images of any layout and type that ImageData takes into uint8 (N, H, W, C)."""
    array = to_channels_last(to_numpy(value))
    scale = pixel_scale(array)
    if array.dtype != np.uint8:
        images = np.empty(array.shape, np.uint8)
        for part in chunks(array):
            images[part] = rescale(array[part], scale)
        array = images
    return drop_alpha(cast(UInt8Array, array))


def to_channels_last(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """View (N, H, W), (N, H, W, C) or (N, C, H, W) as (N, H, W, C)."""
    if array.ndim == 3:
        return array[..., None]
    if array.ndim == 4 and array.shape[3] in (1, 3, 4):
        return array
    if array.ndim == 4 and array.shape[1] in (1, 3, 4):
        return array.transpose(0, 2, 3, 1)
    raise DataError(
        "Expected images of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels, "
        f"got {array.shape}."
    )


def pixel_scale(array: NDArray[np.generic]) -> float:
    """Return the factor from the array's values to 0..255; DataError where it is unclear."""
    kind = array.dtype.kind
    if array.dtype == np.uint8 or array.size == 0:
        return 1.0
    if kind == "b":
        return 255.0
    if kind not in "iuf":
        raise DataError(f"Expected images of numbers, got the type {array.dtype}.")
    low, high = value_range(array)
    if array.dtype == np.uint16:
        return uint16_scale(high)
    if low < 0 or high > 255:
        raise DataError(
            f"Pixels of type {array.dtype} must lie in 0..255 (floats: or in [0, 1]), got values "
            f"from {low:g} to {high:g}. Pass the images as they were before any normalisation; "
            "mean and standard deviation are applied by the classifier."
        )
    if kind in "iu":
        return 1.0
    return float_scale(array, high)


def uint16_scale(high: float) -> float:
    """Return the factor for uint16, unless everything is so dark that it must be 8-bit."""
    if 0 < high <= 255:
        raise DataError(
            f"uint16 images are read as 0..65535, but the largest value here is {high:g}, which "
            "would make every pixel black. If these are 8-bit values, pass images.astype('uint8')."
        )
    return 1 / 257


def float_scale(array: NDArray[np.generic], high: float) -> float:
    """Tell floats in [0, 1] from floats in [0, 255]."""
    if high <= 1:
        return 255.0
    if high <= 2 and not all(is_whole(array[part]) for part in chunks(array)):
        raise DataError(
            f"Float pixels must lie in [0, 1] or in [0, 255]; a largest value of {high:g} fits "
            "neither. Clip the images to [0, 1], or pass uint8."
        )
    return 1.0


def is_whole(values: NDArray[np.generic]) -> bool:
    """Say whether all values are whole numbers."""
    numbers = values.astype(np.float64)
    return bool(np.all(numbers == np.rint(numbers)))


def value_range(array: NDArray[np.generic]) -> tuple[float, float]:
    """Return the smallest and the largest value; NaN or infinite pixels are an error."""
    low, high = np.inf, -np.inf
    for part in chunks(array):
        values = array[part]
        extremes = float(values.min()), float(values.max())
        if not np.isfinite(extremes).all():
            finite = np.isfinite(values.astype(np.float64)).all(axis=(1, 2, 3))
            bad = np.flatnonzero(~finite) + part.start
            raise DataError(
                f"NaN or infinite pixels in image {bad[0]} ({len(bad)} such images or more). "
                "Repair or leave out these images."
            )
        low, high = min(low, extremes[0]), max(high, extremes[1])
    return low, high


def rescale(values: NDArray[np.generic], scale: float) -> UInt8Array:
    """Multiply, round to the nearest and clip to 0..255."""
    if values.dtype == np.uint8 and scale == 1:
        return cast(UInt8Array, values)
    scaled = np.multiply(values, np.float32(scale), dtype=np.float32)
    rounded: UInt8Array = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return rounded


def drop_alpha(images: UInt8Array) -> UInt8Array:
    """Composite the fourth channel, if there is one, on black; works on any (..., C) array."""
    if images.shape[-1] != 4:
        return images
    alpha = images[..., 3:].astype(np.uint16)
    composite: UInt8Array = ((images[..., :3] * alpha + 127) // 255).astype(np.uint8)
    return composite


def chunks(array: NDArray[np.generic]) -> Iterator[slice]:
    """Cut the first axis into slices of about ``CHUNK_BYTES``."""
    per_image = max(1, array[:1].nbytes)
    step = max(1, CHUNK_BYTES // per_image)
    for start in range(0, len(array), step):
        yield slice(start, min(start + step, len(array)))


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
    if array.dtype.kind not in "biuf" or not is_whole(array):
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
