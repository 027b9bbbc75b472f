"""Simple statistics of images, in which shifts, outliers and shortcuts show first."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import correlate1d
from scipy.stats import entropy

from transferkit._typing import Float64Array, FloatArray, Int64Array, UInt8Array

_PIXELS_AT_ONCE = 8_000_000
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_CORNER = 0.2  # of the shorter side
_SIDE = 128  # longest side of a thumbnail, in pixels
SIZE_STATISTICS = ("height", "width", "aspect")


def image_statistics(
    images: UInt8Array, *, sizes: Int64Array | None = None
) -> dict[str, Float64Array]:
    """Measure images (N, H, W, C), which may be a memory map, of original ``sizes`` (N, 2).

    Each statistic is (N,). In grey levels from 0 to 255: brightness (mean), contrast (standard
    deviation), sharpness (mean absolute Laplacian) and noise (standard deviation); entropy in
    bits; of colour images, saturation from 0 to 1 and the mean of each channel.
    """
    if sizes is None:
        sizes = np.broadcast_to(np.array(images.shape[1:3], np.int64), (len(images), 2))
    height, width = sizes.T.astype(np.float64)
    shapes = zip(SIZE_STATISTICS, (height, width, width / np.maximum(height, 1)), strict=True)
    return dict(shapes) | _in_parts(_measure, images)


def corner_statistics(images: UInt8Array) -> dict[str, Float64Array]:
    """Measure the corners of images (N, H, W, C), where markers and letters sit: each (N,).

    The mean and the peak (98th percentile, which a small bright letter raises), in grey levels.
    """
    return _in_parts(_measure_corners, images)


def _in_parts(
    measure: Callable[[UInt8Array], dict[str, Float64Array]], images: UInt8Array
) -> dict[str, Float64Array]:
    """Measure a few images at a time, so that little of a memory map is held."""
    step = max(1, _PIXELS_AT_ONCE // max(1, int(np.prod(images.shape[1:]))))
    starts = range(0, len(images), step)
    parts = [measure(np.asarray(images[start : start + step])) for start in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def to_picture(image: UInt8Array) -> Image.Image:
    """Return an image (H, W, C) for Pillow: channels that are no colours as their mean."""
    pixels = image if image.shape[2] == 3 else image.mean(axis=2).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels))


def thumbnail(image: UInt8Array) -> bytes:
    """Shrink an image (H, W, C), and make it a JPEG; a PNG if it is small already."""
    picture = to_picture(image)
    buffer = io.BytesIO()
    if max(picture.size) <= _SIDE // 2:
        picture.save(buffer, "PNG")
    else:
        picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
        picture.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def _to_grey(images: UInt8Array) -> FloatArray:
    """Luminance, or the mean of channels that are no colours, from 0 to 255: (N, H, W)."""
    channels = images.shape[3]
    weights = _LUMA if channels == 3 else np.full(channels, 1 / channels, np.float32)
    grey: FloatArray = images.astype(np.float32) @ weights
    return grey


def _measure(images: UInt8Array) -> dict[str, Float64Array]:
    grey = _to_grey(images)
    laplacian = sum(correlate1d(grey, [1, -2, 1], axis, mode="nearest") for axis in (1, 2))
    found = {
        "brightness": grey.mean(axis=(1, 2)),
        "contrast": grey.std(axis=(1, 2)),
        "sharpness": np.abs(laplacian).mean(axis=(1, 2)),
        "noise": _noise(grey),
        "entropy": _entropy(grey),
    }
    if images.shape[3] == 3:
        high, low = images.max(axis=3).astype(np.float32), images.min(axis=3).astype(np.float32)
        found["saturation"] = ((high - low) / np.maximum(high, 1)).mean(axis=(1, 2))
        for channel, mean in enumerate(images.mean(axis=(1, 2)).T):
            found[f"mean {('red', 'green', 'blue')[channel]}"] = mean
    return {name: values.astype(np.float64) for name, values in found.items()}


def _measure_corners(images: UInt8Array) -> dict[str, Float64Array]:
    side = max(1, round(_CORNER * min(images.shape[1:3])))
    grey, near, far = _to_grey(images), slice(None, side), slice(-side, None)
    places = {"top left": (near, near), "top right": (near, far)}
    places |= {"bottom left": (far, near), "bottom right": (far, far)}
    found: dict[str, Float64Array] = {}
    for place, (rows, columns) in places.items():
        corner = grey[:, rows, columns].reshape(len(grey), -1)
        found[f"mean of {place}"] = corner.mean(axis=1).astype(np.float64)
        found[f"peak at {place}"] = np.percentile(corner, 98, axis=1)
    return found


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
    bits: Float64Array = entropy(counts, base=2, axis=1)
    return bits
