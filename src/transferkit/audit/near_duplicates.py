"""Near-duplicates: copies compressed, brightened, cropped, turned, flipped or made negative.

Candidates come from a description that most of these edits leave alone. The best few of each image
are then registered, coarse to fine, and those are kept whose fine detail correlates. Those are
certain to be copies that are more alike than different images of the same data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image
from sklearn.cluster import KMeans

from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array, UInt8Array
from transferkit.audit.image_statistics import to_picture
from transferkit.audit.registration import Float32Array, detail_correlation, register, sample

COARSE, MIDDLE, FINE = 16, 32, 112  # sides of the images that are compared
_PAIRS = 256  # registered at a time
_ROWS = 256  # queries whose cosines stay in the processor's cache
_FREQUENCIES = 9  # periods across the image, each way, that describe it
_COMPONENTS = 64  # of the description
_BUCKET, _PROBES = 4000, 4  # images of a bucket, and buckets that each query is looked up in
_CANDIDATE_COSINE = 0.5
_PARTNERS = 8  # that an image may get from each look-up
_CANDIDATES, _REGISTERED = 12, 8  # of an image: to register coarsely, and those to go on with
_COARSE_LEAST, _MIDDLE_LEAST = 0.9, 0.7  # correlation at which a pair goes on
_THRESHOLD_SIDES, _THRESHOLDS = (32, 64, 112), (0.85, 0.72, 0.68)  # small images hold less detail
_NULL, _DEVIATIONS = 400, 6.0  # pairs of different images, and how far above them copies lie
_CROPS = (1.0, 0.95)  # scales at which images are looked up
# The ways to lay one image onto another, each followed by itself turned by 180 degrees.
_AXES = [[[1, 0], [0, 1]], [[-1, 0], [0, 1]], [[0, -1], [1, 0]], [[0, 1], [1, 0]]]
_WAYS = (
    *("", "turned by 180 degrees", "flipped", "upside down"),
    *("turned by 90 degrees",) * 2,
    *("flipped and turned by 90 degrees",) * 2,
)


@dataclass(frozen=True, slots=True, eq=False)
class DuplicatePairs:
    """P pairs of images that show the same picture."""

    first: Int64Array  # the smaller index of each pair
    second: Int64Array
    correlation: Float64Array  # of their fine detail
    change: tuple[str, ...]  # how one is flipped or turned against the other; empty if it is not
    limit: float  # that different images of this data do not reach

    @property
    def certain(self) -> BoolArray:
        """Which pairs are copies (P,); the others only look alike."""
        return self.correlation >= self.limit


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """Pairs (P,) that may be copies, and the warp (P, 2, 3) between them."""

    template: Int64Array
    moving: Int64Array
    warp: Float32Array
    way: Int64Array  # place in _WAYS
    sign: Float32Array  # -1 where one is the negative of the other, else 1

    def __len__(self) -> int:
        return len(self.template)

    def keep(self, some: BoolArray | slice, warp: Float32Array | None = None) -> _Candidates:
        """Keep some of the pairs, with improved warps (P, 2, 3) if there are."""
        warp = self.warp if warp is None else warp
        template, moving = self.template[some], self.moving[some]
        return _Candidates(template, moving, warp[some], self.way[some], self.sign[some])

    def images(self, small: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Return templates and moving images (P, S, S) from all images (N, S, S)."""
        return small[self.template], small[self.moving] * self.sign[:, None, None]


