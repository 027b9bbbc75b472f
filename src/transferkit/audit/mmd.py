"""Maximum mean discrepancy: do two samples of embeddings differ in any way that a kernel sees?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import sqrt

import numpy as np

from transferkit._typing import BoolArray, Float64Array, FloatArray
from transferkit.audit.two_sample import (
    SplitPair,
    TwoSampleResult,
    permutation_p_value,
    permuted_members,
)
from transferkit.metrics.intervals import normal_quantile

BANDWIDTHS = (2.0, 1.0, 0.5)
"""Standard deviations of the Gaussian kernels, in median distances."""
BLOCK = 2048
"""Rows and columns of the kernel block in memory."""
DOUBLE_PRECISION_ROWS = 2048
"""Pooled rows up to which double precision is used."""
MEDIAN_ROWS = 1000
"""Rows from which the median distance is taken."""
LARGEST = 1e15
"""Scaled coordinates are clipped here, so that squares stay finite in single precision."""


def mmd_test(
    pair: SplitPair,
    *,
    permutations: int = 199,
    confidence: float = 0.95,
    seed: int = 0,
) -> TwoSampleResult:
    """Permutation test of the squared MMD, unbiased and averaged over three Gaussian kernels.

    The effect divides it by the mean similarities within the two splits, which need two rows each.
    """
    rows = scaled_rows(pair.values, seed=seed)
    if rows is None:
        return TwoSampleResult(test="mmd")
    members = permuted_members(
        pair.member, permutations=permutations, seed=seed, groups=pair.groups
    )
    sums = kernel_sums(rows, members)
    # Groups differ in size: a permuted split of one row has no pair of different rows, so no
    # unbiased value. Then all are compared by the biased one; the p-value is exact with either.
    sizes = members.sum(axis=1)
    pairs_everywhere = min(sizes.min(), len(rows) - sizes.max()) > 1
    values = squared_mmd(sums, members, unbiased=pairs_everywhere)
    # Each kernel in units of its own spread over the permutations: then the largest of the three
    # is one statistic, whose permutation test is exact.
    spread = values.std(axis=1, keepdims=True)
    standardised = (values - values.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    null = standardised.max(axis=0)
    value = float(squared_mmd(sums, members[:1]).mean())
    low, high = _interval(sums, pair, value, confidence)
    # Mean kernel within the first split plus that within the second, rows with themselves too.
    second = (sums.to_all - sums.to_first) / pair.n_b**2
    similar = np.where(pair.member, sums.to_first / pair.n_a**2, second)
    whole = float(similar.sum(axis=1).mean())
    low, effect, high = (min(1.0, max(0.0, x / whole)) for x in (low, value, high))
    return TwoSampleResult(
        test="mmd",
        statistic=value,
        p_value=permutation_p_value(null),
        effect=effect,
        interval=(low, high),
        null=null,
    )


def scaled_rows(pooled: FloatArray, *, seed: int) -> FloatArray | None:
    """Centre ``(N, D)`` rows and divide by their median distance; None if all rows are equal.

    Source of the heuristic: A. Gretton et al., "A kernel two-sample test", JMLR 13 (2012).
    """
    centred: FloatArray = pooled - pooled.mean(axis=0, dtype=np.float64).astype(pooled.dtype)
    # The rows for the median are drawn without regard to the samples: permuting the samples
    # leaves it unchanged, so the test stays exact.
    drawn = np.random.default_rng(seed).permutation(len(pooled))[:MEDIAN_ROWS]
    some = centred[drawn].astype(np.float64)
    squared = squared_distances(some, some)
    positive = squared[np.triu_indices(len(drawn), 1)]
    # Rounding turns distances of 0 into about 1e-16 of the largest; they must not count.
    positive = positive[positive > 1e-12 * float(squared.max())]
    median = float(np.median(positive)) if len(positive) else 2 * float(np.sum(np.var(centred, 0)))
    if not median > 0:
        return None
    precise = len(pooled) <= DOUBLE_PRECISION_ROWS
    centred = centred.astype(np.float64 if precise else np.float32, copy=False)
    centred /= sqrt(median)
    np.clip(centred, -LARGEST, LARGEST, out=centred)
    return centred


def squared_distances(x: FloatArray, y: FloatArray) -> FloatArray:
    """Squared Euclidean distances ``(n, m)`` of rows ``(n, D)`` and ``(m, D)``."""
    # |x - y|^2 = |x|^2 + |y|^2 - 2 x'y: one matrix product; rounding may leave it below 0.
    squared: FloatArray = x @ y.T
    squared *= -2
    squared += np.einsum("ij,ij->i", x, x)[:, None]
    squared += np.einsum("ij,ij->i", y, y)
    np.maximum(squared, 0, out=squared)
    return squared


def gaussian_kernels(squared: FloatArray) -> Iterator[FloatArray]:
    """Kernel block of each bandwidth, from squared distances, which it overwrites."""
    # exp(-d / (2 (h/2)^2)) = exp(-d / (2 h^2))^4: halving the bandwidth squares the kernel twice.
    squared *= -1 / (2 * BANDWIDTHS[0] ** 2)
    kernel = np.exp(squared, out=squared)
    yield kernel
    for _ in BANDWIDTHS[1:]:
        np.square(kernel, out=kernel)
        np.square(kernel, out=kernel)
        yield kernel


@dataclass(frozen=True, slots=True, eq=False)
class KernelSums:
    """Sums of J kernels K over pairs of rows, p the membership in the first sample."""

    within: Float64Array  # (J, R) sums p'Kp over pairs in the first sample, per membership
    to_first: Float64Array  # (J, N) per row, its sum with the observed first sample
    to_all: Float64Array  # (J, N) per row, its sum with all rows


def kernel_sums(rows: FloatArray, members: BoolArray) -> KernelSums:
    """Sum the kernels of scaled rows ``(N, D)`` under every membership ``(R, N)``, row 0 observed.

    The kernel matrix is never in memory: it is walked block by block, and each block is
    multiplied with all R memberships at once.
    """
    kernels, (count, total) = len(BANDWIDTHS), members.shape
    within = np.zeros((kernels, count))
    to_first, to_all = np.zeros((kernels, total)), np.zeros((kernels, total))
    cuts = [slice(start, min(start + BLOCK, total)) for start in range(0, total, BLOCK)]
    for here, there in combinations_with_replacement(cuts, 2):  # on and above the diagonal
        left, right = _columns(members, here, rows.dtype), _columns(members, there, rows.dtype)
        diagonal = here == there
        for j, block in enumerate(gaussian_kernels(squared_distances(rows[here], rows[there]))):
            if diagonal:
                np.fill_diagonal(block, 1.0)
            # p'Kp = sum over blocks of p_here' K_block p_there. K is symmetric: a block off the
            # diagonal stands for its mirror image too, so it counts twice in p'Kp and once, by
            # its transpose, in the row sums of the other side.
            product = block @ right
            sums = np.einsum("ij,ij->j", left[:, :-1], product[:, :-1], dtype=np.float64)
            within[j] += sums if diagonal else 2 * sums
            to_first[j, here] += product[:, 0]
            to_all[j, here] += product[:, -1]
            if not diagonal:
                back = block.T @ left[:, [0, -1]]
                to_first[j, there] += back[:, 0]
                to_all[j, there] += back[:, 1]
    return KernelSums(within, to_first, to_all)


def _columns(members: BoolArray, block: slice, dtype: np.dtype[np.floating]) -> FloatArray:
    """Memberships of a block of rows as columns, and a last column of ones."""
    columns = np.ones((block.stop - block.start, len(members) + 1), dtype=dtype)
    columns[:, :-1] = members[:, block].T
    return columns


def squared_mmd(sums: KernelSums, members: BoolArray, *, unbiased: bool = True) -> Float64Array:
    """Squared MMD per kernel and membership, ``(J, R)``.

    ``mean k(x, x') + mean k(y, y') - 2 mean k(x, y)``, unbiased over pairs of different rows (at
    least two of each split), else over all pairs. Source: Gretton et al. (2012), equations 3, 5.
    """
    n = members.sum(axis=1).astype(np.float64)
    m = members.shape[1] - n
    # p'K1 for 64 memberships at a time, as their float64 copies need memory. With q = 1 - p:
    # p'Kq = p'K1 - p'Kp and q'Kq = 1'K1 - 2 p'K1 + p'Kp. A row's kernel with itself is 1:
    # unbiased, the diagonals, n and m, are taken off.
    starts = range(0, len(members), 64)
    parts = [sums.to_all @ members[i : i + 64].T.astype(np.float64) for i in starts]
    touching = np.concatenate(parts, axis=1)
    within = sums.within[:, : len(members)]
    second = sums.to_all.sum(axis=1)[:, None] - 2 * touching + within
    own = 1 if unbiased else 0
    values: Float64Array = (
        (within - own * n) / (n * (n - own))
        + (second - own * m) / (m * (m - own))
        - 2 * (touching - within) / (n * m)
    )
    return values


def _interval(
    sums: KernelSums, pair: SplitPair, value: float, confidence: float
) -> tuple[float, float]:
    """Normal interval of the squared MMD, averaged over the kernels: Gretton et al. (2012)."""
    member, n, m = pair.member, pair.n_a, pair.n_b
    # Witness function f(z) = mean k(z, x) - mean k(z, y); the variance of the squared MMD is
    # 4 (var f(x) / n + var f(y) / m). With groups, deviations are first summed by group.
    first, second = sums.to_first.mean(axis=0), (sums.to_all - sums.to_first).mean(axis=0)
    witness = first / n - second / m
    influence = np.where(member, (witness - witness[member].mean()) / n, 0.0)
    influence -= np.where(member, 0.0, (witness - witness[~member].mean()) / m)
    if pair.groups is not None:
        influence = np.bincount(pair.groups, weights=influence)
    half = normal_quantile(confidence) * 2 * sqrt(float(np.sum(influence**2)))
    return value - half, value + half
