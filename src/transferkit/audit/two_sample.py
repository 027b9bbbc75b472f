"""Pairs of splits, and what their two-sample tests share: permutations and the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaincc

from transferkit._sampling import group_codes
from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array
from transferkit.metrics.intervals import holm

Groups: TypeAlias = "tuple[ArrayLike, ArrayLike] | None"
"""Group name (patient, video) of each row of the first sample, and of the second."""

TIE = 1e-9
"""Statistics that are equal to this relative precision count as tied."""


@dataclass(frozen=True, slots=True, eq=False)
class ColumnTests:
    """One test for each of D columns; arrays are (D,)."""

    names: tuple[str, ...]
    distances: Float64Array  # largest difference of the two cumulative shares
    p_values: Float64Array
    adjusted: Float64Array  # p-values corrected for D columns
    intervals: Float64Array  # (D, 2) of the distances, simultaneous for all columns
    superiority: Float64Array  # P(second > first) + P(equal) / 2: above 0.5 the column rose


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TwoSampleResult:
    """Result of a test of whether two samples follow one distribution; by default, that they do."""

    test: str
    statistic: float = 0.0
    p_value: float = 1.0
    effect: float = 0.0  # 0 (no difference) to 1 (disjoint samples)
    interval: tuple[float, float] = (0.0, 0.0)  # confidence interval of the effect
    note: str = ""
    columns: ColumnTests | None = None
    null: Float64Array | None = None  # statistic (1 + B,), first observed, then permuted
    typical: Float64Array | None = None  # of its own sample, 0 to 1, each of the N pooled rows


@dataclass(frozen=True, slots=True, eq=False)
class SplitPair:
    """Two pooled splits: the n_a rows of the first, then those of the second, N in all."""

    splits: tuple[str, str]
    values: FloatArray  # (N, D), finite
    n_a: int
    names: tuple[str, ...]  # of the D columns
    rows: Int64Array  # row of each image in its own split (N,)
    labels: Int64Array | None = None  # class indices (N,), if both splits have them
    groups: Int64Array | None = None  # group codes (N,); None: rows are independent

    @classmethod
    def of(
        cls,
        a: ArrayLike,
        b: ArrayLike,
        *,
        splits: tuple[str, str] = ("a", "b"),
        names: Sequence[str] | None = None,
        rows: tuple[Int64Array, Int64Array] | None = None,
        labels: tuple[Int64Array, Int64Array] | None = None,
        groups: Groups = None,
    ) -> SplitPair:
        """Pool two samples ``(n_a, D)`` and ``(n_b, D)``; a 1-D sample is one column."""
        values = _pooled(a, b)
        n_a = len(np.asarray(a))
        return cls(
            splits,
            values,
            n_a,
            tuple(names or (f"feature[{i}]" for i in range(values.shape[1]))),
            np.concatenate(rows or (np.arange(n_a), np.arange(len(values) - n_a))),
            None if labels is None else np.concatenate(labels),
            pooled_groups(groups),
        )

    @property
    def n_b(self) -> int:
        """Rows of the second split."""
        return len(self.values) - self.n_a

    @property
    def member(self) -> BoolArray:
        """Whether a row is of the first split, ``(N,)``."""
        return np.arange(len(self.values)) < self.n_a

    @property
    def units(self) -> tuple[int, int]:
        """Number of groups in each split; without groups, of rows."""
        if self.groups is None:
            return self.n_a, self.n_b
        return len(np.unique(self.groups[: self.n_a])), len(np.unique(self.groups[self.n_a :]))

    def take(self, kept: BoolArray) -> SplitPair:
        """Keep the rows where ``kept`` ``(N,)`` is true, such as those of one class."""
        return replace(
            self,
            values=self.values[kept],
            n_a=int(kept[: self.n_a].sum()),
            rows=self.rows[kept],
            labels=None if self.labels is None else self.labels[kept],
            groups=None
            if self.groups is None
            else np.unique(self.groups[kept], return_inverse=True)[1],
        )

    def described_by(self, values: Mapping[str, FloatArray], names: Sequence[str]) -> SplitPair:
        """Compare other columns of the same images: split to ``(n, D)``, all rows of the split."""
        a, b = self.splits
        pooled = _pooled(values[a][self.rows[: self.n_a]], values[b][self.rows[self.n_a :]])
        return replace(self, values=pooled, names=tuple(names))


def _pooled(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Rows of both samples ``(N, D)``, in float64 unless float32 holds them exactly."""
    rows = np.concatenate([np.asarray(a), np.asarray(b)])
    floats: FloatArray = rows.astype(np.result_type(rows, np.float32), copy=False)
    return floats.reshape(len(rows), -1)


