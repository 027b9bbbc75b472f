"""Near-duplicates: copies that were compressed, brightened, cropped, turned or flipped.

Candidates come from a coarse descriptor, looked up in flipped, cropped and turned versions. The
best few of each image are then registered, coarse to fine, and those are kept whose fine detail
correlates. Those are certain to be copies that are more alike than different images of the same
data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array, UInt8Array
from transferkit.audit.image_statistics import to_picture

COARSE, MIDDLE, FINE = 16, 32, 112  # sides of the images that are compared
_PAIRS = 256  # registered at a time
_ROWS, _COLUMNS = 256, 8192  # of a block of cosines: 8 MB stay in the processor's cache
_CANDIDATE_COSINE = 0.75
_COMPONENTS = 64  # of the coarse descriptor: 95 % of the variance of X-rays
_PARTNERS = 4  # that an image may get from each look-up
_CANDIDATES, _REGISTERED = 24, 8  # of an image: to register coarsely, and those to go on with
_COARSE_LEAST, _MIDDLE_LEAST = 0.9, 0.7  # correlation at which a pair goes on
_THRESHOLD_SIDES, _THRESHOLDS = (32, 64, 112), (0.85, 0.72, 0.68)  # small images hold less detail
_NULL, _DEVIATIONS = 400, 6.0  # pairs of different images, and how far above them copies lie
_FLIPS = {"": (1, 1), "flipped": (-1, 1), "upside down": (1, -1), "turned by 180 degrees": (-1, -1)}
_LEAST_OVERLAP = 0.7  # share of the template that the moving image must cover
_LARGEST_STEP = 0.2  # of half the image, per iteration

Float32Array: TypeAlias = NDArray[np.float32]
_Hits: TypeAlias = tuple[Int64Array, Int64Array, Float32Array]
"""Query, partner and cosine of each pair (P,)."""


@dataclass(frozen=True, slots=True, eq=False)
class DuplicatePairs:
    """P pairs of images that show the same picture."""

    first: Int64Array  # the smaller index of each pair
    second: Int64Array
    correlation: Float64Array  # of their fine detail
    certain: BoolArray  # more alike than different images of this data ever are
    flip: tuple[str, ...]  # how one is flipped against the other, in words; empty if it is not


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """Pairs (P,) that may be copies, the warp (P, 2, 3) between them and the number of its flip."""

    template: Int64Array
    moving: Int64Array
    warp: Float32Array
    flip: Int64Array

    def __len__(self) -> int:
        return len(self.template)

    def keep(self, mask: BoolArray, warp: Float32Array) -> _Candidates:
        """Keep the pairs of ``mask`` with their improved warps."""
        return _Candidates(self.template[mask], self.moving[mask], warp[mask], self.flip[mask])


def near_duplicate_pairs(parts: Sequence[UInt8Array]) -> DuplicatePairs:
    """Find the pairs of images, numbered through the parts (N, H, W, C), that are edited copies.

    Found are identical images, recompression, brightness and contrast, crops by 5 % of any side,
    rotations by 3 degrees, and flips, alone or together; blank images never. Each image takes at
    most 10 KB and 2 ms, and the look-up of each pair 70 ns: 12 minutes on one thread for 10^5.
    """
    middle = _shrunk(parts, MIDDLE)
    coarse = middle.reshape(-1, COARSE, 2, COARSE, 2).mean(axis=(2, 4))
    found = _candidates(coarse)
    found = _registered(found, coarse, iterations=4, least=_COARSE_LEAST)
    found = _registered(found, middle, iterations=3, least=-1.0)
    detail = np.zeros(len(found), np.float32)
    for some in _chunks(len(found), _PAIRS):
        images = middle[found.template[some]], middle[found.moving[some]]
        detail[some] = detail_correlation(*images, found.warp[some], sigma=1.0)
    found = found.keep(detail > _MIDDLE_LEAST, found.warp)
    side = max(MIDDLE, min(FINE, *(min(part.shape[1:3]) for part in parts)))
    detail = _fine_detail(found, parts, side)
    likely = detail >= np.interp(side, _THRESHOLD_SIDES, _THRESHOLDS)
    if not likely.any():
        return _pairs(found.keep(likely, found.warp), detail[likely], 1.0)
    other = _registered(_different(coarse), coarse, iterations=4, least=-2.0)
    other = _registered(other, middle, iterations=3, least=-2.0)
    limit = _limit(_fine_detail(other, parts, side))
    return _pairs(found.keep(likely, found.warp), detail[likely], limit)


def _chunks(count: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, count, step)]


def _shrunk(parts: Sequence[UInt8Array], side: int, rows: Int64Array | None = None) -> Float32Array:
    """Return the images at ``rows`` as grey squares (B, side, side), from 0 to 255."""
    ends = np.cumsum([len(part) for part in parts])
    rows = np.arange(ends[-1]) if rows is None else rows
    small = np.empty((len(rows), side, side), np.float32)
    for index, row in enumerate(rows.tolist()):
        which = int(np.searchsorted(ends, row, side="right"))
        image = parts[which][row - ends[which]]  # counted from the end of its part
        grey = to_picture(image).convert("L")
        small[index] = np.asarray(grey.resize((side, side), Image.Resampling.BOX))
    return small


def _candidates(coarse: Float32Array) -> _Candidates:
    """Look up every variant of every image, and keep the best variant of the likeliest pairs."""
    warps, flips = _variants()
    hits = list(_look_ups(coarse, warps))
    variant = np.repeat(np.arange(len(warps)), [len(cosine) for _, _, cosine in hits])
    moving, template, cosine = (np.concatenate(part) for part in zip(*hits, strict=True))
    pair = np.minimum(moving, template) * len(coarse) + np.maximum(moving, template)
    order = np.lexsort((moving, -cosine, pair))
    best = order[np.diff(pair[order], prepend=-1) > 0]  # each pair once, with its largest cosine
    best = best[_among_best(template[best], moving[best], cosine[best], _CANDIDATES)]
    return _Candidates(template[best], moving[best], warps[variant[best]], flips[variant[best]])


def _variants() -> tuple[Float32Array, Int64Array]:
    """Return the warps (V, 2, 3) under which images are looked up, and the flip of each."""
    crops = [(1.0, 0.0, 0.0, 0.0), (0.9, 0.0, 0.0, 0.0)]
    crops += [(0.95, x, y, 0.0) for x, y in product((-0.05, 0.05), repeat=2)]
    crops += [(1.0, 0.0, 0.0, np.deg2rad(3)), (1.0, 0.0, 0.0, -np.deg2rad(3))]
    warps = [
        [[s * fx * np.cos(r), -s * fx * np.sin(r), x], [s * fy * np.sin(r), s * fy * np.cos(r), y]]
        for (fx, fy), (s, x, y, r) in product(_FLIPS.values(), crops)
    ]
    return np.array(warps, np.float32), np.repeat(np.arange(len(_FLIPS)), len(crops))


def _look_ups(coarse: Float32Array, warps: Float32Array) -> Iterator[_Hits]:
    """Look the images up under each warp, described by the main components of their pixels."""
    plain = _descriptors(coarse)
    centre = plain.mean(axis=0)
    centred = plain - centre
    axes = np.linalg.eigh(centred.T @ centred)[1][:, -_COMPONENTS:]
    units = _unit_rows(centred @ axes)
    units[coarse.std(axis=(1, 2)) < 1] = 0  # blank
    queries = np.empty_like(units)
    for warp in warps:
        for part in _chunks(len(coarse), _PAIRS):
            some = coarse[part]
            changed = sample(some, np.broadcast_to(warp, (len(some), 2, 3)))[0]
            queries[part] = _unit_rows((_descriptors(changed) - centre) @ axes)
        yield similar_pairs(units, queries, floor=_CANDIDATE_COSINE, most=_PARTNERS)


def _descriptors(coarse: Float32Array) -> Float32Array:
    """Return the pixels (N, S * S) of images (N, S, S), of mean 0 and deviation 1."""
    flat = coarse.reshape(len(coarse), -1)
    centred = flat - flat.mean(axis=1, keepdims=True)
    described: Float32Array = centred / np.maximum(flat.std(axis=1, keepdims=True), 1e-3)
    return described


def _unit_rows(rows: FloatArray) -> Float32Array:
    """Bring rows (N, D) to length 1; rows of zeros stay zero and are similar to nothing."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    units: Float32Array = (rows / np.maximum(length, 1e-6)).astype(np.float32)
    return units


