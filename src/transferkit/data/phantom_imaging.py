"""The phantom's sites: how an attenuation map becomes the picture that a clinic stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from transferkit._typing import UInt8Array
from transferkit._validation import check_number
from transferkit.data.phantom_anatomy import Maps


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