def near_duplicate_pairs(parts: Sequence[UInt8Array]) -> DuplicatePairs:
    """Find the pairs of images, numbered through the parts (N, H, W, C), that are edited copies.

    Found are identical images, recompression, brightness and contrast, negatives, crops by 5 % of
    any side, rotations by 3 degrees, quarter turns and flips, alone or together; blank images
    never. The time grows with the number of images, not with that of pairs.
    """
    middle = _shrunk(parts, MIDDLE)
    coarse = _halved(middle)
    found, agreement = _registered(_candidates(middle, coarse), coarse, iterations=4)
    other, usual = _registered(_different(coarse), coarse, iterations=4)
    found = found.keep(agreement > max(_COARSE_LEAST, _limit(usual, 0.5)))
    found, other = (_registered(pairs, middle, iterations=3)[0] for pairs in (found, other))
    usual = _middle_detail(other, middle)
    found = found.keep(_middle_detail(found, middle) > max(_MIDDLE_LEAST, _limit(usual, 3.0)))
    side = max(MIDDLE, min(FINE, *(min(part.shape[1:3]) for part in parts)))
    detail = _fine_detail(found, parts, side)
    likely = detail >= np.interp(side, _THRESHOLD_SIDES, _THRESHOLDS)
    found, detail = found.keep(likely), detail[likely]
    limit = _limit(_fine_detail(other, parts, side), _DEVIATIONS) if len(found) else 0.0
    first = np.minimum(found.template, found.moving)
    second = np.maximum(found.template, found.moving)
    order = np.lexsort((second, first))
    changes = zip(found.way[order].tolist(), (found.sign[order] < 0).tolist(), strict=True)
    return DuplicatePairs(
        first[order],
        second[order],
        detail[order].astype(np.float64),
        tuple(", ".join(filter(None, ("negative" * neg, _WAYS[way]))) for way, neg in changes),
        limit,
    )


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


def _halved(images: Float32Array) -> Float32Array:
    half = images.shape[1] // 2
    means: Float32Array = images.reshape(-1, half, 2, half, 2).mean(axis=(2, 4))
    return means


# The magnitudes of an image's Fourier transform are the same for its negative, after a turn by 180
# degrees, and, nearly, after a shift. A flip or a quarter turn turns them likewise. So four ways
# and two scales find what would take 128 versions of the image itself, and find it better: of 120
# copies among 2400 X-rays, cropped or turned by 3 degrees, each is the nearest or the second
# nearest image, and up to the 12th nearest of 32 versions by their pixels.
def _candidates(middle: Float32Array, coarse: Float32Array) -> _Candidates:
    """Look up every image in four ways and two scales; keep the likeliest pairs."""
    spectra = [_spectra(middle, scale) for scale in _CROPS]
    plain = _described(spectra[0])
    centre = plain.mean(axis=0)
    spread, axes = np.linalg.eigh((plain - centre).T @ (plain - centre) / len(plain))
    # partly whitened: to the power 1/2 it would count noise as much as what images differ in
    scale = np.maximum(spread[-_COMPONENTS:], 1e-6 * spread[-1] + 1e-12) ** 0.25
    axes = (axes[:, -_COMPONENTS:] / scale).astype(np.float32)
    units = _unit_rows((plain - centre) @ axes)
    units[coarse.std(axis=(1, 2)) < 1] = 0  # blank
    buckets = _buckets(units)
    hits = []
    for scale_number, way in product(range(len(_CROPS)), range(len(_AXES))):
        turned = _turned(spectra[scale_number], way)
        queries = _unit_rows((_described(turned) - centre) @ axes)
        hit = similar_pairs(
            units, queries, floor=_CANDIDATE_COSINE, most=_PARTNERS, buckets=buckets
        )
        hits.append((*hit, np.full(len(hit[0]), len(_AXES) * scale_number + way)))
    moving, template, cosine, version = (np.concatenate(part) for part in zip(*hits, strict=True))
    pair = np.minimum(moving, template) * len(coarse) + np.maximum(moving, template)
    order = np.lexsort((moving, -cosine, pair))
    best = order[np.diff(pair[order], prepend=-1) > 0]  # each pair once, with its largest cosine
    best = best[_among_best(template[best], moving[best], cosine[best], _CANDIDATES)]
    scales, ways = np.divmod(version[best], len(_AXES))
    return _signed(template[best], moving[best], np.array(_CROPS)[scales], ways, coarse)


