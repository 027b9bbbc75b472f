"""Feature by feature: the Kolmogorov-Smirnov test, exact with ties, over many features at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import kolmogi

from transferkit._format import plain, table
from transferkit._typing import JSON, BoolArray, Float64Array, FloatArray, Int64Array
from transferkit._validation import check_share
from transferkit.audit.ks_distribution import ks_p_values
from transferkit.audit.two_sample import (
    Groups,
    Pair,
    TwoSampleResult,
    check_pair,
    max_adjusted_p_values,
    permuted_members,
)
from transferkit.metrics.multiple_testing import holm

BLOCK = 4_000_000
"""Values held in memory at a time, per working array."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureTests:
    """One Kolmogorov-Smirnov test per feature.

    Attributes:
        names: D feature names.
        distances: ``(D,)`` largest difference of the two cumulative shares, the effect.
        p_values: ``(D,)`` p-values, each for its own feature.
        adjusted: ``(D,)`` p-values corrected for D features.
        intervals: ``(D, 2)`` of the distances, which hold for all features at once.
        superiority: ``(D,)`` chance that a row of the second sample exceeds one of the first,
            ties counted half: above 0.5 the feature rose.
        n_a: Rows of the first sample.
        n_b: Rows of the second.
        permutations: Permutations of the groups, or None where the p-values come from the exact
            null distribution.
    """

    names: tuple[str, ...]
    distances: Float64Array
    p_values: Float64Array
    adjusted: Float64Array
    intervals: Float64Array
    superiority: Float64Array
    n_a: int
    n_b: int
    permutations: int | None = None

    @property
    def strongest(self) -> int:
        """Index of the feature that stands out most: smallest p-value, then largest distance."""
        return int(np.lexsort((-self.distances, self.p_values))[0])

    def summary(self) -> TwoSampleResult:
        """Return the strongest feature as one result, its p-value corrected for all features."""
        i = self.strongest
        low, high = (float(end) for end in self.intervals[i])
        rose = "higher in the second" if self.superiority[i] > 0.5 else "higher in the first"
        spread = "as high in both" if abs(self.superiority[i] - 0.5) < 0.01 else rose
        return TwoSampleResult(
            test="ks",
            statistic=float(self.distances[i]),
            p_value=float(self.adjusted[i]),
            effect=float(self.distances[i]),
            interval=(low, high),
            n_a=self.n_a,
            n_b=self.n_b,
            permutations=self.permutations,
            note=f"strongest of {len(self.names)}: {self.names[i]}, {spread}",
        )

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        return {name: plain(getattr(self, name)) for name in self.__slots__}

    def __str__(self) -> str:
        order = np.lexsort((-self.distances, self.p_values))[:20]
        rows = [
            [
                self.names[i],
                f"{self.distances[i]:.3f}",
                f"[{self.intervals[i, 0]:.3f}, {self.intervals[i, 1]:.3f}]",
                f"{self.superiority[i]:.3f}",
                f"{self.p_values[i]:.2g}",
                f"{self.adjusted[i]:.2g}",
            ]
            for i in order
        ]
        header = ("feature", "distance", "interval", "superiority", "p", "adjusted p")
        return table(header, rows)


def ks_tests(
    a: ArrayLike,
    b: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    groups: Groups = None,
    permutations: int = 999,
    confidence: float = 0.95,
    seed: int = 0,
) -> FeatureTests:
    """Test every feature for a difference between two samples.

    The p-value comes from the exact null distribution given the ties of the feature (in the limit
    beyond 2000 rows), adjusted by Holm. With ``groups`` it comes from permuting groups, adjusted
    by max-T. A constant feature gets distance 0 and p-value 1. An interval is the distance plus and
    minus the Kolmogorov band, widened for D features (with groups: the quantile of the largest
    permuted distance), so it leaves out 0 where the adjusted test rejects, and errs on the wide
    side.

    Args:
        a: ``(n_a, D)`` features of the first sample.
        b: ``(n_b, D)`` features of the second.
        names: D feature names.
        groups: Group of each row of ``a``, and of ``b``.
        permutations: Permutations, used with groups only.
        confidence: Coverage of the intervals.
        seed: Seed of the permutations.

    Raises:
        DataError: Samples that are empty, of unequal width or not finite; groups that do not fit.
        ConfigError: ``confidence`` outside (0, 1), or fewer than one permutation.
    """
    check_share("confidence", confidence)
    pair = check_pair(a, b, names=names, groups=groups, least=1)
    if pair.groups is None:
        return _exact(pair, confidence)
    return _permuted(pair, permutations, confidence, seed)


