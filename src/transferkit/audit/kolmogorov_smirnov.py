"""Kolmogorov-Smirnov tests, feature by feature, whose p-values are exact at ties too."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, log, sqrt

import numpy as np
from scipy.special import kolmogi, kolmogorov
from scipy.stats import rankdata

from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array
from transferkit.audit.two_sample import (
    ColumnTests,
    SplitPair,
    TwoSampleResult,
    max_adjusted_p_values,
    permuted_members,
)
from transferkit.metrics.intervals import holm

BLOCK = 4_000_000
"""Values held in memory at a time, per working array."""
EXACT_ROWS = 10_000
"""Pooled rows up to which the null distribution is summed exactly."""
SMALLEST = 1e-12
"""Probability that the exact sum leaves outside its band."""


def ks_test(
    pair: SplitPair,
    *,
    permutations: int = 999,
    confidence: float = 0.95,
    seed: int = 0,
) -> TwoSampleResult:
    """Test every column for a difference between two splits; the result is the strongest's."""
    n_a, n_b = pair.n_a, pair.n_b
    blocks = _sorted_blocks(pair.values)
    # An interval is the distance plus and minus a band that holds for all columns at once: it
    # leaves out 0 only where the adjusted test rejects.
    if pair.groups is None:  # exact p-values, adjusted by Holm
        found = [(_deviations(pair.member[order], ends, n_a), ends) for order, ends in blocks]
        p_values = np.concatenate([ks_p_values(*one, n_a, n_b) for one in found])
        distances = np.concatenate([deviations for deviations, _ in found]) / (n_a * n_b)
        adjusted, null = holm(p_values), None
        band = float(kolmogi((1 - confidence) / len(distances))) * sqrt(1 / n_a + 1 / n_b)
    else:  # groups permuted, adjusted by max-T
        members = permuted_members(
            pair.member, permutations=permutations, seed=seed, groups=pair.groups
        )
        drawn = np.column_stack(
            [
                _group_distances(members, *one)
                for order, ends in blocks
                for one in zip(order, ends, strict=True)
            ]
        )
        distances = drawn[0]
        p_values = np.mean(drawn >= distances - 1e-9, axis=0)
        adjusted, null = max_adjusted_p_values(drawn), drawn.max(axis=1)
        band = float(np.quantile(null[1:], confidence))
    intervals = np.clip(np.column_stack([distances - band, distances + band]), 0, 1)
    columns = ColumnTests(pair.names, distances, p_values, adjusted, intervals, _superiority(pair))
    return _strongest(columns, null)


def _strongest(columns: ColumnTests, null: Float64Array | None) -> TwoSampleResult:
    """The strongest column as one result, its p-value corrected for all columns."""
    distances = columns.distances
    i = int(np.lexsort((-distances, columns.p_values))[0])  # then the largest distance
    low, high = (float(end) for end in columns.intervals[i])
    higher = float(columns.superiority[i])
    rose = "higher in the second" if higher > 0.5 else "higher in the first"
    spread = "as high in both" if abs(higher - 0.5) < 0.01 else rose
    return TwoSampleResult(
        test="ks",
        statistic=float(distances[i]),
        p_value=float(columns.adjusted[i]),
        effect=float(distances[i]),
        interval=(low, high),
        note=f"strongest of {len(distances)}: {columns.names[i]}, {spread}",
        columns=columns,
        null=null,
    )


