"""The range of pixel values: one scale from numbers of any type to 0..255 for a whole dataset."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from threading import Lock
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from transferkit._typing import UInt8Array
from transferkit.errors import DataError

BITS = (None, *range(8, 17))
"""Values of the option ``bits``."""

DEPTHS = (10, 12, 14, 16)
"""Bit depths that cameras and scanners store in 16-bit numbers."""

CHUNK_BYTES = 1 << 26
"""Bytes of a large array that are processed at once (64 MiB)."""

SLACK = 1e-3
"""How far floats may exceed 1 by rounding and still be read as [0, 1]."""


class Extremes(NamedTuple):
    """The smallest and largest of some values, and whether all of them are whole numbers."""

    low: float
    high: float
    whole: bool


class Scale(NamedTuple):
    """The factor from values to 0..255, and the bit depth of the values (8 for floats)."""

    factor: float
    bits: int


def find_extremes(array: NDArray[np.generic]) -> Extremes:
    """Return the extremes of images (N, ...); NaN or infinite pixels are an error."""
    if array.dtype.kind not in "biuf":
        raise DataError(f"Expected images of numbers, got the type {array.dtype}.")
    low, high, whole = np.inf, -np.inf, True
    for part in chunks(array):
        values = array[part]
        ends = float(values.min()), float(values.max())
        if not np.isfinite(ends).all():
            finite = np.isfinite(values.astype(np.float64)).reshape(len(values), -1).all(1)
            bad = np.flatnonzero(~finite) + part.start
            raise DataError(
                f"NaN or infinite pixels in image {bad[0]} ({len(bad)} such images or more). "
                "Repair or leave out these images."
            )
        low, high = min(low, ends[0]), max(high, ends[1])
        if array.dtype.kind == "f":
            whole = whole and bool(np.all(values == np.rint(cast(NDArray[np.floating], values))))
    return Extremes(low, high, whole)


def find_scale(dtype: np.dtype[np.generic], found: Extremes, bits: int | None) -> Scale:
    """Return the scale of all values of one type in a dataset; DataError where it is unclear."""
    kind = dtype.kind
    if kind == "b":
        return Scale(255.0, 8)
    if found.low >= 0 and bits is not None and (kind in "iu" or found.high > 255):
        return scale_of_depth(bits, found.high)
    if dtype == np.uint16:
        if 0 < found.high <= 255:
            raise DataError(
                f"The largest value of these 16-bit images is {found.high:g}, which would make "
                "every pixel black at 10 bits or more. If these are 8-bit values, pass bits=8."
            )
        usual = (depth for depth in DEPTHS if found.high < 2**depth)
        return scale_of_depth(next(usual) if found.high else 16, found.high)
    if found.low < 0 or found.high > 255:
        raise DataError(
            f"Pixels of type {dtype} must lie in 0..255 (floats: or in [0, 1]), got values from "
            f"{found.low:g} to {found.high:g}. Pass the images as they were before any "
            "normalisation; mean and standard deviation are applied by the classifier. For "
            "integers of more than 8 bits give the bit depth, such as bits=12."
        )
    if kind in "iu":
        return Scale(1.0, 8)
    if found.high <= 1 + SLACK:
        return Scale(255.0, 8)
    if found.high <= 2 and not found.whole:
        raise DataError(
            f"Float pixels must lie in [0, 1] or in [0, 255]; a largest value of {found.high:g} "
            "fits neither. Clip the images to [0, 1], or pass uint8."
        )
    return Scale(1.0, 8)


def scale_of_depth(bits: int, high: float) -> Scale:
    """Return the scale of a bit depth; DataError if the largest value exceeds it."""
    white = 2**bits - 1
    if high > white:
        raise DataError(f"With bits={bits} pixels must lie in 0..{white}, got {high:g}.")
    return Scale(255 / white, bits)


class DatasetScale:
    """One scale for all values of a type in a dataset, found from all of them.

    Until :meth:`settle` is called, values are converted as if they filled 16 bits, or [0, 1].
    """

    def __init__(self, bits: int | None) -> None:
        self.wanted = bits
        self.seen: dict[np.dtype[np.generic], Extremes] = {}
        self.highs: dict[str, float] = {}  # the largest value of each array of floats
        self.scales: dict[np.dtype[np.generic], Scale] = {}
        self.lock = Lock()  # files are read in threads

    def see(self, images: NDArray[np.generic], title: str | None = None) -> None:
        """Take the values of some images (N, ...), of an array of that title, into account."""
        found, kind = find_extremes(images), images.dtype.newbyteorder("=")
        with self.lock:
            low, high, whole = self.seen.get(kind, found)
            low, high = min(low, found.low), max(high, found.high)
            self.seen[kind] = Extremes(low, high, whole and found.whole)
            if title is not None and images.dtype.kind == "f":
                self.highs[title] = found.high

    def convert(self, values: NDArray[np.generic]) -> UInt8Array:
        """Multiply, round to the nearest and clip to 0..255."""
        if values.dtype == np.uint8:
            return cast(UInt8Array, values)
        factor = np.float32(self._scale(values.dtype.newbyteorder("=")).factor)
        scaled = np.multiply(values, factor, dtype=np.float32)
        pixels: UInt8Array = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        return pixels

    def settle(self) -> bool:
        """Fix the scales; return True if values were converted otherwise until now.

        DataError if some arrays of floats lie in [0, 1] and others do not.
        """
        unit = [title for title, high in self.highs.items() if 0 < high <= 1]
        wide = [title for title, high in self.highs.items() if high > 1 + SLACK]
        if unit and wide:
            raise DataError(
                f"The values of {unit[0]} lie in [0, 1], but those of {wide[0]} reach "
                f"{self.highs[wide[0]]:g}. Save all arrays on one scale."
            )
        before = {dtype: self._scale(dtype) for dtype in self.seen}
        self.scales = {
            dtype: find_scale(dtype, found, self.wanted) for dtype, found in self.seen.items()
        }
        return before != self.scales

    @property
    def bits(self) -> int:
        """Largest bit depth, 8 if there are no values of more."""
        return max((scale.bits for scale in self.scales.values()), default=8)

    def _scale(self, dtype: np.dtype[np.generic]) -> Scale:
        if dtype in self.scales:
            return self.scales[dtype]
        return find_scale(dtype, Extremes(0, 1, whole=False), self.wanted or 16)


def report_depth(bits: int, wanted: int | None, *, stacklevel: int) -> None:
    """Warn of a bit depth below 16 that was inferred from the largest value."""
    if wanted is None and 8 < bits < 16:
        warnings.warn(
            f"The 16-bit images hold {bits}-bit values and are read as 0..{2**bits - 1}. Pass "
            f"bits={bits} to confirm it, so that other images of this kind are read alike, or "
            "bits=16 if they are dark images of the full range.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def chunks(array: NDArray[np.generic]) -> Iterator[slice]:
    """Cut the first axis into slices of about ``CHUNK_BYTES``."""
    per_image = max(1, array[:1].nbytes)
    step = max(1, CHUNK_BYTES // per_image)
    for start in range(0, len(array), step):
        yield slice(start, min(start + step, len(array)))
