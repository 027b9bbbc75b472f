"""Near-duplicates: copies that were compressed, brightened, cropped, turned or flipped.

Candidates come from a coarse descriptor, looked up in flipped, cropped and turned versions (and
from embeddings, if given). The best few of each image are then laid over each other, coarse to
fine, and judged by how well their fine detail agrees: that of two X-rays of two children correlates
by at most 0.6, that of a copy by 0.8 and more, whatever was done to it within the limits above.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
from PIL import Image

from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array, UInt8Array
from transferkit.audit.nearest import places, similar_pairs, unit_rows
from transferkit.audit.registration import Float32Array, detail_correlation, register, sample

COARSE, MIDDLE, FINE = 16, 32, 112
_CHUNK = 256  # pairs laid over each other at a time
_CANDIDATE_COSINE = 0.75
_COMPONENTS = 64  # of the coarse descriptor: 95 % of the variance of X-rays
_CANDIDATES, _LAID_OVER = 24, 8  # of an image: to lay over coarsely, and those to go on with
_COARSE_LEAST, _MIDDLE_LEAST = 0.9, 0.7
_THRESHOLD_SIDES, _THRESHOLDS = (32, 64, 112), (0.85, 0.72, 0.68)
_FLIPS = {"": (1, 1), "flipped": (-1, 1), "upside down": (1, -1), "turned by 180 degrees": (-1, -1)}

_Hits: TypeAlias = tuple[Int64Array, Int64Array, Float32Array, Int64Array]
"""Template, moving image, cosine and variant of each pair (P,)."""


@dataclass(frozen=True, slots=True, eq=False)
class DuplicatePairs:
    """Pairs of images that show the same picture.

    Attributes:
        first: Index of one image of each pair (P,), the smaller one.
        second: Index of the other (P,).
        correlation: Correlation of their fine detail (P,).
        flip: How one is flipped against the other, in words; empty if it is not (P,).
    """

    first: Int64Array
    second: Int64Array
    correlation: Float64Array
    flip: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    template: Int64Array
    moving: Int64Array
    warp: Float32Array
    flip: Int64Array

    def __len__(self) -> int:
        return len(self.template)

    def keep(self, mask: BoolArray, warp: Float32Array) -> _Candidates:
        """Keep the pairs of ``mask`` with their improved warps."""
        return _Candidates(self.template[mask], self.moving[mask], warp[mask], self.flip[mask])


def near_duplicate_pairs(
    images: UInt8Array | Sequence[UInt8Array],
    *,
    features: FloatArray | None = None,
    threshold: float | None = None,
    partners: int = 4,
) -> DuplicatePairs:
    """Find the pairs of images of which one is an edited copy of the other.

    Found are, alone or together: recompression, brightness and contrast, crops by 5 % of any
    side, rotations by 3 degrees, and flips. Identical images are pairs too. Blank images are
    similar to nothing. Memory grows with the number of images, by 10 KB each at most; so does
    time, by 2 ms each at most, but for the look-up: 64 ns for each image and each other one, so
    that it prevails from some 30 000 images on and takes 11 minutes on one thread for 10^5.

    Args:
        images: uint8 (N, H, W, C), or several such arrays (splits, say), numbered through.
        features: Embeddings (N, D), whose nearest neighbours become candidates too.
        threshold: Least correlation of the fine detail of a pair; None takes 0.68 for images of
            112 pixels or more, and up to 0.85 for smaller ones, which hold less detail.
        partners: How many candidates an image may get from each of the 32 look-ups; of all of
            them, the best 24 are laid over it.
    """
    pool = _Pool([images] if isinstance(images, np.ndarray) else list(images))
    middle = pool.shrunk(MIDDLE)
    coarse = _halved(middle)
    found = _candidates(coarse, features, partners)
    found = _refined(found, coarse, iterations=4, least=_COARSE_LEAST)
    found = _refined(found, middle, iterations=3, least=-1.0)
    detail = _in_chunks(found, middle, sigma=1.0)
    found = found.keep(detail > _MIDDLE_LEAST, found.warp)
    return _judged(found, pool, threshold)


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """Images of several arrays, numbered through."""

    parts: list[UInt8Array]

    @property
    def side(self) -> int:
        """The shortest side of any image."""
        return min(int(side) for part in self.parts for side in part.shape[1:3])

    def shrunk(self, side: int, rows: Int64Array | None = None) -> Float32Array:
        """Return the images at ``rows`` as grey squares (B, side, side), from 0 to 255."""
        ends = np.cumsum([len(part) for part in self.parts])
        if rows is None:
            rows = np.arange(ends[-1])
        which = np.searchsorted(ends, rows, side="right")
        small = np.empty((len(rows), side, side), np.float32)
        for index, (row, part) in enumerate(zip(rows.tolist(), which.tolist(), strict=True)):
            image = self.parts[part][row - ends[part] + len(self.parts[part])]
            small[index] = _shrink(image, side)
        return small


def _shrink(image: UInt8Array, side: int) -> UInt8Array:
    plain = image[:, :, 0] if image.shape[2] == 1 else image
    grey = Image.fromarray(np.ascontiguousarray(plain)).convert("L")
    return np.asarray(grey.resize((side, side), Image.Resampling.BOX))


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


def _descriptors(coarse: Float32Array) -> Float32Array:
    flat = coarse.reshape(len(coarse), -1)
    centred = flat - flat.mean(axis=1, keepdims=True)
    spread = np.maximum(flat.std(axis=1, keepdims=True), 1e-3)
    described: Float32Array = centred / spread
    return described


def _halved(images: Float32Array) -> Float32Array:
    half = images.shape[1] // 2
    pooled: Float32Array = images.reshape(len(images), half, 2, half, 2).mean(axis=(2, 4))
    return pooled


def _candidates(coarse: Float32Array, features: FloatArray | None, partners: int) -> _Candidates:
    """Look up every variant of every image, and keep the best variant of each pair."""
    found = _best_of_pairs(_look_ups(coarse, partners), len(coarse))
    near = _among_best(found[0], found[1], found[2], _CANDIDATES)
    hits = [_rows_of(found, near)]
    if features is not None:
        hits.append(_by_features(features, partners))
    template, moving, _, variant = _best_of_pairs(hits, len(coarse))
    warps, flips = _variants()
    return _Candidates(template, moving, warps[variant], flips[variant])


def _look_ups(coarse: Float32Array, partners: int) -> Iterator[_Hits]:
    plain = _descriptors(coarse)
    centre, axes = _principal(plain)
    origin = np.zeros(axes.shape[1])
    units = unit_rows((plain - centre) @ axes, centre=origin)
    units[coarse.std(axis=(1, 2)) < 1] = 0  # blank
    queries = np.empty_like(units)
    for number, warp in enumerate(_variants()[0]):
        for part in _chunks(len(coarse)):
            some = coarse[part]
            changed = sample(some, np.broadcast_to(warp, (len(some), 2, 3)))[0]
            queries[part] = unit_rows((_descriptors(changed) - centre) @ axes, centre=origin)
        moving, template, cosine = similar_pairs(
            units, queries=queries, floor=_CANDIDATE_COSINE, most=partners
        )
        yield template, moving, cosine, np.full(len(cosine), number)


def _principal(rows: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Return the mean (D,) of rows (N, D) and their main axes (D, C): the look-up takes less."""
    centre = rows.mean(axis=0)
    centred = rows - centre
    axes: Float32Array = np.linalg.eigh(centred.T @ centred)[1][:, -_COMPONENTS:]
    return centre, axes