def ks_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: Groups = None,
    permutations: int = 999,
    confidence: float = 0.95,
    seed: int = 0,
) -> TwoSampleResult:
    """Test one feature, ``(n_a,)`` against ``(n_b,)``; see :func:`ks_tests`."""
    return ks_tests(
        np.ravel(np.asarray(a)),
        np.ravel(np.asarray(b)),
        groups=groups,
        permutations=permutations,
        confidence=confidence,
        seed=seed,
    ).summary()


def _exact(pair: Pair, confidence: float) -> FeatureTests:
    n_a, n_b = pair.n_a, pair.n_b
    parts = []
    for order, ends in _sorted_blocks(pair.pooled):
        deviations, superiority = _deviations(pair.member[order], ends, n_a)
        parts.append((deviations, superiority, ks_p_values(deviations, ends, n_a, n_b)))
    deviations, superiority, p_values = (np.concatenate(p) for p in zip(*parts, strict=True))
    distances = deviations / (n_a * n_b)
    band = float(kolmogi((1 - confidence) / len(distances))) * sqrt(1 / n_a + 1 / n_b)
    return FeatureTests(
        pair.names,
        distances,
        p_values,
        holm(p_values),
        _intervals(distances, band),
        superiority,
        n_a,
        n_b,
    )


def _permuted(pair: Pair, permutations: int, confidence: float, seed: int) -> FeatureTests:
    members = permuted_members(
        pair.member, permutations=permutations, seed=seed, groups=pair.groups
    )
    null = np.empty((len(members), pair.pooled.shape[1]))
    superiority = []
    column = 0
    for order, ends in _sorted_blocks(pair.pooled):
        superiority.append(_deviations(pair.member[order], ends, pair.n_a)[1])
        for rows, last in zip(order, ends, strict=True):
            null[:, column] = _group_distances(members, rows, last)
            column += 1
    band = float(np.quantile(null[1:].max(axis=1), confidence))
    return FeatureTests(
        pair.names,
        null[0],
        np.mean(null >= null[0] - 1e-9, axis=0),
        max_adjusted_p_values(null),
        _intervals(null[0], band),
        np.concatenate(superiority),
        pair.n_a,
        pair.n_b,
        permutations,
    )


def _sorted_blocks(pooled: FloatArray) -> Iterator[tuple[Int64Array, BoolArray]]:
    """Yield, for a few features at a time, the sorting order and where tied blocks end."""
    total, width = pooled.shape
    step = max(1, BLOCK // total)
    for start in range(0, width, step):
        values = np.ascontiguousarray(pooled[:, start : start + step].T)
        order = np.argsort(values, axis=1)
        values = np.take_along_axis(values, order, axis=1)
        ends = np.ones(values.shape, dtype=np.bool_)
        np.not_equal(values[:, 1:], values[:, :-1], out=ends[:, :-1])
        yield order, ends


def _deviations(member: BoolArray, ends: BoolArray, n_a: int) -> tuple[Int64Array, Float64Array]:
    """Return the largest ``|N S(t) - n_a t|`` over block ends, and the superiority, ``(F,)``."""
    total = member.shape[1]
    count = np.cumsum(member, axis=1, dtype=np.int64)
    wins = _superiority(count, ends, n_a)
    count *= total
    count -= n_a * np.arange(1, total + 1)
    np.abs(count, out=count)
    count *= ends
    return count.max(axis=1), wins


def _superiority(count: Int64Array, ends: BoolArray, n_a: int) -> Float64Array:
    """Share of pairs in which the row of the second sample is larger, ties half: a rank sum."""
    total = count.shape[1]
    wins = np.empty(len(count))
    for i, (below, last) in enumerate(zip(count, ends, strict=True)):
        at = np.flatnonzero(last)
        first = below[at]
        second = at + 1 - first
        before = np.concatenate([[0], first[:-1]])
        wins[i] = np.sum(np.diff(second, prepend=0) * (first + before)) / 2
    wins /= n_a * (total - n_a)
    return wins


def _group_distances(members: BoolArray, order: Int64Array, ends: BoolArray) -> Float64Array:
    """Return the distances ``(1 + B,)`` of one feature under memberships of any size."""
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


def _intervals(distances: Float64Array, band: float) -> Float64Array:
    low, high = np.maximum(distances - band, 0), np.minimum(distances + band, 1)
    return np.column_stack([low, high])
