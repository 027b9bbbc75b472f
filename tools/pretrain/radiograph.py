"""Radiograph-like images: soft bodies, bars and clouds under an exponential attenuation law.

No image was looked up to draw them: a torso-like ellipse, two air-filled lobes, arcs across them,
a bright column and blob in the middle and clouds of spectral noise in the lobes. Thickness is
summed along the ray and turned to grey by Beer and Lambert's law.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pretrain.noise import spectral_noise, unit_range
from pretrain.shapes import pixel_grid

Array = NDArray[np.float64]


def sigmoid(values: Array) -> Array:
    """Logistic curve, safe for large arguments."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * values)))


def blob(x: Array, y: Array, centre: Array, radius: Array, power: float, soft: float) -> Array:
    """Soft superellipses (B, H, W): 1 inside, 0 outside, an edge ``soft`` wide."""
    dx, dy = (x - centre[..., 0]) / radius[..., 0], (y - centre[..., 1]) / radius[..., 1]
    return sigmoid((1 - (np.abs(dx) ** power + np.abs(dy) ** power) ** (1 / power)) / soft)


def radiograph(
    class_rng: np.random.Generator, rng: np.random.Generator, count: int, size: int
) -> Array:
    """Draw ``count`` images (count, size, size) in [0, 1] of one radiograph-like class.

    A class fixes the body, the number and slant of the arcs and the clouds; an image draws its
    own pose, exposure and noise.
    """
    return expose(class_rng, class_rng, rng, count, size)


def opacities(
    class_rng: np.random.Generator, rng: np.random.Generator, count: int, size: int
) -> Array:
    """Draw ``count`` images (count, size, size) in [0, 1] that share nothing but their clouds.

    Every image has a body of its own, so that only the kind, place and amount of the clouds
    tell one class from another.
    """
    seed = int(class_rng.integers(2**32))
    drawn = (expose(rng, np.random.default_rng(seed), rng, 1, size) for _ in range(count))
    return np.concatenate(list(drawn))


def expose(
    body_rng: np.random.Generator,
    cloud_rng: np.random.Generator,
    rng: np.random.Generator,
    count: int,
    size: int,
) -> Array:
    """Sum up the thickness along the rays and expose the film, ``count`` times."""
    x, y = pixel_grid(size)
    side = rng.normal(0, 0.06, (count, 1, 1))
    jitter = np.exp(rng.normal(0, 0.08, (2, count, 1, 1)))
    x = (x - side) * jitter[0] + rng.normal(0, 0.06, (count, 1, 1)) * y
    y = (y - rng.normal(0, 0.06, (count, 1, 1))) * jitter[1]
    lobes, inner = lungs(body_rng, rng, x, y)
    body = blob(x, y, np.zeros(2), body_rng.uniform([0.8, 0.9], [1.1, 1.4]), 3.0, 0.06)
    bars = ribs(body_rng, rng, x, y) * body
    mist = clouds(cloud_rng, rng, x, y) * lobes
    thick = 1.3 * body + 0.9 * core(body_rng, x, y) - 0.95 * lobes + 0.35 * bars + 0.2 * inner
    thick += mist + 0.12 * spectral_noise(rng, count, size, slope=1.2)
    grey = 1 - np.exp(-np.maximum(thick, 0) * rng.uniform(0.6, 1.5, (count, 1, 1)))
    return np.asarray(unit_range(grey) ** rng.uniform(0.7, 1.4, (count, 1, 1)))


def lungs(
    class_rng: np.random.Generator, rng: np.random.Generator, x: Array, y: Array
) -> tuple[Array, Array]:
    """Two air-filled lobes (B, H, W), and fine branches that thin out from the middle."""
    count, side = len(x), x.shape[-1]
    wide, high = class_rng.uniform(0.28, 0.4), class_rng.uniform(0.5, 0.8)
    gap = class_rng.uniform(0.42, 0.52)
    size = np.array([wide, high]) * np.exp(rng.normal(0, 0.08, (2, count, 1, 1, 2)))
    left = blob(x, y, np.array([-gap, 0.0]), size[0], 2.5, 0.08)
    right = blob(x, y, np.array([gap, -0.03]), size[1], 2.5, 0.08)
    lobes = np.clip(left + right, 0, 1)
    noise = spectral_noise(rng, count, side, slope=1.0, band=3)
    branches = (1 - np.abs(2 * noise - 1)) ** 4 * np.exp(-2.0 * np.abs(x)) * lobes
    return lobes, branches * class_rng.uniform(0.5, 2)


def ribs(class_rng: np.random.Generator, rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Arcs across the body: their number, width, bend and slant belong to the class."""
    number, bend = class_rng.uniform(3, 9), class_rng.uniform(-0.7, 0.7)
    slant, thin = class_rng.uniform(-0.4, 0.6), class_rng.uniform(0.5, 3)
    phase = rng.uniform(0, 2 * np.pi, (len(x), 1, 1))
    height = y + bend * x**2 + slant * np.abs(x)
    return np.asarray(sigmoid(4 * (np.cos(np.pi * number * height + phase) * thin - thin + 1)))


def core(class_rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Bright column, off-centre blob and a dome below."""
    column = np.exp(-((x / class_rng.uniform(0.08, 0.2)) ** 2))
    place = class_rng.uniform([-0.05, 0.1], [0.25, 0.45])
    heart = blob(x, y, place, class_rng.uniform([0.2, 0.2], [0.4, 0.4]), 2.0, 0.12)
    dome = sigmoid((y - class_rng.uniform(0.5, 0.8) + 0.25 * np.cos(3 * np.pi * x)) / 0.06)
    return 0.6 * column + 0.8 * heart + 0.9 * dome


def clouds(class_rng: np.random.Generator, rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Opacities of one kind: none, hazy, patchy or streaky, all over or about one place."""
    size = x.shape[-1]
    kind = int(class_rng.integers(0, 4))
    amount, spread = class_rng.uniform(0.3, 1.1), class_rng.uniform(0.3, 0.8)
    place, local = class_rng.uniform([-0.5, -0.4], [0.5, 0.5]), class_rng.random() < 0.6
    slope = (1.0, 2.2, 1.4, 0.9)[kind] + class_rng.normal(0, 0.15)
    noise = spectral_noise(rng, len(x), size, slope=slope, stretch=(1, 1, 1, 3)[kind], angle=1.2)
    patchy = sigmoid((noise - 0.55) * (3 if kind == 1 else 12))
    if kind == 2:
        patchy = gaussian_filter(patchy, (0, size / 64, size / 64))
    moved = place + rng.normal(0, 0.08, (len(x), 1, 1, 2))
    near = np.exp(-((x - moved[..., 0]) ** 2 + (y - moved[..., 1]) ** 2) / spread**2)
    strength = 0.0 if kind == 0 else amount
    jitter = rng.uniform(0.7, 1.3, (len(x), 1, 1))
    return strength * jitter * patchy * (near if local else 1.0)
