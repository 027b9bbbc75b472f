"""The phantom's patients, drawn as attenuation maps, and the sites that take pictures of them.

Coordinates run from -1 to 1, x to the right of the picture (the patient's left), y downwards. All
shapes are soft-edged formulas, so that a map can be drawn at any size. Nothing here is a real
patient, and no image is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from transferkit._typing import UInt8Array
from transferkit._validation import check_number

Maps: TypeAlias = NDArray[np.floating]
"""float32 of shape (n, H, W), or (n, 1, 1) for one number per picture."""

BLOBS = 4
"""The most opacities that one picture can have."""

FULL = 0.38
"""Attenuation that opacities can add at most: lung filled to the density of soft tissue."""

ANATOMY = {
    # name: mean and standard deviation over patients
    "width": (1.0, 0.06),
    "body": (0.93, 0.04),
    "base": (0.52, 0.06),
    "dome": (0.55, 0.12),
    "apex": (0.80, 0.04),
    "lung_x": (0.44, 0.02),
    "lung_rx": (0.325, 0.02),
    "heart_x": (0.13, 0.03),
    "heart_y": (0.33, 0.04),
    "heart_rx": (0.30, 0.035),
    "heart_ry": (0.30, 0.03),
    "mediastinum": (0.13, 0.018),
    "aorta": (0.10, 0.02),
    "air": (0.70, 0.035),
    "tissue": (0.60, 0.04),
    "bone": (0.085, 0.025),
    "rib_gap": (0.205, 0.014),
    "rib_phase": (0.0, 0.3),
    "rib_arch": (0.55, 0.10),
    "vessels": (0.10, 0.03),
    "stomach": (0.10, 0.07),
    "breast": (0.02, 0.025),
}
"""What differs between patients, in units of half a picture or of attenuation."""

POSE = {"turn": (0.0, 0.025), "shift_x": (0.0, 0.03), "shift_y": (0.0, 0.03), "zoom": (1.0, 0.03)}
"""What differs between two pictures of one patient."""


@dataclass(frozen=True, slots=True, eq=False)
class Lesions:
    """The opacities of n pictures: ``BLOBS`` each (n, BLOBS), and a haze over both lungs (n,)."""

    strength: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    radius: NDArray[np.float64]
    haze: NDArray[np.float64]


def draw(
    table: dict[str, tuple[float, float]], count: int, rng: np.random.Generator
) -> dict[str, Maps]:
    """Draw one number per row and name; row i does not depend on the count."""
    z = np.clip(rng.standard_normal((count, len(table))), -2.5, 2.5)
    return {
        name: (mean + deviation * z[:, column]).astype(np.float32)[:, None, None]
        for column, (name, (mean, deviation)) in enumerate(table.items())
    }


def draw_lesions(
    positive: NDArray[np.bool_], rng: np.random.Generator, opacity: float, opacity_size: float
) -> Lesions:
    """Draw opacities for the ``positive`` pictures (n,), and faint ones for a few others."""
    count = len(positive)
    u = rng.random((count, 4 * BLOBS + 3))
    place = u[:, : 4 * BLOBS].reshape(count, 4, BLOBS)
    severity = np.exp(0.6 * (2 * u[:, -1] - 1))
    number = 1 + np.floor(u[:, -2] * BLOBS)
    shown = np.arange(BLOBS) < number[:, None]
    strength = 0.68 * severity[:, None] * (0.7 + 0.6 * place[:, 3]) / number[:, None] ** 0.4
    faint = 0.18 * (u[:, -3] < 0.3)
    weight = np.where(positive, opacity, faint)
    side = np.where(place[:, 0] < 0.5, -1.0, 1.0)
    return Lesions(
        strength=strength * shown * weight[:, None],
        x=side * (0.36 + 0.22 * np.abs(2 * place[:, 0] - 1)),
        y=-0.35 + 0.75 * np.sqrt(place[:, 1]),
        radius=opacity_size * (0.14 + 0.16 * place[:, 2]),
        haze=0.16 * severity * np.where(positive, opacity, 0.0) * u[:, -3],
    )


def attenuation(
    patient: dict[str, Maps],
    pose: dict[str, Maps],
    lesions: Lesions,
    texture: Maps,
    *,
    field_of_view: Maps,
) -> Maps:
    """Return the attenuation of n chests (n, H, W), 0 for air, about 1 for bone over heart.

    ``texture`` is white noise (n, H, W), which becomes vessels and ragged edges.
    """
    x, y = coordinates(pose, texture.shape[1:], field_of_view)
    x = x / patient["width"]
    coarse = smooth(texture, 0.04)
    body = body_mask(patient, x, y)
    heart = heart_mask(patient, x, y)
    middle = mediastinum_mask(patient, x, y)
    lung = lung_mask(patient, x, y) * body
    aerated = lung * (1 - 0.80 * heart) * (1 - 0.92 * middle)
    ill = lesion_map(lesions, x, y, coarse)
    air = patient["air"] * aerated
    depth = 1.08 - 0.30 * x * x
    total = patient["tissue"] * body * depth * (1 - air)
    total += 0.05 * heart + 0.11 * middle + 0.06 * spine(x, y) * body
    total += patient["bone"] * bones(patient, x, y) * body
    # the last term is the air that is left in an opacity, which makes it uneven
    total += aerated * (ill + vessels(patient, x, y, texture, coarse) + 0.22 * ill * coarse)
    total += soft_parts(patient, x, y) * body
    chest: Maps = np.maximum(total, 0)
    return chest


def coordinates(
    pose: dict[str, Maps], shape: tuple[int, ...], field_of_view: Maps
) -> tuple[Maps, Maps]:
    """Return x and y of every pixel as the patient stands, turned, moved and magnified."""
    height, width = shape
    v = ((np.arange(height, dtype=np.float32) + 0.5) / height * 2 - 1)[None, :, None]
    u = ((np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1)[None, None, :]
    scale = field_of_view * pose["zoom"]
    cos, sin = np.cos(pose["turn"]) * scale, np.sin(pose["turn"]) * scale
    return u * cos - v * sin + pose["shift_x"], u * sin + v * cos + pose["shift_y"]


def sigmoid(z: Maps) -> Maps:
    """Return 1 / (1 + exp(-z)), by way of tanh, which does not overflow."""
    half: Maps = 0.5 + 0.5 * np.tanh(0.5 * z)
    return half


def bell(z: Maps) -> Maps:
    """Return exp(-z^2)."""
    value: Maps = np.exp(-z * z)
    return value


def smooth(texture: Maps, share: float) -> Maps:
    """Blur by ``share`` of the width and bring back to a standard deviation of about 1."""
    sigma = max(0.3, share * texture.shape[2])
    blurred: Maps = ndimage.gaussian_filter(texture, (0, sigma, sigma), truncate=2.5, mode="wrap")
    return blurred * np.float32(2 * np.sqrt(np.pi) * sigma)


def body_mask(patient: dict[str, Maps], x: Maps, y: Maps) -> Maps:
    """Trunk, sloping shoulders and neck."""
    shoulder = sigmoid((y + 0.86) / 0.045)
    half = 0.30 + (patient["body"] - 0.30) * shoulder
    return sigmoid((half - np.abs(x)) / 0.025)


def lung_mask(patient: dict[str, Maps], x: Maps, y: Maps) -> Maps:
    """Both lungs, narrow at the apex, cut off below by the domes of the diaphragm."""
    left = x > 0
    dx = np.abs(x) - patient["lung_x"]
    dy = y - 0.15
    rx = patient["lung_rx"] * (1 + 0.28 * dy)
    ry = patient["apex"] + 0.12
    outline = np.abs(dx / rx) ** np.float32(2.6) + np.abs(dy / ry) ** np.float32(2.6)
    base = patient["base"] + np.where(left, np.float32(0.05), np.float32(0))
    dome = base + patient["dome"] * (np.abs(x) - 0.36) ** 2 * 4
    return sigmoid((1 - outline) / 0.09) * sigmoid((dome - y) / 0.02)


def heart_mask(patient: dict[str, Maps], x: Maps, y: Maps) -> Maps:
    """A tilted ellipse, more to the patient's left, whose foot lies in the diaphragm."""
    dx, dy = x - patient["heart_x"], y - patient["heart_y"]
    along, across = 0.90 * dx + 0.44 * dy, 0.90 * dy - 0.44 * dx
    radius = (along / patient["heart_rx"]) ** 2 + (across / patient["heart_ry"]) ** 2
    return sigmoid((1 - radius) / 0.16)


