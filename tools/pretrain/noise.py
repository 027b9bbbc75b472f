"""Noise textures by their spectrum, warped and passed through simple curves.

Perlin-like noise as filtered white noise (Baradad et al. 2021, "Learning to See by Looking at
Noise", spectrum models), with the orientation, band and curve of a class fixed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates

Array = NDArray[np.float64]


def unit_range(images: Array) -> Array:
    """Stretch every image (B, H, W) so that its 1st to 99th percentile fills [0, 1]."""
    low, high = np.quantile(images, [0.01, 0.99], axis=(1, 2), keepdims=True)
    return np.clip((images - low) / (high - low + 1e-9), 0, 1)


def spectral_noise(
    rng: np.random.Generator,
    count: int,
    size: int,
    *,
    slope: ArrayLike,
    stretch: ArrayLike = 1.0,
    angle: ArrayLike = 0.0,
    band: ArrayLike = 0.0,
) -> Array:
    """Gaussian noise (count, size, size) in [0, 1] whose amplitude falls as frequency ** -slope.

    Args:
        rng: Source of the white noise.
        count: Images to draw.
        size: Side in pixels.
        slope: Exponent; a scalar or one for each image.
        stretch: How many times finer the noise is across ``angle`` than along it.
        angle: Direction in radians.
        band: Frequencies (cycles an image) below this are damped; 0 keeps all.
    """
    slope, stretch, angle, band = (
        np.broadcast_to(np.asarray(v, np.float64), count)[:, None, None]
        for v in (slope, stretch, angle, band)
    )
    fy, fx = np.meshgrid(np.fft.fftfreq(size) * size, np.fft.rfftfreq(size) * size, indexing="ij")
    along = np.cos(angle) * fx + np.sin(angle) * fy
    across = -np.sin(angle) * fx + np.cos(angle) * fy
    radius = np.sqrt((along * np.sqrt(stretch)) ** 2 + (across / np.sqrt(stretch)) ** 2)
    shape = np.maximum(radius, 0.7) ** -slope * (1 - np.exp(-((radius / (band + 1e-3)) ** 4)))
    white = np.fft.rfft2(rng.standard_normal((count, size, size)))
    return unit_range(np.fft.irfft2(white * shape, (size, size)))


def curve(images: Array, kind: int, strength: ArrayLike) -> Array:
    """Pass noise in [0, 1] through one of five curves: none, ridges, steps, bands, contrast."""
    centred = 2 * images - 1
    if kind == 1:
        return 1 - np.abs(centred) ** (0.4 + 0.3 * np.asarray(strength))
    if kind == 2:
        levels = np.round(1 + 2 * np.asarray(strength))
        return np.round(images * levels) / levels
    if kind == 3:
        return 0.5 + 0.5 * np.sin(2 * np.pi * (1 + np.asarray(strength)) * images)
    if kind == 4:
        return 1 / (1 + np.exp(-4 * np.asarray(strength) * centred))
    return images


def warp(images: Array, fields: Array, pixels: ArrayLike) -> Array:
    """Move the pixels of (B, H, W) by fields (B, 2, H, W) in [0, 1], ``pixels`` at most."""
    size = images.shape[-1]
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"))
    moved = grid + (fields - 0.5) * 2 * np.asarray(pixels)
    pairs = zip(images, moved, strict=True)
    return np.stack([map_coordinates(i, m, order=1, mode="reflect") for i, m in pairs])


def texture(
    class_rng: np.random.Generator, rng: np.random.Generator, count: int, size: int
) -> Array:
    """Draw ``count`` images (count, size, size) in [0, 1] of one noise class."""
    slope, stretch = class_rng.uniform(0.4, 2.6), np.exp(class_rng.exponential(0.5))
    angle, band = class_rng.uniform(0, np.pi), class_rng.choice([0, 2, 4, 8, 14])
    kind, strength = int(class_rng.integers(0, 5)), class_rng.uniform(0.2, 3)
    bend = class_rng.choice([0.0, 0.04, 0.1])
    images = spectral_noise(
        rng,
        count,
        size,
        slope=slope + rng.normal(0, 0.05, count),
        stretch=stretch * np.exp(rng.normal(0, 0.05, count)),
        angle=angle + rng.normal(0, 0.08, count),
        band=band * np.exp(rng.normal(0, 0.05, count)),
    )
    if bend:
        fields = spectral_noise(rng, 2 * count, size, slope=2.2).reshape(count, 2, size, size)
        images = warp(images, fields, bend * size)
    return unit_range(curve(images, kind, strength * np.exp(rng.normal(0, 0.05, (count, 1, 1)))))
