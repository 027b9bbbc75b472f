"""Maximum mean discrepancy: do two samples of embeddings differ in any way a kernel sees?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array
from transferkit._validation import check_share
from transferkit.audit.two_sample import (
    Groups,
    Pair,
    TwoSampleResult,
    check_pair,
    nothing_differs,
    permutation_p_value,
    permuted_members,
)
from transferkit.errors import ConfigError
from transferkit.metrics.intervals import normal_quantile

BLOCK = 2048
"""Rows and columns of the kernel block in memory."""
EXACT_ROWS = 2048
"""Pooled rows up to which double precision is used."""
MEDIAN_ROWS = 1000
"""Rows from which the median distance is taken."""
LARGEST = 1e15
"""Scaled coordinates are cut here, so that squares stay finite in single precision."""

Bank: TypeAlias = Callable[[FloatArray], Iterator[FloatArray]]
"""From a block of squared distances (which it may overwrite) to one block per kernel."""


@dataclass(frozen=True, slots=True, eq=False)
class KernelSums:
    """Sums of J kernels over pairs of rows.

    Attributes:
        within: ``(J, R)`` sums ``p'Kp`` over pairs in the first sample, per membership.
        touching: ``(J, R)`` sums ``p'K1`` over pairs that start in the first sample.
        total: ``(J,)`` sums over all pairs.
        own: ``(J,)`` the value that a row has with itself.
        to_first: ``(J, N)`` per row, its sum with the observed first sample.
        to_all: ``(J, N)`` per row, its sum with all rows.
    """

    within: Float64Array
    touching: Float64Array
    total: Float64Array
    own: Float64Array
    to_first: Float64Array
    to_all: Float64Array


def scaled_rows(pooled: FloatArray, *, seed: int) -> FloatArray | None:
    """Centre the rows and divide by their median distance; None if all rows are equal.

    The median is that of up to 1000 rows, drawn without regard to the samples, so that permuting
    them does not change it. Source of the heuristic: A. Gretton et al., "A kernel two-sample
    test", JMLR 13 (2012).

    Args:
        pooled: ``(N, D)`` rows of both samples.
        seed: Seed of the draw.
    """
    centred: FloatArray = pooled - pooled.mean(axis=0, dtype=np.float64).astype(pooled.dtype)
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(pooled))[:MEDIAN_ROWS]
    squared = squared_distances(centred[rows].astype(np.float64), centred[rows].astype(np.float64))
    floor = 1e-12 * float(squared.max())
    positive = squared[np.triu_indices(len(rows), 1)]
    positive = positive[positive > floor]
    median = float(np.median(positive)) if len(positive) else 2 * float(np.sum(np.var(centred, 0)))
    if not median > 0:
        return None
    precise = len(pooled) <= EXACT_ROWS
    centred = centred.astype(np.float64 if precise else np.float32, copy=False)
    centred /= sqrt(median)
    np.clip(centred, -LARGEST, LARGEST, out=centred)
    return centred


def squared_distances(x: FloatArray, y: FloatArray) -> FloatArray:
    """Return squared Euclidean distances ``(n, m)`` of rows ``(n, D)`` and ``(m, D)``."""
    squared: FloatArray = x @ y.T
    squared *= -2
    squared += np.einsum("ij,ij->i", x, x)[:, None]
    squared += np.einsum("ij,ij->i", y, y)
    np.maximum(squared, 0, out=squared)
    return squared


def kernel_sums(rows: FloatArray, members: BoolArray, bank: Bank, own: Float64Array) -> KernelSums:
    """Walk the kernel matrix once and sum it under every membership.

    Args:
        rows: ``(N, D)`` pooled rows, scaled.
        members: ``(R, N)`` membership in the first sample; row 0 is the observed one.
        bank: From squared distances to J kernel blocks.
        own: ``(J,)`` value of each kernel at distance zero.
    """
    kernels, (count, total) = len(own), members.shape
    within = np.zeros((kernels, count))
    to_first, to_all = np.zeros((kernels, total)), np.zeros((kernels, total))
    for here, there in _block_pairs(total):
        left, right = _columns(members, here, rows.dtype), _columns(members, there, rows.dtype)
        same = here == there
        blocks = bank(_distances(rows, here, there))
        for j, block in enumerate(blocks):
            if same:
                np.fill_diagonal(block, own[j])
            product = block @ right
            sums = np.einsum("ij,ij->j", left[:, :-1], product[:, :-1], dtype=np.float64)
            within[j] += sums if same else 2 * sums
            to_first[j, here] += product[:, 0]
            to_all[j, here] += product[:, -1]
            if not same:
                back = block.T @ left[:, [0, -1]]
                to_first[j, there] += back[:, 0]
                to_all[j, there] += back[:, 1]
    touching = _touching(to_all, members)
    return KernelSums(within, touching, to_all.sum(axis=1), own, to_first, to_all)


def discrepancies(sums: KernelSums, members: BoolArray) -> Float64Array:
    """Return the unbiased squared discrepancy per kernel and membership, ``(J, R)``.

    ``mean k(x, x') + mean k(y, y') - 2 mean k(x, y)`` over different rows: MMD squared of a
    positive definite kernel, the energy distance of minus the distance. Source: Gretton et al.
    (2012), equation 3.
    """
    n = members.sum(axis=1).astype(np.float64)
    m = members.shape[1] - n
    cross = sums.touching - sums.within
    second = sums.total[:, None] - 2 * sums.touching + sums.within
    own = sums.own[:, None]
    first = (sums.within - own * n) / (n * (n - 1))
    values: Float64Array = first + (second - own * m) / (m * (m - 1)) - 2 * cross / (n * m)
    return values


def discrepancy_interval(
    sums: KernelSums,
    member: BoolArray,
    value: float,
    *,
    groups: Int64Array | None,
    confidence: float,
) -> tuple[float, float]:
    """Return a normal interval of the observed discrepancy, averaged over the kernels.

    The variance is that of the witness function ``f(z) = mean k(z, x) - mean k(z, y)``:
    ``4 (var f(x) / n + var f(y) / m)``, summed by group where groups are given. Source: Gretton
    et al. (2012).

    Args:
        sums: Sums of the kernels.
        member: ``(N,)`` observed membership.
        value: The observed discrepancy.
        groups: ``(N,)`` group codes or None.
        confidence: Coverage aimed at.
    """
    n, m = int(member.sum()), int((~member).sum())
    first, second = sums.to_first.mean(axis=0), (sums.to_all - sums.to_first).mean(axis=0)
    witness = first / n - second / m
    influence = np.where(member, (witness - witness[member].mean()) / n, 0.0)
    influence -= np.where(member, 0.0, (witness - witness[~member].mean()) / m)
    if groups is not None:
        influence = np.bincount(groups, weights=influence)
    half = normal_quantile(confidence) * 2 * sqrt(float(np.sum(influence**2)))
    return value - half, value + half


def _block_pairs(total: int) -> Iterator[tuple[slice, slice]]:
    """Yield the blocks on and above the diagonal."""
    cuts = [slice(start, min(start + BLOCK, total)) for start in range(0, total, BLOCK)]
    for i, here in enumerate(cuts):
        for there in cuts[i:]:
            yield here, there


def _columns(members: BoolArray, block: slice, dtype: np.dtype[np.floating]) -> FloatArray:
    """Return the memberships of a block of rows as columns, and a last column of ones."""
    columns = np.ones((block.stop - block.start, len(members) + 1), dtype=dtype)
    columns[:, :-1] = members[:, block].T
    return columns


def _distances(rows: FloatArray, here: slice, there: slice) -> FloatArray:
    return squared_distances(rows[here], rows[there])


def _touching(to_all: Float64Array, members: BoolArray) -> Float64Array:
    """Return ``p'K1`` per kernel and membership, a few memberships at a time."""
    parts = [to_all @ members[i : i + 64].T.astype(np.float64) for i in range(0, len(members), 64)]
    return np.concatenate(parts, axis=1)