def mediastinum_mask(patient: dict[str, Maps], x: Maps, y: Maps) -> Maps:
    """The band between the lungs, wider above the heart, with the knob of the aorta."""
    half = patient["mediastinum"] * (1 + 0.35 * sigmoid((y - 0.1) / 0.12))
    band = sigmoid((half - np.abs(x - 0.01)) / 0.025)
    knob = bell((x - 0.13) / patient["aorta"]) * bell((y + 0.22) / 0.10)
    trachea = bell(x / 0.035) * sigmoid((-0.30 - y) / 0.05)
    return np.clip(band + 0.8 * knob - 0.35 * trachea, 0, 1)


def spine(x: Maps, y: Maps) -> Maps:
    """Vertebrae behind the mediastinum."""
    column: Maps = bell(x / 0.075) * (0.75 + 0.25 * np.sin(34 * y))
    return column


def bones(patient: dict[str, Maps], x: Maps, y: Maps) -> Maps:
    """Back and front ribs of both sides, and the collarbones."""
    away = np.abs(x)
    cage = sigmoid((0.86 - away) / 0.03) * sigmoid((away - 0.10) / 0.03)
    cage = cage * sigmoid((y + 0.80) / 0.05) * sigmoid((0.80 - y) / 0.08)
    gap, phase = patient["rib_gap"], patient["rib_phase"]
    back = rib((y - patient["rib_arch"] * (away - 0.25) ** 2 * (1 + y)) / gap + phase)
    front = rib((y - 0.55 * (0.9 - away) + 0.2) / (1.15 * gap) + phase)
    collar_y = -0.66 + 0.16 * (0.55 - away) + 0.02 * np.sin(9 * away)
    collar = bell((y - collar_y) / 0.035) * sigmoid((0.80 - away) / 0.04)
    collar = collar * sigmoid((away - 0.09) / 0.02)
    front = front * sigmoid((away - 0.3) / 0.05)
    return cage * (back + 0.35 * front) + 1.3 * collar