def _sorted_blocks(pooled: FloatArray) -> Iterator[tuple[Int64Array, BoolArray]]:
    """For a few features at a time, the sorting order and where tied blocks end, ``(F, N)``."""
    total, width = pooled.shape
    step = max(1, BLOCK // total)
    for start in range(0, width, step):
        values = np.ascontiguousarray(pooled[:, start : start + step].T)
        order = np.argsort(values, axis=1)
        values = np.take_along_axis(values, order, axis=1)
        ends = np.ones(values.shape, dtype=np.bool_)
        np.not_equal(values[:, 1:], values[:, :-1], out=ends[:, :-1])
        yield order, ends


def _deviations(member: BoolArray, ends: BoolArray, n_a: int) -> Int64Array:
    """Largest deviation ``|N S(t) - n_a t|`` over block ends, ``(F,)``."""
    # S(t) of the t smallest rows belong to the first sample. The two cumulative shares differ by
    # S/n_a - (t - S)/n_b = (N S - n_a t) / (n_a n_b): its numerator is an exact integer.
    total = member.shape[1]
    count = np.cumsum(member, axis=1, dtype=np.int64)
    count *= total
    count -= n_a * np.arange(1, total + 1)
    np.abs(count, out=count)
    count *= ends
    return np.asarray(count.max(axis=1), dtype=np.int64)


def _superiority(pair: SplitPair) -> Float64Array:
    """Share of pairs in which the row of the second split is larger, ties half, ``(D,)``."""
    # Mann-Whitney: ranks of the second split, less those that its rows have among themselves.
    ranks = rankdata(pair.values, axis=0)[pair.n_a :].sum(axis=0)
    wins: Float64Array = ranks - pair.n_b * (pair.n_b + 1) / 2
    return wins / (pair.n_a * pair.n_b)


def _group_distances(members: BoolArray, order: Int64Array, ends: BoolArray) -> Float64Array:
    """Distances ``(1 + B,)`` of one feature under memberships of any size."""
    at = np.flatnonzero(ends)
    distances = np.empty(len(members))
    step = max(1, BLOCK // members.shape[1])
    for start in range(0, len(members), step):
        count = np.cumsum(members[start : start + step, order], axis=1, dtype=np.int32)
        n_a = count[:, -1:]
        n_b = len(order) - n_a
        gaps = count[:, at] / n_a - (at + 1 - count[:, at]) / n_b
        distances[start : start + step] = np.abs(gaps).max(axis=1)
    return distances


def ks_p_values(deviations: Int64Array, ends: BoolArray, n_a: int, n_b: int) -> Float64Array:
    """P-values ``(D,)`` of :func:`_deviations` ``(D,)``; exact at ties, ``ends`` ``(D, N)``.

    Source: G. Schroeer and D. Trenkler, "Exact and randomization distributions of
    Kolmogorov-Smirnov tests two or three samples", Comput. Stat. Data Anal. 20 (1995).
    """
    total = n_a + n_b
    scaled = deviations / sqrt(n_a * n_b * total)  # the distance times sqrt(n_a n_b / N)
    if total > EXACT_ROWS:  # Kolmogorov's limit, conservative at ties
        return np.asarray(kolmogorov(scaled), dtype=np.float64)
    # Under the null every assignment of rows to samples is equally likely, so S is a walk that
    # rises at step t with probability (n_a - S) / (N - t + 1). The chance of every S is carried
    # from step to step; what reaches the deviation at a block end is taken out and summed up.
    # Only a band of +-half around the mean n_a t / N is kept. By Hoeffding's inequality a walk
    # leaves it with a chance of at most 2 exp(-2 half^2 N / (n_a n_b)) = SMALLEST.
    spread = sqrt(log(2 / SMALLEST) / 2 * n_a * n_b / total)
    half = min(ceil(spread), n_a) + 1
    offsets = np.arange(-half, half + 1)
    alive = np.zeros((len(offsets), len(deviations)))
    alive[half] = 1.0
    stopped = np.zeros(len(deviations))
    centre = 0
    for t in range(1, total + 1):
        rise = np.clip((n_a - centre - offsets) / (total - t + 1), 0.0, 1.0)[:, None]
        up, stay = alive * rise, alive * (1 - rise)
        moved = n_a * t // total - centre  # the band moves up by 0 or 1
        alive = up if moved else stay
        if moved:
            alive[:-1] += stay[1:]
        else:
            alive[1:] += up[:-1]
        centre += moved
        far = np.abs(total * (centre + offsets) - n_a * t)
        reached = (far[:, None] >= deviations) & ends[:, t - 1]
        stopped += np.where(reached, alive, 0.0).sum(axis=0)
        alive[reached] = 0.0
    # Outside the band, the p-value is that upper bound.
    beyond = scaled * sqrt(n_a * n_b / total) >= spread
    bound = np.where(beyond, np.minimum(2 * np.exp(-2 * scaled**2), SMALLEST), 0.0)
    return np.clip(np.maximum(stopped, bound), 0.0, 1.0)