ROWS = 4096
"""Rows whose Fourier features are in memory at a time."""


def fourier_sums(
    rows: FloatArray,
    members: BoolArray,
    *,
    bandwidths: Sequence[float],
    frequencies: int,
    seed: int,
) -> KernelSums:
    """Sum Gaussian kernels under every membership, approximately.

    Args:
        rows: ``(N, D)`` pooled rows, scaled.
        members: ``(R, N)`` membership in the first sample; row 0 is the observed one.
        bandwidths: J standard deviations of the kernels.
        frequencies: F, per kernel.
        seed: Seed of the frequencies.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(rows.shape[1], frequencies)).astype(rows.dtype)
    kernels, (count, total) = len(bandwidths), members.shape
    means = np.zeros((kernels, count + 1, 2 * frequencies))
    for block, features in _features(rows, drawn, bandwidths):
        columns = np.ones((count + 1, block.stop - block.start), dtype=rows.dtype)
        columns[:-1] = members[:, block]
        for j, one in enumerate(features):
            means[j] += columns @ one
    to_first, to_all = np.zeros((kernels, total)), np.zeros((kernels, total))
    for block, features in _features(rows, drawn, bandwidths):
        for j, one in enumerate(features):
            to_first[j, block], to_all[j, block] = (one @ means[j][[0, -1]].T).T
    everyone = means[:, -1]
    return KernelSums(
        within=np.einsum("jrf,jrf->jr", means[:, :-1], means[:, :-1]),
        touching=np.einsum("jrf,jf->jr", means[:, :-1], everyone),
        total=np.einsum("jf,jf->j", everyone, everyone),
        own=np.ones(kernels),
        to_first=to_first,
        to_all=to_all,
    )


def _features(
    rows: FloatArray, drawn: FloatArray, bandwidths: Sequence[float]
) -> Iterator[tuple[slice, Iterator[FloatArray]]]:
    """Yield blocks of rows and, for each kernel, their features ``(rows, 2 F)``."""
    for start in range(0, len(rows), ROWS):
        block = slice(start, min(start + ROWS, len(rows)))
        yield block, _waves(rows[block] @ drawn, bandwidths)


def _waves(angles: FloatArray, bandwidths: Sequence[float]) -> Iterator[FloatArray]:
    scale = 1 / sqrt(angles.shape[1])
    for bandwidth in bandwidths:
        turned = angles / angles.dtype.type(bandwidth)
        waves = np.concatenate([np.cos(turned), np.sin(turned)], axis=1)
        waves *= scale
        yield waves


BANDWIDTHS = (2.0, 1.0, 0.5)
"""Standard deviations of the Gaussian kernels, in median distances."""
FULL_WORK = 2.5e11
"""N^2 (D + B) beyond which ``method="auto"`` turns to random Fourier features: some seconds."""
FREQUENCIES = 256
"""Random frequencies per kernel, with Fourier features."""

Method: TypeAlias = Literal["auto", "full", "fourier"]


def mmd_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: Groups = None,
    permutations: int = 199,
    method: Method = "auto",
    confidence: float = 0.95,
    seed: int = 0,
) -> TwoSampleResult:
    """Permutation test of the maximum mean discrepancy over a small bank of Gaussian kernels.

    The kernels have half, once and twice the median distance. Each kernel's unbiased squared MMD
    is put in units of its own spread over the permutations, and the largest of the three is
    compared with its permutations: exact for any sample size, any ties, any dimension. The
    kernel matrix is streamed whole (quadratic time, linear memory) while that takes seconds, such
    as at 20 000 pooled rows of 512 features and 100 permutations; beyond, random Fourier features
    take linear time (see :mod:`transferkit.audit.mmd`).

    ``statistic`` is the squared MMD averaged over the kernels; ``effect`` divides it by the mean
    similarities within the two samples, so that 0 means equal and 1 disjoint.

    Args:
        a: ``(n_a, D)`` features of the first sample, at least two rows.
        b: ``(n_b, D)`` features of the second, at least two rows.
        groups: Group of each row of ``a``, and of ``b``: groups are permuted.
        permutations: B.
        method: ``"full"`` kernel matrix, ``"fourier"`` features, or ``"auto"`` by cost.
        confidence: Coverage of the interval of ``effect``.
        seed: Seed of the permutations and frequencies.

    Raises:
        DataError: Samples that are too small, of unequal width or not finite.
        ConfigError: An option out of its range.

    Example:
        >>> import numpy as np
        >>> from transferkit.audit.mmd import mmd_test
        >>> rng = np.random.default_rng(0)
        >>> ours, theirs = rng.normal(size=(80, 5)), rng.normal(loc=1.0, size=(80, 5))
        >>> mmd_test(ours, theirs).p_value  # 199 permutations, none as far apart
        0.005
    """
    check_share("confidence", confidence)
    pair = check_pair(a, b, groups=groups)
    rows = scaled_rows(pair.pooled, seed=seed)
    if rows is None:
        return nothing_differs("mmd", pair.n_a, pair.n_b)
    members = permuted_members(
        pair.member, permutations=permutations, seed=seed, groups=pair.groups
    )
    sums = _sums(rows, members, method, seed)
    values = discrepancies(sums, members)
    return _result(pair, sums, members, values, confidence)


def gaussian_bank(squared: FloatArray) -> Iterator[FloatArray]:
    """Yield Gaussian kernels of bandwidth 2, 1 and 1/2: one exponential, then fourth powers."""
    squared *= -1 / (2 * BANDWIDTHS[0] ** 2)
    kernel = np.exp(squared, out=squared)
    yield kernel
    for _ in BANDWIDTHS[1:]:
        np.square(kernel, out=kernel)
        np.square(kernel, out=kernel)
        yield kernel


def _sums(rows: FloatArray, members: BoolArray, method: Method, seed: int) -> KernelSums:
    if method not in get_args(Method):
        raise ConfigError(f"method must be one of {get_args(Method)}; {method!r} came.")
    work = len(rows) ** 2 * (rows.shape[1] + len(members))
    if method == "fourier" or (method == "auto" and work > FULL_WORK):
        return fourier_sums(
            rows, members, bandwidths=BANDWIDTHS, frequencies=FREQUENCIES, seed=seed
        )
    return kernel_sums(rows, members, gaussian_bank, np.ones(len(BANDWIDTHS)))


def _result(
    pair: Pair, sums: KernelSums, members: BoolArray, values: Float64Array, confidence: float
) -> TwoSampleResult:
    spread = values.std(axis=1, keepdims=True)
    standard = (values - values.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    value = float(values[:, 0].mean())
    low, high = discrepancy_interval(
        sums, members[0], value, groups=pair.groups, confidence=confidence
    )
    whole = _similarity_within(sums, pair)
    low, effect, high = (min(1.0, max(0.0, x / whole)) for x in (low, value, high))
    return TwoSampleResult(
        test="mmd",
        statistic=value,
        p_value=permutation_p_value(standard.max(axis=0)),
        effect=effect,
        interval=(low, high),
        n_a=pair.n_a,
        n_b=pair.n_b,
        permutations=members.shape[0] - 1,
    )


def _similarity_within(sums: KernelSums, pair: Pair) -> float:
    """Mean kernel within the first sample plus that within the second, pairs with itself too."""
    second = sums.total - 2 * sums.touching[:, 0] + sums.within[:, 0]
    return float(np.mean(sums.within[:, 0] / pair.n_a**2 + second / pair.n_b**2))


def energy_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: Groups = None,
    permutations: int = 199,
    max_rows: int = 25_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> TwoSampleResult:
    """Permutation test of the energy distance ``2 E|x - y| - E|x - x'| - E|y - y'|``.

    ``statistic`` is the unbiased energy distance in median distances; ``effect`` divides it by
    ``2 E|x - y|``: 0 means equal, 1 two different points. Beyond ``max_rows`` pooled rows it works
    on that many, drawn at random from each sample in proportion: exact still, at linear cost, and
    ``note`` says so. Source: G. Szekely and M. Rizzo, "Energy statistics", JSPI 143 (2013).

    Args:
        a: ``(n_a, D)`` features of the first sample, at least two rows.
        b: ``(n_b, D)`` features of the second, at least two rows.
        groups: Group of each row of ``a``, and of ``b``: groups are permuted.
        permutations: B.
        max_rows: Pooled rows to work on at most.
        confidence: Coverage of the interval of ``effect``.
        seed: Seed of the permutations and of the draw.

    Raises:
        DataError: Samples that are too small, of unequal width or not finite.
        ConfigError: An option out of its range.
    """
    check_share("confidence", confidence)
    if max_rows < 4:
        raise ConfigError(f"max_rows must be at least 4; {max_rows} came.")
    whole = check_pair(a, b, groups=groups)
    pair = _thinned(whole, max_rows, seed)
    rows = scaled_rows(pair.pooled, seed=seed)
    if rows is None:
        return nothing_differs("energy", whole.n_a, whole.n_b)
    members = permuted_members(
        pair.member, permutations=permutations, seed=seed, groups=pair.groups
    )
    sums = kernel_sums(rows, members, _minus_distance, np.zeros(1))
    values = discrepancies(sums, members)[0]
    low, high = discrepancy_interval(
        sums, members[0], float(values[0]), groups=pair.groups, confidence=confidence
    )
    between = -2 * float(sums.touching[0, 0] - sums.within[0, 0]) / (pair.n_a * pair.n_b)
    low, effect, high = (min(1.0, max(0.0, x / between)) for x in (low, float(values[0]), high))
    return TwoSampleResult(
        test="energy",
        statistic=float(values[0]),
        p_value=permutation_p_value(values),
        effect=effect,
        interval=(low, high),
        n_a=whole.n_a,
        n_b=whole.n_b,
        permutations=permutations,
        note="" if pair is whole else f"on {len(pair.pooled)} rows drawn at random",
    )


def _minus_distance(squared: FloatArray) -> Iterator[FloatArray]:
    np.sqrt(squared, out=squared)
    yield np.negative(squared, out=squared)


def _thinned(pair: Pair, max_rows: int, seed: int) -> Pair:
    """Keep at most ``max_rows`` rows, each sample in proportion and at least two of each."""
    total = len(pair.pooled)
    if total <= max_rows:
        return pair
    keep_a = min(max(2, round(max_rows * pair.n_a / total)), max_rows - 2)
    keep_b = min(max_rows - keep_a, pair.n_b)
    rng = np.random.default_rng(seed)
    first = rng.choice(pair.n_a, min(keep_a, pair.n_a), replace=False)
    second = pair.n_a + rng.choice(pair.n_b, keep_b, replace=False)
    rows = np.sort(np.concatenate([first, second]))
    groups = None if pair.groups is None else pair.groups[rows]
    return Pair(pair.pooled[rows], len(first), pair.names, groups)
