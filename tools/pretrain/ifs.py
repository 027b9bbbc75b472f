"""Fractals: attractors of iterated function systems, drawn by the chaos game.

Classes by formula after Kataoka et al. 2020, "Pre-training without Natural Images"; systems
sampled by their singular values after Anderson and Farrell 2021, "Improving Fractal
Pre-training", algorithm 1, so that nearly every system is well conditioned.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pretrain.noise import spectral_noise

Array = NDArray[np.float64]
WALKERS, STEPS, BURN_IN = 256, 90, 15


def singular_values(rng: np.random.Generator, maps: int) -> Array:
    """Draw (maps, 2) singular values whose sum s1 + 2 s2 lies in [(5+N)/2, (6+N)/2]."""
    total = 0.5 * (5 + maps) + 0.5 * rng.random()
    low, high = total - 3 * maps + 3, total
    values = np.zeros((maps, 2))
    for k in range(maps - 1):
        first = rng.uniform(max(0.0, low / 3), min(1.0, high))
        low, high = low - first, high - first
        second = rng.uniform(max(0.0, low / 2), min(first, high / 2))
        low, high = low - 2 * second + 3, high - 2 * second
        values[k] = first, second
    last = rng.uniform(max(0.0, (high - 1) / 2), high / 3)
    values[-1] = high - 2 * last, last
    return values


def sample_system(rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw one system: matrices (N, 2, 2) and offsets (N, 2)."""
    maps = int(rng.integers(2, 7))
    values = singular_values(rng, maps)
    turn, twist = rotations(rng.uniform(-np.pi, np.pi, (2, maps)))
    signs = rng.choice([-1.0, 1.0], (maps, 1, 2))
    return (turn * values[:, None, :]) @ twist * signs, rng.uniform(-1, 1, (maps, 2))


def rotations(angles: Array) -> Array:
    """Rotation matrices (..., 2, 2)."""
    c, s = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)


def fractal(
    class_rng: np.random.Generator, rng: np.random.Generator, count: int, size: int
) -> Array:
    """Draw ``count`` images (count, size, size) in [0, 1] of one fractal class."""
    matrix, offset = sample_system(class_rng)
    jitter = rng.uniform(0.9, 1.1, (count, *matrix.shape))
    points = chaos_game(matrix * jitter, offset + rng.normal(0, 0.05, (count, *offset.shape)), rng)
    density = histogram(points, rng, size)
    floor = spectral_noise(rng, count, size, slope=rng.uniform(1.0, 2.5, count))
    share = rng.uniform(0, 0.5, (count, 1, 1)) * (rng.random((count, 1, 1)) < 0.5)
    return (1 - share) * density + share * floor * (1 - density)


def chaos_game(matrices: Array, offsets: Array, rng: np.random.Generator) -> Array:
    """Walk the attractors of B systems: (B, N, 2, 2) and (B, N, 2) give points (B, P, 2)."""
    count, maps = offsets.shape[:2]
    weight = np.abs(np.linalg.det(matrices)) + 0.01
    cumulative = np.cumsum(weight / weight.sum(1, keepdims=True), 1)
    rows = np.arange(count)[:, None]
    point = np.zeros((count, WALKERS, 2))
    path = np.empty((STEPS, count, WALKERS, 2))
    for step in range(BURN_IN + STEPS):
        draw = rng.random((count, WALKERS, 1))
        chosen = np.minimum((draw > cumulative[:, None]).sum(-1), maps - 1)
        moved = (matrices[rows, chosen] @ point[..., None])[..., 0] + offsets[rows, chosen]
        point = np.clip(moved, -1e3, 1e3)
        if step >= BURN_IN:
            path[step - BURN_IN] = point
    return path.transpose(1, 0, 2, 3).reshape(count, -1, 2)


def histogram(points: Array, rng: np.random.Generator, size: int) -> Array:
    """Count points (B, P, 2) per pixel and map the counts to grey by a log or a threshold."""
    count = len(points)
    low, high = np.quantile(points, [0.005, 0.995], axis=1)
    centre, half = (low + high) / 2, (high - low).max(-1, keepdims=True) / 2 + 1e-6
    half = half * rng.uniform(0.9, 1.3, half.shape)
    pixel = ((points - centre[:, None]) / half[:, None] + 1) * (size / 2)
    inside = ((pixel >= 0) & (pixel < size)).all(-1)
    cell = pixel.clip(0, size - 1).astype(np.int64)
    flat = (np.arange(count)[:, None] * size + cell[..., 1]) * size + cell[..., 0]
    grid = np.bincount(flat[inside], minlength=count * size * size).reshape(count, size, size)
    return grey(grid.astype(np.float64), rng)


def grey(grid: Array, rng: np.random.Generator) -> Array:
    """Map counts to [0, 1]: log density, slightly blurred, each image with its own gamma."""
    sigma = rng.uniform(0.3, 0.9)
    density = gaussian_filter(np.log1p(grid), (0, sigma, sigma))
    top = np.quantile(density, 0.995, axis=(1, 2), keepdims=True) + 1e-6
    return np.clip(density / top, 0, 1) ** rng.uniform(0.4, 1.2, (len(grid), 1, 1))