def rib(phase: Maps) -> Maps:
    """A periodic band with a brighter rim, as a tube of bone throws it."""
    place = np.abs(phase - np.rint(phase))
    band: Maps = sigmoid((0.20 - place) / 0.035) * (0.65 + 1.6 * place)
    return band


def vessels(patient: dict[str, Maps], x: Maps, y: Maps, texture: Maps, coarse: Maps) -> Maps:
    """Branching shadows, dense at the hila and thin at the lung's edge."""
    fine = smooth(texture, 0.014)
    hilum = bell((np.abs(x) - 0.20) / 0.26) * bell((y - 0.02) / 0.42)
    lines = np.maximum(0, 1 - np.abs(fine + 0.4 * coarse)) ** 2
    shadows: Maps = patient["vessels"] * (0.25 + 1.2 * hilum) * lines + 0.05 * hilum
    return shadows


def lesion_map(lesions: Lesions, x: Maps, y: Maps, coarse: Maps) -> Maps:
    """Patches with ragged edges, and the haze."""
    total = np.zeros_like(x) + lesions.haze.astype(np.float32)[:, None, None]
    for k in range(BLOBS):
        strength, cx, cy, radius = (
            values[:, k].astype(np.float32)[:, None, None]
            for values in (lesions.strength, lesions.x, lesions.y, lesions.radius)
        )
        distance = ((x - cx) ** 2 + 0.7 * (y - cy) ** 2) / radius**2
        total += strength * bell(np.maximum(distance + 0.35 * coarse, 0))
    filled: Maps = FULL * (1 - np.exp(-total / FULL))
    return filled