def pooled_groups(groups: Groups) -> Int64Array | None:
    """One code per pooled row; a name has the same code in both samples."""
    if groups is None:
        return None
    names = np.concatenate([np.asarray(part).astype(str) for part in groups])
    return group_codes(names, len(names))


def permutation_p_value(statistics: Float64Array) -> float:
    """P-value of the first of ``(1 + B,)`` statistics among the permuted rest; ties count.

    Source: B. Phipson and G. Smyth, "Permutation p-values should never be zero", SAGMB 9 (2010).
    """
    # (1 + k) / (1 + B), as the observed statistic is one of those that reach it.
    slack = TIE * float(np.nanmax(np.abs(statistics)))
    # Not below, rather than at or above: an undefined statistic must not count as evidence.
    return float(np.mean(~(statistics < statistics[0] - slack)))


def max_adjusted_p_values(statistics: Float64Array) -> Float64Array:
    """Max-T adjusted p-values ``(D,)`` of ``(1 + B, D)`` statistics, row 0 observed.

    Source: P. Westfall and S. Young, "Resampling-based multiple testing" (1993).
    """
    # Each gets the share of permutations whose largest statistic reaches it: that bounds the
    # chance of any false alarm, and loses no resolution to their number as Bonferroni's does.
    slack = TIE * float(np.abs(statistics).max())
    largest = np.sort(statistics.max(axis=1))
    below = np.searchsorted(largest, statistics[0] - slack, side="left")
    adjusted: Float64Array = (len(largest) - below) / len(largest)
    return adjusted


def family_p_values(tests: Sequence[TwoSampleResult]) -> Float64Array:
    """P-values corrected for all of the tests together, as many permutations in each."""
    # Max-T over the permuted ones: permutations need not grow with the tests. That they are drawn
    # test by test leaves out how tests depend; the maximum of independent ones is the largest that
    # positive dependence allows, and within 3 % of Bonferroni's bound under any at 5 %.
    # The exact ones are Holm's; where there are both, each side gets half of alpha.
    adjusted = np.empty(len(tests))
    drawn = [test.null for test in tests if test.null is not None]
    permuted = np.array([test.null is not None for test in tests], dtype=np.bool_)
    adjusted[~permuted] = holm([test.p_value for test in tests if test.null is None])
    if drawn:
        adjusted[permuted] = max_adjusted_p_values(_tail_scores(np.column_stack(drawn)))
    sides = 1 if permuted.all() or not permuted.any() else 2
    return np.minimum(adjusted * sides, 1.0)


def _tail_scores(statistics: Float64Array) -> Float64Array:
    """Statistics ``(1 + B, D)`` in one unit, as -log p of gamma distributions of equal moments."""
    # Else a maximum over them would be that of the most skewed. The fit does not see which row is
    # observed, so the test stays exact; only its power depends on how well the moments, taken
    # without the largest so that an observed shift does not hide itself, describe the tail.
    clipped = np.minimum(statistics, np.quantile(statistics, 0.99, axis=0))
    mean, spread = clipped.mean(axis=0), clipped.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    standard = (statistics - mean) / scale
    skewness = np.maximum(np.mean(((clipped - mean) / scale) ** 3, axis=0), 0.01)
    shape = 4 / skewness**2
    tail = gammaincc(shape, np.maximum(shape + standard * np.sqrt(shape), 0.0))
    scores: Float64Array = -np.log(np.maximum(tail, np.finfo(np.float64).tiny))
    return scores


def permuted_members(
    member: BoolArray,
    *,
    permutations: int,
    seed: int | np.random.Generator,
    groups: Int64Array | None = None,
) -> BoolArray:
    """Permute which rows ``(N,)`` are of the first split: ``(1 + B, N)``, row 0 as observed."""
    unit, first_row = fragments(member, groups)
    drawn = np.repeat(member[first_row][None], permutations + 1, axis=0)
    np.random.default_rng(seed).permuted(drawn[1:], axis=1, out=drawn[1:])
    return drawn if groups is None else drawn[:, unit]


def fragments(member: BoolArray, groups: Int64Array | None) -> tuple[Int64Array, Int64Array]:
    """Unit that each row ``(N,)`` moves with, and the first row of each unit ``(U,)``."""
    # The unit is what one sample holds of a group. Of a group in both samples, both units move:
    # were it kept in place, its share of the difference would stay in every permutation, and the
    # null would not be at equality; were its rows shuffled, what its two parts have apart (another
    # day, another view) would count as a shift. Its two units are alike, which brings the true
    # difference nearer to 0 than the permuted ones: conservative.
    if groups is None:
        return np.arange(len(member)), np.arange(len(member))
    _, first_row, unit = np.unique(2 * groups + ~member, return_index=True, return_inverse=True)
    return unit, first_row