def similar_pairs(units: Float32Array, queries: Float32Array, *, floor: float, most: int) -> _Hits:
    """Find the ``most`` rows of ``units`` (N, D) nearest to each query (N, D) above a cosine.

    Query i is a changed version of row i, and not its partner. All rows have length 1.
    """
    found: list[_Hits] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    for top in range(0, len(queries), _ROWS):
        near = []
        for left in range(0, len(units), _COLUMNS):
            cosines = queries[top : top + _ROWS] @ units[left : left + _COLUMNS].T
            rows = np.arange(len(cosines))
            own = rows[(rows + top >= left) & (rows + top < left + cosines.shape[1])]
            cosines[own, own + top - left] = -1
            # A few times the maximum is several times faster than sorting out the largest few.
            for _ in range(min(most, cosines.shape[1])):
                column = cosines.argmax(axis=1)
                best = cosines[rows, column]
                hit = best >= floor
                near.append((rows[hit] + top, column[hit] + left, best[hit]))
                cosines[rows, column] = -1
        first, second, cosine = (np.concatenate(part) for part in zip(*near, strict=True))
        kept = places(first, cosine) < most
        found.append((first[kept], second[kept], cosine[kept]))
    query, partner, cosine = (np.concatenate(part) for part in zip(*found, strict=True))
    return query, partner, cosine


