"""Shapes: dead leaves, radial contours and pen strokes.

Dead leaves after Baradad et al. 2021; closed radial contours after Kataoka et al. 2022,
"Replacing Labeled Real-image Datasets with Auto-generated Contours".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pretrain.noise import spectral_noise, unit_range

Array = NDArray[np.float64]


def pixel_grid(size: int) -> tuple[Array, Array]:
    """Coordinates x and y (size, size) of the pixels' centres in [-1, 1]."""
    axis = (np.arange(size) + 0.5) * 2 / size - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x, y


def polygon_radius(theta: Array, corners: int, roundness: float) -> Array:
    """Radius of a regular polygon at angle ``theta``; 0 corners are a circle."""
    if corners < 3:
        return np.ones_like(theta)
    wedge = np.mod(theta, 2 * np.pi / corners) - np.pi / corners
    sharp: Array = np.cos(np.pi / corners) / np.cos(wedge)
    return (1 - roundness) * sharp + roundness


def dead_leaves(
    class_rng: np.random.Generator, rng: np.random.Generator, count: int, size: int
) -> Array:
    """Draw ``count`` images (count, size, size) of overlapping leaves of one kind."""
    corners, roundness = int(class_rng.choice([0, 3, 4, 5, 6])), class_rng.uniform(0, 0.4)
    power, largest = class_rng.uniform(1.2, 3.5), class_rng.uniform(0.25, 0.8)
    aspect, tilt = np.exp(class_rng.exponential(0.5)), class_rng.uniform(0, np.pi)
    free_tilt, filled = class_rng.random() < 0.5, class_rng.random()
    pens = class_rng.choice([0.0, 0.15])
    images = []
    for _ in range(count):
        leaf = {"corners": corners, "roundness": roundness, "aspect": aspect, "edge": pens}
        angle = rng.uniform(0, np.pi, 90) if free_tilt else tilt + rng.normal(0, 0.15, 90)
        radius = largest * np.maximum(rng.random(90), 0.02) ** (power / 2)
        radius = np.maximum(np.sort(radius)[::-1] * rng.uniform(0.85, 1.15), 0.04)
        images.append(paint_leaves(rng, size, radius, angle, leaf, filled))
    return np.stack(images)


def paint_leaves(
    rng: np.random.Generator,
    size: int,
    radii: Array,
    angles: Array,
    leaf: dict[str, float],
    filled: float,
) -> Array:
    """Paint leaves over one another, the smallest last; ``filled`` is the share with texture."""
    x, y = pixel_grid(size)
    image = np.full((size, size), rng.random())
    skin = spectral_noise(rng, 1, size, slope=rng.uniform(0.5, 2))[0] - 0.5
    for radius, angle in zip(radii, angles, strict=True):
        cx, cy = rng.uniform(-1.1, 1.1, 2)
        reach = radius * max(leaf["aspect"], 1.0) * 1.05
        box = window(cx, cy, reach, size)
        dx, dy = x[box] - cx, y[box] - cy
        u = (np.cos(angle) * dx + np.sin(angle) * dy) / leaf["aspect"]
        v = -np.sin(angle) * dx + np.cos(angle) * dy
        edge = polygon_radius(np.arctan2(v, u), int(leaf["corners"]), leaf["roundness"])
        depth = np.hypot(u, v) / (radius * edge)
        tone = rng.random() + (0.5 * skin[box] if rng.random() < filled else 0.0)
        image[box] = np.where(depth < 1, np.where(depth > 1 - leaf["edge"], 0.0, tone), image[box])
    return np.clip(image, 0, 1)


def window(cx: float, cy: float, reach: float, size: int) -> tuple[slice, slice]:
    """Rows and columns of the pixels within ``reach`` of (cx, cy) in [-1, 1] coordinates."""
    bounds = (np.array([cy - reach, cy + reach, cx - reach, cx + reach]) + 1) * size / 2
    top, bottom, left, right = np.clip(bounds, 0, size).round().astype(int)
    return slice(top, bottom), slice(left, right)


def contours(
    class_rng: np.random.Generator, rng: np.random.Generator, count: int, size: int
) -> Array:
    """Draw ``count`` images (count, size, size) of nested, wavy closed contours of one kind."""
    waves = np.arange(1, 13)
    amplitude = class_rng.exponential(0.35, 12) / waves**0.7 * (class_rng.random(12) < 0.4)
    phase = class_rng.uniform(0, 2 * np.pi, 12)
    rings, sharp = class_rng.uniform(0.5, 6), class_rng.uniform(0.5, 6)
    twist, fade = class_rng.normal(0, 2), class_rng.choice([0.0, 1.5])
    x, y = pixel_grid(size)
    shift = rng.normal(0, 0.12, (2, count, 1, 1))
    rho, theta = np.hypot(x - shift[0], y - shift[1]), np.arctan2(y - shift[1], x - shift[0])
    jitter = np.exp(rng.normal(0, 0.15, (12, count, 1, 1)))
    turned = theta + twist * rho + rng.normal(0, 0.2, (count, 1, 1))
    edge = np.full_like(rho, 0.75)
    for k in range(12):
        edge += 0.5 * amplitude[k] * jitter[k] * np.cos(waves[k] * turned + phase[k])
    depth = rho / np.maximum(edge, 0.08) / rng.uniform(0.8, 1.2, (count, 1, 1))
    lines = np.tanh(sharp * np.cos(2 * np.pi * rings * depth)) * 0.5 + 0.5
    return unit_range(np.where(depth < 1.2, lines * np.exp(-fade * depth), 0.0))


def strokes(
    class_rng: np.random.Generator, rng: np.random.Generator, count: int, size: int
) -> Array:
    """Draw ``count`` images (count, size, size) of one sign made of one to three pen strokes."""
    parts = int(class_rng.integers(1, 4))
    knots = class_rng.uniform(-0.75, 0.75, (parts, int(class_rng.integers(3, 6)), 2))
    time = np.linspace(0, 1, 160)
    degree = knots.shape[1] - 1
    basis = np.stack([time**k * (1 - time) ** (degree - k) for k in range(degree + 1)])
    basis *= np.array([binomial(degree, k) for k in range(degree + 1)])[:, None]
    stretched = knots * np.array([1.0, 1.2]) * 1.3
    drawn = stretched + rng.normal(0, 0.09, (count, *knots.shape))
    path = np.einsum("bpkd,kt->bptd", drawn, basis).reshape(count, -1, 2)
    path = path - path.mean(1, keepdims=True)
    path *= rng.uniform(0.55, 0.95, (count, 1, 1)) / np.abs(path).max((1, 2), keepdims=True)
    return np.stack([ink(p, rng.uniform(0.015, 0.07) * size, size) for p in path])


def binomial(n: int, k: int) -> int:
    """Number of ways to choose k of n."""
    return int(np.prod([(n - i) / (i + 1) for i in range(k)]).round())


def ink(path: Array, width: float, size: int) -> Array:
    """Draw points (P, 2) in [-1, 1] with a soft round pen, ``width`` pixels wide."""
    cell = np.clip((path + 1) * size / 2, 0, size - 1).astype(int)
    grid = np.zeros((size, size))
    grid[cell[:, 1], cell[:, 0]] = 1.0
    soft = gaussian_filter(grid, width / 1.6) * (width**1.0 + 1)
    return np.clip(2.0 * soft, 0, 1)