def soft_parts(patient: dict[str, Maps], x: Maps, y: Maps) -> Maps:
    """Soft shadows over the chest wall, and the gas of the stomach under the left dome."""
    wall = bell((np.abs(x) - 0.45) / 0.28) * bell((y - 0.30) / 0.30)
    gas = bell((x - 0.42) / 0.17) * bell((y - 0.80) / 0.09)
    belly = sigmoid((y - 0.62) / 0.10)
    return (
        np.maximum(patient["breast"], 0) * wall
        - np.maximum(patient["stomach"], 0) * gas
        + (0.06 * belly)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomSite:
    """How one site takes its pictures; the default is the site of the train split.

    Attributes:
        exposure: Brightness added, as a share of the full range.
        contrast: Factor on the distance from middle grey.
        noise: Standard deviation of the grain, as a share of the full range.
        blur: Standard deviation of the blur, in 64ths of the width.
        field_of_view: How much is seen, 1 being the chest; more shows the patient smaller.
        marker: Share of the pictures that carry a bright letter in the upper corner.

    Example:
        >>> import transferkit as tk
        >>> bright = tk.PhantomSite(exposure=0.2, noise=0.03)
        >>> splits = tk.phantom_splits(sizes=(20, 20, 20), image_size=32, sites={"test": bright})
        >>> bool(splits["test"].images.mean() > splits["val"].images.mean())
        True
    """

    exposure: float = 0.0
    contrast: float = 1.0
    noise: float = 0.02
    blur: float = 0.3
    field_of_view: float = 1.0
    marker: float = 0.1

    def __post_init__(self) -> None:
        check_number("exposure", self.exposure)
        for name in ("noise", "blur"):
            check_number(name, getattr(self, name), least=0)
        for name in ("contrast", "field_of_view"):
            check_number(name, getattr(self, name), above=0)
        check_number("marker", self.marker, least=0, most=1)

    def toward(self, other: PhantomSite, share: float) -> PhantomSite:
        """Return the site that lies ``share`` of the way to ``other``; beyond 1 is further."""
        values = {
            field.name: (1 - share) * getattr(self, field.name) + share * getattr(other, field.name)
            for field in fields(self)
        }
        return PhantomSite(**{**values, "marker": min(values["marker"], 1.0)})


HOME = PhantomSite()
"""Where train and val come from."""

AWAY = PhantomSite(
    exposure=0.12, contrast=0.86, noise=0.022, blur=0.38, field_of_view=1.2, marker=0.6
)
"""Where test comes from at ``shift=1``."""

EXPOSURE_JITTER = 0.02
CONTRAST_JITTER = 0.05
NOISE_JITTER = 0.4


def expose(attenuation: Maps, sites: Sequence[PhantomSite], rng: np.random.Generator) -> UInt8Array:
    """Turn attenuation (n, H, W) into pictures uint8 (n, H, W, 1), each exposed differently."""
    count, height, width = attenuation.shape
    draws = rng.random((count, 4), dtype=np.float32)[:, :, None, None]
    contrast = column(sites, "contrast") * (1 + CONTRAST_JITTER * (2 * draws[:, 0] - 1))
    exposure = column(sites, "exposure") + EXPOSURE_JITTER * (2 * draws[:, 1] - 1)
    values = 0.5 + (0.5 - np.exp(-1.75 * attenuation)) * contrast + exposure
    values = blur(values, column(sites, "blur").ravel() * width / 64)
    grain = rng.standard_normal((count, height, width), dtype=np.float32)
    noise = column(sites, "noise") * (1 + NOISE_JITTER * (2 * draws[:, 3] - 1))
    values += noise * grain
    glyph = marker_glyph(height, width)
    shown = draws[:, 2] < column(sites, "marker")
    values = np.where(shown & (glyph > 0), glyph, values)
    pixels: UInt8Array = np.clip(np.rint(255 * values), 0, 255).astype(np.uint8)
    return pixels[..., None]


def column(sites: Sequence[PhantomSite], name: str) -> Maps:
    """Return one number of each site, (n, 1, 1)."""
    return np.array([getattr(site, name) for site in sites], np.float32)[:, None, None]


def blur(values: Maps, sigmas: NDArray[np.float32]) -> Maps:
    """Blur picture i by ``sigmas[i]`` pixels."""
    blurred = np.empty_like(values)
    for sigma in np.unique(sigmas):
        rows = sigmas == sigma
        widths = (0, sigma, sigma)
        blurred[rows] = ndimage.gaussian_filter(values[rows], widths, truncate=3, mode="nearest")
    return blurred


def marker_glyph(height: int, width: int) -> Maps:
    """Draw the letter L for the upper right corner, 0 where there is none, (1, H, W)."""
    v = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None]
    u = ((np.arange(width, dtype=np.float32) + 0.5) / width)[None, :]
    stem = (u > 0.88) & (u < 0.915) & (v > 0.04) & (v < 0.16)
    foot = (u > 0.88) & (u < 0.96) & (v > 0.125) & (v < 0.16)
    return np.where(stem | foot, np.float32(0.95), np.float32(0))[None]