def _spectra(middle: Float32Array, scale: float) -> Float32Array:
    """Square roots of Fourier magnitudes (N, K, K) of images (N, S, S), cropped to ``scale``."""
    window = np.hanning(middle.shape[1] + 2)[1:-1].astype(np.float32)
    window = np.outer(window, window)
    centre, warp = middle.shape[1] // 2, np.array([[scale, 0, 0], [0, scale, 0]], np.float32)
    near = slice(centre - _FREQUENCIES, centre + _FREQUENCIES + 1)
    spectra = np.empty((len(middle), *[2 * _FREQUENCIES + 1] * 2), np.float32)
    for some in _chunks(len(middle), _PAIRS):
        images = middle[some]
        if scale != 1:
            images = sample(images, np.broadcast_to(warp, (len(images), 2, 3)))[0]
        images = images - ((images * window).sum(axis=(1, 2)) / window.sum())[:, None, None]
        transform = np.fft.fftshift(np.fft.fft2(images * window), axes=(1, 2))
        spectra[some] = np.sqrt(np.abs(transform[:, near, near]))
    return spectra


def _turned(spectra: Float32Array, way: int) -> Float32Array:
    """Return the spectra (N, K, K) of images laid in one of the ways of _AXES."""
    across = spectra.transpose(0, 2, 1) if way >= 2 else spectra
    return across[:, :, ::-1] if way in (1, 2) else across


def _described(pictures: Float32Array) -> Float32Array:
    """Return the values (N, S * S) of pictures (N, S, S), of mean 0 and deviation 1."""
    flat = pictures.reshape(len(pictures), pictures.shape[1] * pictures.shape[2])
    centred = flat - flat.mean(axis=1, keepdims=True)
    described: Float32Array = centred / np.maximum(flat.std(axis=1, keepdims=True), 1e-3)
    return described