def _by_features(features: FloatArray, partners: int) -> _Hits:
    first, second, cosine = similar_pairs(
        unit_rows(features), floor=_CANDIDATE_COSINE, most=partners
    )
    unflipped = np.zeros(len(first), np.int64)
    return first, second, cosine - 2, unflipped  # any variant found by pixels goes before


def _best_of_pairs(hits: Iterable[_Hits], count: int) -> _Hits:
    first, second, cosine, variant = (np.concatenate(part) for part in zip(*hits, strict=True))
    pair = np.minimum(first, second) * count + np.maximum(first, second)
    order = np.lexsort((-cosine, pair))
    best = order[np.diff(pair[order], prepend=-1) > 0]
    return _rows_of((first, second, cosine, variant), best)


def _rows_of(hits: _Hits, rows: Int64Array | BoolArray) -> _Hits:
    first, second, cosine, variant = hits
    return first[rows], second[rows], cosine[rows], variant[rows]


def _among_best(first: Int64Array, second: Int64Array, score: Float32Array, most: int) -> BoolArray:
    """Say which pairs are among the ``most`` best of either image (P,): a linear number."""
    place = places(np.concatenate([first, second]), np.concatenate([score, score]))
    near: BoolArray = place.reshape(2, -1).min(axis=0) < most
    return near


def _refined(
    found: _Candidates, images: Float32Array, *, iterations: int, least: float
) -> _Candidates:
    """Lay the pairs over each other, and keep the best of each image that agree at ``least``."""
    agree = np.zeros(len(found), np.float32)
    warp = found.warp.copy()
    for part in _chunks(len(found)):
        agree[part], warp[part] = register(
            images[found.template[part]],
            images[found.moving[part]],
            found.warp[part],
            iterations=iterations,
        )
    near = _among_best(found.template, found.moving, agree, _LAID_OVER)
    return found.keep(near & (agree > least), warp)


def _in_chunks(found: _Candidates, images: Float32Array, *, sigma: float) -> Float32Array:
    detail = np.zeros(len(found), np.float32)
    for part in _chunks(len(found)):
        detail[part] = detail_correlation(
            images[found.template[part]], images[found.moving[part]], found.warp[part], sigma=sigma
        )
    return detail


def _judged(found: _Candidates, pool: _Pool, threshold: float | None) -> DuplicatePairs:
    """Compare at full detail the few pairs that are left."""
    side = max(MIDDLE, min(FINE, pool.side))
    sigma = max(1.0, 2 * side / FINE)
    detail = np.zeros(len(found), np.float32)
    for part in _chunks(len(found), 64):
        template = pool.shrunk(side, found.template[part])
        moving = pool.shrunk(side, found.moving[part])
        warp = register(template, moving, found.warp[part], iterations=4)[1]
        detail[part] = detail_correlation(template, moving, warp, sigma=sigma)
    if threshold is None:
        threshold = float(np.interp(side, _THRESHOLD_SIDES, _THRESHOLDS))
    return _result(found, detail, threshold)


def _result(found: _Candidates, detail: Float32Array, threshold: float) -> DuplicatePairs:
    kept = np.flatnonzero(detail >= threshold)
    first = np.minimum(found.template[kept], found.moving[kept])
    second = np.maximum(found.template[kept], found.moving[kept])
    order = np.lexsort((second, first))
    words = list(_FLIPS)
    return DuplicatePairs(
        first[order],
        second[order],
        detail[kept][order].astype(np.float64),
        tuple(words[flip] for flip in found.flip[kept][order]),
    )


def _chunks(count: int, step: int = _CHUNK) -> Sequence[slice]:
    return [slice(start, start + step) for start in range(0, count, step)]
