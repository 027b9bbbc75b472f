"""Kernel sums under many permutations at once, in memory linear in the number of rows.

With K the kernel matrix of the pooled rows and p the 0/1 membership in the first sample, every
kernel two-sample statistic is a function of ``p'Kp``, ``p'K1`` and ``1'K1``. K is walked in
blocks, each met once (K is symmetric) and multiplied with all memberships in one matrix product,
so K is never held and no permutation costs a pass of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import TypeAlias

import numpy as np

from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array
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
