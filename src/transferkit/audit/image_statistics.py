"""Trivial statistics of images: what a shift, an outlier or a shortcut shows in first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import laplace

from transferkit._typing import Float64Array, FloatArray, Int64Array, UInt8Array
from transferkit.errors import DataError

_PIXELS_AT_ONCE = 8_000_000
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_CORNER = 0.2  # of the shorter side
SIZE_STATISTICS = ("height", "width", "aspect")


@dataclass(frozen=True, slots=True, eq=False)
class ImageStatistics:
    """Statistics of N images.

    Attributes:
        values: (N, S).
        names: S names.
    """

    values: Float64Array
    names: tuple[str, ...]

    def __getitem__(self, name: str) -> Float64Array:
        """Return one statistic (N,)."""
        column: Float64Array = self.values[:, self.names.index(name)]
        return column


def image_statistics(images: UInt8Array, *, sizes: Int64Array | None = None) -> ImageStatistics:
    """Measure every image.

    Height, width (pixels) and aspect (width / height) of the original; of the pixels, in grey
    levels from 0 to 255: brightness (mean), contrast (standard deviation), sharpness (mean
    absolute Laplacian), noise (standard deviation after Immerkaer, "Fast noise variance
    estimation", 1996); entropy of the grey levels in bits; and for colour images saturation
    (0 to 1) and the mean of each channel.

    Args:
        images: uint8 (N, H, W, C), C being 1 or 3; may be a memory map.
        sizes: Original (height, width) of each image (N, 2); the size of ``images`` if None.

    Raises:
        DataError: ``images`` is not that, or has another number of images than ``sizes``.
    """
    check_images(images)
    if sizes is None:
        sizes = np.broadcast_to(np.array(images.shape[1:3], np.int64), (len(images), 2))
    if len(sizes) != len(images):
        raise DataError(f"got {len(sizes)} sizes for {len(images)} images")
    height, width = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
    names = ["brightness", "contrast", "sharpness", "noise", "entropy"]
    if images.shape[3] == 3:
        names += ["saturation", "mean red", "mean green", "mean blue"]
    pixels = np.zeros((len(images), len(names)))
    for part in _parts(images):
        pixels[part] = _measure(np.asarray(images[part]))
    shapes = np.column_stack([height, width, width / np.maximum(height, 1)])
    return ImageStatistics(np.hstack([shapes, pixels]), (*SIZE_STATISTICS, *names))


def corner_statistics(images: UInt8Array) -> ImageStatistics:
    """Measure the corners, where markers and letters sit.

    For each corner square of a fifth of the shorter side: its mean, and its peak (98th
    percentile, which a small bright letter raises), both in grey levels.

    Raises:
        DataError: ``images`` is not uint8 (N, H, W, C).
    """
    check_images(images)
    side = max(1, round(_CORNER * min(images.shape[1:3])))
    near, far = slice(None, side), slice(-side, None)
    places = {"top left": (near, near), "top right": (near, far)}
    places |= {"bottom left": (far, near), "bottom right": (far, far)}
    names = [f"{what} {place}" for place in places for what in ("mean of", "peak at")]
    values = np.zeros((len(images), len(names)))
    for part in _parts(images):
        grey = to_grey(np.asarray(images[part]))
        columns = [_corner(grey[:, rows, columns]) for rows, columns in places.values()]
        values[part] = np.hstack(columns)
    return ImageStatistics(values, tuple(names))


def to_grey(images: UInt8Array) -> FloatArray:
    """Return luminance from 0 to 255 as float32 (N, H, W)."""
    if images.shape[3] == 1:
        return images[:, :, :, 0].astype(np.float32)
    grey: FloatArray = images.astype(np.float32) @ _LUMA
    return grey


def check_images(images: UInt8Array) -> None:
    """Refuse what is not uint8 (N, H, W, C).

    Raises:
        DataError: It is not.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] not in (1, 3):
        raise DataError(
            f"expected images as uint8 (N, H, W, C) with 1 or 3 channels, got {images.dtype} "
            f"of shape {images.shape}"
        )


def _parts(images: UInt8Array) -> list[slice]:
    step = max(1, _PIXELS_AT_ONCE // max(1, int(np.prod(images.shape[1:]))))
    return [slice(start, start + step) for start in range(0, len(images), step)]


def _measure(images: UInt8Array) -> Float64Array:
    grey = to_grey(images)
    second = laplace(grey, axes=(1, 2), mode="nearest")
    columns = [
        grey.mean(axis=(1, 2)),
        grey.std(axis=(1, 2)),
        np.abs(second).mean(axis=(1, 2)),
        _noise(grey),
        _entropy(grey),
    ]
    if images.shape[3] == 3:
        columns += [_saturation(images), *images.mean(axis=(1, 2)).T]
    return np.column_stack(columns).astype(np.float64)


def _noise(grey: FloatArray) -> FloatArray:
    """Filter with [[1, -2, 1], [-2, 4, -2], [1, -2, 1]], which edges and ramps pass unseen."""
    if min(grey.shape[1:]) < 3:
        return np.zeros(len(grey), np.float32)
    rows = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    both = rows[:, :, :-2] - 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    noise: FloatArray = np.sqrt(np.pi / 2) / 6 * np.abs(both).mean(axis=(1, 2))
    return noise


def _entropy(grey: FloatArray) -> Float64Array:
    levels = np.rint(grey).astype(np.int64).reshape(len(grey), -1)
    levels += 256 * np.arange(len(grey))[:, None]
    counts = np.bincount(levels.reshape(-1), minlength=256 * len(grey)).reshape(len(grey), 256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    logs = np.log2(np.where(shares > 0, shares, 1))
    entropy: Float64Array = -(shares * logs).sum(axis=1)
    return entropy


def _saturation(images: UInt8Array) -> FloatArray:
    high = images.max(axis=3).astype(np.float32)
    low = images.min(axis=3).astype(np.float32)
    saturation: FloatArray = ((high - low) / np.maximum(high, 1)).mean(axis=(1, 2))
    return saturation


def _corner(patch: FloatArray) -> Float64Array:
    flat = patch.reshape(len(patch), -1)
    peak = np.percentile(flat, 98, axis=1)
    return np.column_stack([flat.mean(axis=1), peak]).astype(np.float64)