def places(rows: Int64Array, scores: FloatArray) -> Int64Array:
    """Return the place of each score (P,) among those of the same row (P,): 0 is the highest."""
    order = np.lexsort((-scores, rows))
    starts = np.flatnonzero(np.diff(rows[order], prepend=-1))
    counts = np.diff(starts, append=len(rows))
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows)) - np.repeat(starts, counts)
    return place


def _among_best(first: Int64Array, second: Int64Array, score: Float32Array, most: int) -> BoolArray:
    """Which pairs are among the ``most`` best of either image (P,): a linear number."""
    place = places(np.concatenate([first, second]), np.concatenate([score, score]))
    near: BoolArray = place.reshape(2, -1).min(axis=0) < most
    return near


def _registered(
    found: _Candidates, images: Float32Array, *, iterations: int, least: float
) -> _Candidates:
    """Register the pairs, and keep the best of each image that correlate by ``least``."""
    correlation = np.zeros(len(found), np.float32)
    warp = found.warp.copy()
    for some in _chunks(len(found), _PAIRS):
        correlation[some], warp[some] = register(
            images[found.template[some]],
            images[found.moving[some]],
            found.warp[some],
            iterations=iterations,
        )
    near = _among_best(found.template, found.moving, correlation, _REGISTERED)
    return found.keep(near & (correlation > least), warp)


def _fine_detail(found: _Candidates, parts: Sequence[UInt8Array], side: int) -> Float32Array:
    """Correlation (P,) of the fine detail of registered pairs, at ``side`` pixels."""
    detail = np.zeros(len(found), np.float32)
    for some in _chunks(len(found), 64):
        template = _shrunk(parts, side, found.template[some])
        moving = _shrunk(parts, side, found.moving[some])
        warp = register(template, moving, found.warp[some], iterations=4)[1]
        sigma = max(1.0, 2 * side / FINE)
        detail[some] = detail_correlation(template, moving, warp, sigma=sigma)
    return detail