def _unit_rows(rows: FloatArray) -> Float32Array:
    """Bring rows (N, D) to length 1; rows of zeros stay zero and are similar to nothing."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    units: Float32Array = (rows / np.maximum(length, 1e-6)).astype(np.float32)
    return units


def _signed(
    template: Int64Array,
    moving: Int64Array,
    scale: Float64Array,
    axes: Int64Array,
    coarse: Float32Array,
) -> _Candidates:
    """Settle what spectra leave open: a turn by 180 degrees, and the sign."""
    warps = np.zeros((len(template), 2, 3), np.float32)
    warps[:, :, :2] = np.array(_AXES)[axes] * scale[:, None, None]
    agreement = np.zeros((2, len(template)), np.float32)
    for some, half in product(_chunks(len(template), _PAIRS), (0, 1)):
        laid = sample(coarse[moving[some]], warps[some] * (1 - 2 * half))[0]
        both = _described(coarse[template[some]]), _described(laid)
        agreement[half, some] = np.einsum("bi,bi->b", *both)
    half = np.abs(agreement).argmax(axis=0)
    sign = np.where(np.take_along_axis(agreement, half[None], axis=0)[0] < 0, -1, 1)
    warps *= (1 - 2 * half)[:, None, None]
    return _Candidates(template, moving, warps, 2 * axes + half, sign.astype(np.float32))


def _buckets(units: Float32Array) -> Float32Array:
    """Centres (B, D) of buckets of rows (N, D), by k-means on some of them."""
    count = max(1, len(units) // _BUCKET)
    if count == 1:
        return units[:1]
    some = np.random.default_rng(0).permutation(len(units))[: 100 * count]
    means = KMeans(count, n_init=1, max_iter=20, random_state=0).fit(units[some])
    centres: Float32Array = means.cluster_centers_.astype(np.float32)
    return centres


def similar_pairs(
    units: Float32Array,
    queries: Float32Array,
    *,
    floor: float,
    most: int,
    buckets: Float32Array,
) -> tuple[Int64Array, Int64Array, Float32Array]:
    """Find the ``most`` rows of ``units`` (N, D) nearest to each query (N, D) above a cosine.

    Query i is a changed version of row i, and not its partner. All rows have length 1. A query is
    compared with the rows of the ``buckets``, of these centres (B, D), that are nearest to it.
    Returns query, partner and cosine of each pair (P,).
    """
    own = (units @ buckets.T).argmax(axis=1)
    probes = min(_PROBES, len(buckets))
    near = np.argpartition(-(queries @ buckets.T), probes - 1, axis=1)[:, :probes]
    hits = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    for bucket in range(len(buckets)):
        rows = np.flatnonzero(own == bucket)
        asking = np.flatnonzero((near == bucket).any(axis=1))
        for some in _chunks(len(asking) * bool(len(rows)), _ROWS):
            query = asking[some]
            cosines = queries[query] @ units[rows].T
            cosines[query[:, None] == rows] = -1
            # A few times the maximum is several times faster than sorting out the largest few.
            for _ in range(min(most, len(rows))):
                column = cosines.argmax(axis=1)
                best = np.take_along_axis(cosines, column[:, None], axis=1)[:, 0]
                hit = best >= floor
                hits.append((query[hit], rows[column[hit]], best[hit]))
                cosines[np.arange(len(query)), column] = -1
    query, partner, cosine = (np.concatenate(part) for part in zip(*hits, strict=True))
    kept = places(query, cosine) < most
    return query[kept], partner[kept], cosine[kept]


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
    found: _Candidates, images: Float32Array, *, iterations: int
) -> tuple[_Candidates, Float32Array]:
    """Register the pairs; return the best of each image, and their correlations (P,)."""
    correlation = np.zeros(len(found), np.float32)
    warp = found.warp.copy()
    for some in _chunks(len(found), _PAIRS):
        pairs = found.keep(some)
        correlation[some], warp[some] = register(
            *pairs.images(images), pairs.warp, iterations=iterations
        )
    near = _among_best(found.template, found.moving, correlation, _REGISTERED)
    return found.keep(near, warp), correlation[near]


def _middle_detail(found: _Candidates, middle: Float32Array) -> Float32Array:
    detail = np.zeros(len(found), np.float32)
    for some in _chunks(len(found), _PAIRS):
        pairs = found.keep(some)
        detail[some] = detail_correlation(*pairs.images(middle), pairs.warp, sigma=1.0)
    return detail


def _fine_detail(found: _Candidates, parts: Sequence[UInt8Array], side: int) -> Float32Array:
    """Correlation (P,) of the fine detail of registered pairs, at ``side`` pixels."""
    detail = np.zeros(len(found), np.float32)
    for some in _chunks(len(found), 64):
        pairs = found.keep(some)
        template = _shrunk(parts, side, pairs.template)
        moving = _shrunk(parts, side, pairs.moving) * pairs.sign[:, None, None]
        warp = register(template, moving, pairs.warp, iterations=3)[1]
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
    units = _unit_rows(_described(coarse[rows]))
    rng = np.random.default_rng(0)
    first = rng.permutation(len(rows))[:_NULL]
    cosines = units[first] @ units.T
    cosines[np.arange(len(first)), first] = 2.0
    near, far = min(9, (len(rows) + 1) // 2), min(17, len(rows))
    order = np.argsort(-cosines, axis=1)[:, near:far]
    template, moving = rows[np.repeat(first, order.shape[1])], rows[order.reshape(-1)]
    some = rng.permutation(len(template))[:_NULL]
    plain = np.tile(np.eye(2, 3, dtype=np.float32), (len(some), 1, 1))
    ones = np.ones(len(some), np.float32)
    return _Candidates(template[some], moving[some], plain, np.zeros(len(some), np.int64), ones)


def _limit(detail: Float32Array, deviations: float) -> float:
    """Return so many deviations above the correlations (P,) of different images."""
    heights = np.arctanh(np.clip(detail.astype(np.float64), -0.999, 0.999))
    middle, spread = -1.0, 0.0
    for _ in range(3):  # the later rounds leave out copies among them
        if len(heights):
            middle, upper = np.quantile(heights, (0.5, 0.841))
            spread = upper - middle
            heights = heights[heights <= middle + _DEVIATIONS * spread]
    return float(np.tanh(middle + deviations * spread))
