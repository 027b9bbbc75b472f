"""Pairs of splits, and what their two-sample tests share: permutations and the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transferkit._sampling import group_codes
from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array

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
            groups=None if self.groups is None else _group_numbers(self.groups[kept]),
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
    return _group_numbers(np.concatenate([np.asarray(part).astype(str) for part in groups]))


def _group_numbers(names: Int64Array | NDArray[np.str_]) -> Int64Array:
    """Number the groups from 0, in the order of their names as text: draws depend on that order."""
    return group_codes(names.astype(str), len(names))


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


def permuted_members(
    member: BoolArray, *, permutations: int, seed: int, groups: Int64Array | None = None
) -> BoolArray:
    """Permute which rows ``(N,)`` are of the first split: ``(1 + B, N)``, row 0 as observed."""
    rng = np.random.default_rng(seed)
    drawn = np.repeat(member[None], permutations + 1, axis=0)
    if groups is None:
        rng.permuted(drawn[1:], axis=1, out=drawn[1:])
        return drawn
    # A group that lies in one sample moves whole; within one that lies in both, rows are shuffled.
    first = np.bincount(groups[member], minlength=groups.max() + 1)
    straddles = (first > 0) & (first < np.bincount(groups, minlength=groups.max() + 1))
    rows = np.flatnonzero(~straddles[groups])
    _, first_row, unit = np.unique(groups[rows], return_index=True, return_inverse=True)
    labels = np.repeat(member[rows[first_row]][None], permutations, axis=0)
    drawn[1:, rows] = rng.permuted(labels, axis=1)[:, unit]
    rows = np.flatnonzero(straddles[groups])
    rows = rows[np.argsort(groups[rows], kind="stable")]
    for one in drawn[1:] if len(rows) else ():
        # Sorting by code plus noise in [0, 1) shuffles the rows of each group among themselves.
        one[rows] = member[rows][np.argsort(groups[rows] + rng.random(len(rows)))]
    return drawn
