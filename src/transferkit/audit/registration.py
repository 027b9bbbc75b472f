"""Registration of small images by affine warps, all pairs of a batch together.

The inverse compositional Lucas-Kanade method of Baker and Matthews, "Lucas-Kanade 20 years on"
(2004), with images normalised to mean 0 and length 1 as in Evangelidis and Psarakis, "Parametric
image alignment using enhanced correlation coefficient maximization" (2008), so that brightness and
contrast do not matter. A warp is an affine map (2, 3) in coordinates (x, y) that run from -1 to 1
over the image: the warped image shows at p what the moving one holds at warp @ (p, 1).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from transferkit._typing import BoolArray

_LEAST_OVERLAP = 0.7  # share of the template that the moving image must cover
_LARGEST_STEP = 0.2  # of half the image, per iteration

Float32Array: TypeAlias = NDArray[np.float32]


def sample(images: Float32Array, warps: Float32Array) -> tuple[Float32Array, BoolArray]:
    """Warp images (B, S, S) bilinearly, each by its own of the warps (B, 2, 3).

    Also returns a mask (B, S, S), true inside the moving image; outside, its border is repeated.
    """
    count, side = images.shape[:2]
    x, y = _grid(side)
    a = warps[:, :, :, None]
    u = a[:, 0, 0] * x + a[:, 0, 1] * y + a[:, 0, 2]
    v = a[:, 1, 0] * x + a[:, 1, 1] * y + a[:, 1, 2]
    inside = (np.abs(u) <= 1) & (np.abs(v) <= 1)
    half = np.float32(side / 2)
    column, right = _split((u + 1) * half - np.float32(0.5), side)
    row, down = _split((v + 1) * half - np.float32(0.5), side)
    first = row * side + column + (np.arange(count) * (side * side))[:, None]
    flat = images.reshape(-1)
    top = flat[first] * (1 - right) + flat[first + 1] * right
    bottom = flat[first + side] * (1 - right) + flat[first + side + 1] * right
    values = top * (1 - down) + bottom * down
    return values.reshape(count, side, side), inside.reshape(count, side, side)


def register(
    templates: Float32Array, moving: Float32Array, warps: Float32Array, *, iterations: int
) -> tuple[Float32Array, Float32Array]:
    """Improve the warps (B, 2, 3) that bring ``moving`` onto ``templates``, both (B, S, S).

    Returns the best correlation met (B,), -1 where too little overlaps, and its warp (B, 2, 3).
    """
    count, side = templates.shape[:2]
    inner = _inner(side)
    descent, inverse = _gauss_newton(templates, inner)
    warps = warps.astype(np.float32)
    best, found = np.full(count, -1, np.float32), warps.copy()
    for step in range(iterations + 1):
        warped, inside = sample(moving, warps)
        mask = inside & inner
        ours, theirs = _normalised(templates, mask), _normalised(warped, mask)
        correlation = np.einsum("bi,bi->b", ours, theirs)
        correlation[mask.mean(axis=(1, 2)) < _LEAST_OVERLAP] = -1
        better = correlation > best
        best[better], found[better] = correlation[better], warps[better]
        if step < iterations:
            slope = np.matmul(descent, (theirs - ours)[:, :, None])
            move = np.matmul(inverse, slope)[:, :, 0]
            warps = _undo(warps, np.clip(move, -_LARGEST_STEP, _LARGEST_STEP))
    return best, found


def detail_correlation(
    templates: Float32Array, moving: Float32Array, warps: Float32Array, *, sigma: float
) -> Float32Array:
    """Correlate what is finer than ``sigma`` pixels in registered images (B, S, S): (B,)."""
    warped, inside = sample(moving, warps)
    mask = inside & _inner(templates.shape[1], border=2)
    ours, theirs = (
        _normalised(images - gaussian_filter(images, (0, sigma, sigma), truncate=3), mask)
        for images in (templates, warped)
    )
    correlation: Float32Array = np.einsum("bi,bi->b", ours, theirs)
    return correlation


def _grid(side: int) -> tuple[Float32Array, Float32Array]:
    centres = ((np.arange(side) + 0.5) / side * 2 - 1).astype(np.float32)
    y, x = np.meshgrid(centres, centres, indexing="ij")
    return x.reshape(-1), y.reshape(-1)


def _split(position: Float32Array, side: int) -> tuple[NDArray[np.int64], Float32Array]:
    position = np.clip(position, 0, side - 1)
    whole = np.minimum(position.astype(np.int64), side - 2)
    return whole, (position - whole).astype(np.float32)


def _inner(side: int, border: int = 1) -> BoolArray:
    mask = np.zeros((side, side), bool)
    mask[border:-border, border:-border] = True
    return mask


def _normalised(images: Float32Array, mask: BoolArray) -> Float32Array:
    """Flatten to (B, S * S): mean 0 and length 1 over the mask, 0 outside it."""
    weight = mask.reshape(len(images), -1).astype(np.float32)
    flat = images.reshape(len(images), -1)
    total = np.maximum(weight.sum(axis=1, keepdims=True), 1)
    centred = (flat - np.einsum("bi,bi->b", flat, weight)[:, None] / total) * weight
    length = np.sqrt(np.einsum("bi,bi->b", centred, centred))[:, None]
    normalised: Float32Array = centred / np.maximum(length, np.float32(1e-6))
    return normalised


def _gauss_newton(templates: Float32Array, inner: BoolArray) -> tuple[Float32Array, Float32Array]:
    """Return steepest descent images (B, 6, S * S), and the inverse Hessians (B, 6, 6)."""
    count, side = templates.shape[:2]
    x, y = _grid(side)
    ours = _normalised(templates, np.broadcast_to(inner, templates.shape))
    image = ours.reshape(templates.shape)
    # Steepest descent images: the gradient of the template (the warp's unit is half an image) times
    # the derivative (x, y, 1) of a warped point. Without their mean, and their part along the
    # image itself, they are those of the normalised image.
    weight = inner.reshape(-1) * np.float32(side / 2)
    down, right = (g.reshape(count, -1) * weight for g in np.gradient(image, axis=(1, 2)))
    descent = np.stack([right * x, right * y, right, down * x, down * y, down], axis=1)
    descent -= descent.mean(axis=2, keepdims=True)
    descent -= np.einsum("bki,bi->bk", descent, ours)[:, :, None] * ours[:, None]
    # The damping keeps the Hessian of flat images invertible.
    hessian = np.matmul(descent, descent.transpose(0, 2, 1))
    damping = 1e-3 * np.trace(hessian, axis1=1, axis2=2) / 6 + 1e-6
    hessian += damping[:, None, None] * np.eye(6, dtype=np.float32)
    return descent.astype(np.float32), np.linalg.inv(hessian).astype(np.float32)


def _undo(warps: Float32Array, move: Float32Array) -> Float32Array:
    """Compose the warps with the inverse of the small warps ``identity + move`` (B, 6)."""
    bottom = np.tile(np.array([[[0, 0, 1]]], np.float32), (len(warps), 1, 1))
    small = np.concatenate([move.reshape(-1, 2, 3), 0 * bottom], axis=1)
    whole = np.concatenate([warps, bottom], axis=1)
    inverse = np.linalg.inv(small + np.eye(3, dtype=np.float32))
    composed: Float32Array = np.matmul(whole, inverse)[:, :2]
    return composed
