"""Simple statistics of images, in which shifts, outliers and shortcuts show first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import correlate1d

from transferkit._typing import Float64Array, FloatArray, Int64Array, UInt8Array

_PIXELS_AT_ONCE = 8_000_000
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_CORNER = 0.2  # of the shorter side
SIZE_STATISTICS = ("height", "width", "aspect")


@dataclass(frozen=True, slots=True, eq=False)
class ImageStatistics:
    """Statistics of N images: ``values`` (N, S) and their S ``names``."""

    values: Float64Array
    names: tuple[str, ...]

    def __getitem__(self, name: str) -> Float64Array:
        """Return one statistic (N,)."""
        column: Float64Array = self.values[:, self.names.index(name)]
        return column

    def beside(self, other: ImageStatistics) -> ImageStatistics:
        """Return these statistics and those of ``other``, of the same images."""
        return ImageStatistics(np.hstack([self.values, other.values]), (*self.names, *other.names))


def image_statistics(images: UInt8Array, *, sizes: Int64Array | None = None) -> ImageStatistics:
    """Measure images (N, H, W, C), which may be a memory map, of original ``sizes`` (N, 2).

    In grey levels from 0 to 255: brightness (mean), contrast (standard deviation), sharpness
    (mean absolute Laplacian) and noise (standard deviation); entropy in bits; of colour images,
    saturation from 0 to 1 and the mean of each channel.
    """
    if sizes is None:
        sizes = np.broadcast_to(np.array(images.shape[1:3], np.int64), (len(images), 2))
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
    """Measure the corners of images (N, H, W, C), where markers and letters sit.

    The mean and the peak (98th percentile, which a small bright letter raises), in grey levels.
    """
    side = max(1, round(_CORNER * min(images.shape[1:3])))
    near, far = slice(None, side), slice(-side, None)
    places = {"top left": (near, near), "top right": (near, far)}
    places |= {"bottom left": (far, near), "bottom right": (far, far)}
    names = [f"{what} {place}" for place in places for what in ("mean of", "peak at")]
    values = np.zeros((len(images), len(names)))
    for part in _parts(images):
        grey = _to_grey(np.asarray(images[part]))
        for column, (rows, columns) in enumerate(places.values()):
            corner = grey[:, rows, columns].reshape(len(grey), -1)
            values[part, 2 * column] = corner.mean(axis=1)
            values[part, 2 * column + 1] = np.percentile(corner, 98, axis=1)
    return ImageStatistics(values, tuple(names))


def to_picture(image: UInt8Array) -> Image.Image:
    """Return an image (H, W, C) for Pillow: channels that are no colours as their mean."""
    pixels = image if image.shape[2] == 3 else image.mean(axis=2).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _parts(images: UInt8Array) -> list[slice]:
    step = max(1, _PIXELS_AT_ONCE // max(1, int(np.prod(images.shape[1:]))))
    return [slice(start, start + step) for start in range(0, len(images), step)]


def _to_grey(images: UInt8Array) -> FloatArray:
    """Luminance, or the mean of channels that are no colours, from 0 to 255: (N, H, W)."""
    grey: FloatArray
    if images.shape[3] == 3:
        grey = images.astype(np.float32) @ _LUMA
    else:
        grey = images.mean(axis=3, dtype=np.float32)
    return grey


def _measure(images: UInt8Array) -> Float64Array:
    grey = _to_grey(images)
    laplacian = sum(correlate1d(grey, [1, -2, 1], axis, mode="nearest") for axis in (1, 2))
    columns = [
        grey.mean(axis=(1, 2)),
        grey.std(axis=(1, 2)),
        np.abs(laplacian).mean(axis=(1, 2)),
        _noise(grey),
        _entropy(grey),
    ]
    if images.shape[3] == 3:
        high, low = images.max(axis=3).astype(np.float32), images.min(axis=3).astype(np.float32)
        saturation = ((high - low) / np.maximum(high, 1)).mean(axis=(1, 2))
        columns += [saturation, *images.mean(axis=(1, 2)).T]
    return np.column_stack(columns).astype(np.float64)


def _noise(grey: FloatArray) -> FloatArray:
    """Noise (N,) after Immerkaer, "Fast noise variance estimation" (1996)."""
    if min(grey.shape[1:]) < 3:
        return np.zeros(len(grey), np.float32)
    # [[1, -2, 1], [-2, 4, -2], [1, -2, 1]] does not see edges and ramps. Its squares add up to 36:
    # it multiplies the noise by 6. The mean absolute value of a Gaussian is sqrt(2 / pi) of its
    # deviation.
    rows = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    both = rows[:, :, :-2] - 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    noise: FloatArray = np.sqrt(np.pi / 2) / 6 * np.abs(both).mean(axis=(1, 2))
    return noise


def _entropy(grey: FloatArray) -> Float64Array:
    """Entropy of the grey levels in bits (N,)."""
    levels = np.rint(grey).astype(np.int64).reshape(len(grey), -1)
    levels += 256 * np.arange(len(grey))[:, None]  # one bincount counts the levels of all images
    counts = np.bincount(levels.reshape(-1), minlength=256 * len(grey)).reshape(len(grey), 256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    logs = np.log2(np.where(shares > 0, shares, 1))
    entropy: Float64Array = -(shares * logs).sum(axis=1)
    return entropy