# What the detail of different images correlates by depends on the data: .2 (X-rays) to .6 (images
# of 8 pixels, or phantoms of 32), so that no one limit serves all. Images that are alike in coarse
# shape, but not the very nearest, are not copies (unless there are eight and more of each), and
# Fisher's transform (arctanh) of their correlations is nearly normal. The best matches of
# different images lie up to 4 robust deviations above the median in X-rays and phantoms, and 5.7
# in digits of 8 pixels.
def _different(coarse: Float32Array) -> _Candidates:
    """Pair images with the 9th to 16th nearest to them."""
    rows = np.flatnonzero(coarse.std(axis=(1, 2)) >= 1)
    units = _unit_rows(_descriptors(coarse[rows]))
    rng = np.random.default_rng(0)
    first = rng.permutation(len(rows))[:_NULL]
    cosines = units[first] @ units.T
    cosines[np.arange(len(first)), first] = 2.0
    near, far = min(9, (len(rows) + 1) // 2), min(17, len(rows))
    order = np.argsort(-cosines, axis=1)[:, near:far]
    template, moving = np.repeat(first, order.shape[1]), order.reshape(-1)
    some = rng.permutation(len(template))[:_NULL]
    plain = np.tile(np.eye(2, 3, dtype=np.float32), (len(some), 1, 1))
    return _Candidates(
        rows[template[some]], rows[moving[some]], plain, np.zeros(len(some), np.int64)
    )


def _limit(detail: Float32Array) -> float:
    """Return the correlation that different images, of these (P,) correlations, do not reach."""
    heights = np.arctanh(np.clip(detail.astype(np.float64), -0.999, 0.999))
    limit = np.inf
    for _ in range(3):  # without copies among them, if any, in the later rounds
        heights = heights[heights < limit]
        if not len(heights):
            return -1.0
        middle, upper = np.quantile(heights, (0.5, 0.841))
        limit = middle + _DEVIATIONS * (upper - middle)
    return float(np.tanh(limit))


def _pairs(found: _Candidates, detail: Float32Array, limit: float) -> DuplicatePairs:
    first = np.minimum(found.template, found.moving)
    second = np.maximum(found.template, found.moving)
    order = np.lexsort((second, first))
    words = list(_FLIPS)
    return DuplicatePairs(
        first[order],
        second[order],
        detail[order].astype(np.float64),
        detail[order] >= limit,
        tuple(words[flip] for flip in found.flip[order]),
    )


# Registration: the inverse compositional Lucas-Kanade method of Baker and Matthews, "Lucas-Kanade
# 20 years on" (2004), with images normalised to mean 0 and length 1 as in Evangelidis and Psarakis,
# "Parametric image alignment using enhanced correlation coefficient maximization" (2008), so that
# brightness and contrast do not matter. A warp is an affine map (2, 3) in coordinates (x, y) that
# run from -1 to 1 over the image: the warped image shows at p what the moving one holds at
# warp @ (p, 1). All pairs of a batch are registered together.


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
    solve = _solver(templates, inner)
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
            move = np.matmul(solve, (theirs - ours)[:, :, None])[:, :, 0]
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


def _solver(templates: Float32Array, inner: BoolArray) -> Float32Array:
    """Return the matrices (B, 6, S * S) that turn an image difference into a warp update."""
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
    # Gauss-Newton; the damping keeps the Hessian of flat images invertible.
    hessian = np.matmul(descent, descent.transpose(0, 2, 1))
    damping = 1e-3 * np.trace(hessian, axis1=1, axis2=2) / 6 + 1e-6
    hessian += damping[:, None, None] * np.eye(6, dtype=np.float32)
    solved: Float32Array = np.linalg.solve(hessian, descent)
    return solved


def _undo(warps: Float32Array, move: Float32Array) -> Float32Array:
    """Compose the warps with the inverse of the small warps ``identity + move`` (B, 6)."""
    bottom = np.tile(np.array([[[0, 0, 1]]], np.float32), (len(warps), 1, 1))
    small = np.concatenate([move.reshape(-1, 2, 3), 0 * bottom], axis=1)
    whole = np.concatenate([warps, bottom], axis=1)
    inverse = np.linalg.inv(small + np.eye(3, dtype=np.float32))
    composed: Float32Array = np.matmul(whole, inverse)[:, :2]
    return composed
