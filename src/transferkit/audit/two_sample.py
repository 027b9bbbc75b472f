"""The result that every two-sample test returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from transferkit._format import plain
from transferkit._sampling import group_codes
from transferkit._typing import JSON, BoolArray, Float64Array, FloatArray, Int64Array
from transferkit._validation import check_finite
from transferkit.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoSampleResult:
    """Do two samples follow one distribution?

    Attributes:
        test: Name of the test.
        statistic: What it measured, in its own unit.
        p_value: Chance of a statistic at least as large where the distributions are equal.
        effect: Size of the difference, 0 (none) to 1 (disjoint).
        interval: Interval of ``effect``.
        n_a: Rows of the first sample.
        n_b: Rows of the second.
        permutations: Permutations behind the p-value; None if it comes from a formula.
        note: What the reader should know, such as that all features are constant.
    """

    test: str
    statistic: float
    p_value: float
    effect: float
    interval: tuple[float, float]
    n_a: int
    n_b: int
    permutations: int | None = None
    note: str = ""

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        return {key: plain(value) for key, value in asdict(self).items()}

    def __str__(self) -> str:
        low, high = self.interval
        note = f" ({self.note})" if self.note else ""
        return (
            f"{self.test}: statistic {self.statistic:.4g}, p = {self.p_value:.3g}, "
            f"effect {self.effect:.3f} [{low:.3f}, {high:.3f}], n = {self.n_a} and {self.n_b}{note}"
        )


def nothing_differs(test: str, n_a: int, n_b: int) -> TwoSampleResult:
    """Return the result where every feature is constant: there is nothing that could differ."""
    return TwoSampleResult(
        test=test,
        statistic=0.0,
        p_value=1.0,
        effect=0.0,
        interval=(0.0, 0.0),
        n_a=n_a,
        n_b=n_b,
        note="all features are constant",
    )


TIE = 1e-9
"""Statistics that agree to this relative precision count as tied: rounding is no evidence."""


def permutation_p_value(statistics: Float64Array) -> float:
    """Return ``(1 + k) / (1 + B)``, k the permuted statistics at or above the observed one.

    Source: B. Phipson and G. Smyth, "Permutation p-values should never be zero", SAGMB 9 (2010).

    Args:
        statistics: ``(1 + B,)`` the observed statistic, then the B permuted ones; large values
            speak against the null.

    Example:
        The observed statistic is above all of 99 permuted ones:

        >>> import numpy as np
        >>> from transferkit.audit.two_sample import permutation_p_value
        >>> permutation_p_value(np.array([5.0, *np.linspace(0, 1, 99)]))
        0.01
    """
    slack = TIE * float(np.abs(statistics).max())
    return float(np.mean(statistics >= statistics[0] - slack))


def max_adjusted_p_values(statistics: Float64Array) -> Float64Array:
    """Adjust for many statistics permuted together: the single-step max-T procedure.

    Statistic i gets the share of permutations whose largest statistic reaches it. This bounds the
    chance of any false alarm, uses the dependence between the statistics, and loses no
    resolution to their number. Source: P. Westfall and S. Young, "Resampling-based multiple
    testing" (1993).

    Args:
        statistics: ``(1 + B, D)`` row 0 observed; columns on one scale.

    Returns:
        ``(D,)`` adjusted p-values.
    """
    slack = TIE * float(np.abs(statistics).max())
    largest = np.sort(statistics.max(axis=1))
    below = np.searchsorted(largest, statistics[0] - slack, side="left")
    adjusted: Float64Array = (len(largest) - below) / len(largest)
    return adjusted


def permuted_members(
    member: BoolArray, *, permutations: int, seed: int, groups: Int64Array | None = None
) -> BoolArray:
    """Draw permutations of who belongs to the first sample.

    Args:
        member: ``(N,)`` membership in the first sample, as observed.
        permutations: B.
        seed: Seed of the draws.
        groups: ``(N,)`` group codes, or None where rows are exchangeable.

    Returns:
        ``(1 + B, N)`` membership; row 0 is the observed one.

    Raises:
        ConfigError: Fewer than one permutation.
    """
    if permutations < 1:
        raise ConfigError(f"permutations must be at least 1; {permutations} came.")
    rng = np.random.default_rng(seed)
    drawn = np.repeat(member[None], permutations + 1, axis=0)
    if groups is None:
        rng.permuted(drawn[1:], axis=1, out=drawn[1:])
        return drawn
    first = np.bincount(groups[member], minlength=groups.max() + 1)
    both = (first > 0) & (first < np.bincount(groups, minlength=groups.max() + 1))
    inside = both[groups]
    _move_groups(drawn, np.flatnonzero(~inside), groups, rng)
    _shuffle_within(drawn, np.flatnonzero(inside), groups, rng)
    return drawn


def _move_groups(
    drawn: BoolArray, rows: Int64Array, groups: Int64Array, rng: np.random.Generator
) -> None:
    """Permute whole groups, each of which lies in one sample."""
    if len(rows) == 0:
        return
    _, first_row, unit = np.unique(groups[rows], return_index=True, return_inverse=True)
    labels = np.repeat(drawn[0, rows[first_row]][None], len(drawn) - 1, axis=0)
    drawn[1:, rows] = rng.permuted(labels, axis=1)[:, unit]


def _shuffle_within(
    drawn: BoolArray, rows: Int64Array, groups: Int64Array, rng: np.random.Generator
) -> None:
    """Permute rows within each group that straddles both samples."""
    if len(rows) == 0:
        return
    rows = rows[np.argsort(groups[rows], kind="stable")]
    observed, codes = drawn[0, rows], groups[rows]
    for one in drawn[1:]:
        one[rows] = observed[np.argsort(codes + rng.random(len(codes)))]


Groups: TypeAlias = "tuple[ArrayLike, ArrayLike] | None"
"""One group name per row of the first sample, and of the second: patients, videos."""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two checked samples over the same features.

    Attributes:
        pooled: ``(N, D)`` finite floats, the n_a rows of the first sample before the rest.
        n_a: Rows of the first sample.
        names: D feature names.
        groups: ``(N,)`` group codes, or None where every row stands for itself.
    """

    pooled: FloatArray
    n_a: int
    names: tuple[str, ...]
    groups: Int64Array | None

    @property
    def n_b(self) -> int:
        """Rows of the second sample."""
        return len(self.pooled) - self.n_a

    @property
    def member(self) -> BoolArray:
        """``(N,)`` whether a row belongs to the first sample."""
        return np.arange(len(self.pooled)) < self.n_a

    def units(self) -> tuple[int, int]:
        """Independent units of each sample: its groups, or its rows."""
        if self.groups is None:
            return self.n_a, self.n_b
        return len(np.unique(self.groups[: self.n_a])), len(np.unique(self.groups[self.n_a :]))


@dataclass(frozen=True, slots=True, eq=False)
class SplitPair:
    """Two splits side by side: the n_a rows of the first, then those of the second, N in all.

    Attributes:
        splits: Names of the two splits.
        values: What is compared: (N, D) finite floats.
        n_a: Rows of the first split.
        names: D names of the columns of ``values``.
        rows: Row of each image in its own split (N,).
        labels: Classes (N,), or None unless both splits have them.
        groups: Group codes (N,), or None where every row stands for itself.
    """

    splits: tuple[str, str]
    values: FloatArray
    n_a: int
    names: tuple[str, ...]
    rows: Int64Array
    labels: Int64Array | None = None
    groups: Int64Array | None = None

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
        """Lay two samples (n_a, D) and (n_b, D) side by side."""
        pair = check_pair(a, b, names=names, groups=groups, least=0)
        numbers = rows or (np.arange(pair.n_a), np.arange(pair.n_b))
        return cls(
            splits,
            pair.pooled,
            pair.n_a,
            pair.names,
            np.concatenate(numbers),
            None if labels is None else np.concatenate(labels),
            pair.groups,
        )

    @property
    def n_b(self) -> int:
        """Rows of the second split."""
        return len(self.values) - self.n_a

    @property
    def member(self) -> BoolArray:
        """Whether a row is of the first split (N,)."""
        return np.arange(len(self.values)) < self.n_a

    def units(self) -> tuple[int, int]:
        """Independent units of each split: its groups, or its rows."""
        if self.groups is None:
            return self.n_a, self.n_b
        return len(np.unique(self.groups[: self.n_a])), len(np.unique(self.groups[self.n_a :]))

    def take(self, kept: BoolArray) -> SplitPair:
        """Return the rows where ``kept`` (N,) is true: those of one class, say."""
        return replace(
            self,
            values=self.values[kept],
            n_a=int(kept[: self.n_a].sum()),
            rows=self.rows[kept],
            labels=None if self.labels is None else self.labels[kept],
            groups=None if self.groups is None else self.groups[kept],
        )

    def described_by(
        self, values: Mapping[str, FloatArray], names: Sequence[str] | None = None
    ) -> SplitPair:
        """Return the same images with other values: split to (N, D), all rows of the split."""
        a, b = self.splits
        own = [values[a][self.rows[: self.n_a]], values[b][self.rows[self.n_a :]]]
        pooled = np.concatenate(own)
        columns = names or [f"feature[{i}]" for i in range(pooled.shape[1])]
        return replace(self, values=pooled, names=tuple(columns))


def check_pair(
    a: ArrayLike,
    b: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    groups: Groups = None,
    least: int = 2,
) -> Pair:
    """Check two samples and pool them.

    Args:
        a: ``(n_a, D)`` features of the first sample; ``(n_a,)`` is one feature.
        b: ``(n_b, D)`` features of the second.
        names: D feature names, for messages.
        groups: Group of each row of ``a``, and of ``b``.
        least: Rows that each sample must have.

    Raises:
        DataError: Too few rows, other widths, not numbers, NaN or infinity (named by row and
            feature), names or groups that do not fit.
    """
    first, second = _matrix(a, "first"), _matrix(b, "second")
    if first.shape[1] != second.shape[1]:
        raise DataError(
            "Both samples need the same features, but the first has "
            f"{first.shape[1]} and the second {second.shape[1]}."
        )
    named = _names(names, first.shape[1])
    for sample, which in ((first, "first"), (second, "second")):
        check_rows(len(sample), which, least)
        check_finite(sample, what=f"Features of the {which} sample", columns=names)
    pooled = np.concatenate([first, second])
    return Pair(pooled, len(first), named, pooled_groups(groups, len(first), len(second)))


def check_rows(n: int, which: str, least: int) -> None:
    """Demand at least ``least`` rows.

    Raises:
        DataError: There are fewer.
    """
    if n < least:
        raise DataError(
            f"The {which} sample has {n} row(s), but the test needs at least {least}; "
            "leave this comparison out or add images."
        )


def pooled_groups(groups: Groups, n_a: int, n_b: int) -> Int64Array | None:
    """Return one code per pooled row ``(n_a + n_b,)``; equal names get equal codes.

    Raises:
        DataError: Not one group per row.
    """
    if groups is None:
        return None
    first, second = np.asarray(groups[0]), np.asarray(groups[1])
    if first.shape != (n_a,) or second.shape != (n_b,):
        raise DataError(
            f"Groups must name one group per row: ({n_a},) and ({n_b},); "
            f"{first.shape} and {second.shape} came."
        )
    return group_codes(np.concatenate([first.astype(str), second.astype(str)]), n_a + n_b)


def _matrix(sample: ArrayLike, which: str) -> FloatArray:
    array = np.asarray(sample)
    if array.dtype.kind not in "biuf":
        raise DataError(f"The {which} sample must be numbers, but came as {array.dtype}.")
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0:
        raise DataError(
            f"The {which} sample must be features (rows, features), but came with shape "
            f"{array.shape}; flatten images or extract features first."
        )
    kept = array.dtype in (np.float32, np.float64)
    small = array.dtype.itemsize <= 2
    floats: FloatArray = array.astype(
        array.dtype if kept else np.float32 if small else np.float64, copy=False
    )
    return floats


def _names(names: Sequence[str] | None, width: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"feature[{i}]" for i in range(width))
    if len(names) != width:
        raise DataError(f"Expected {width} feature names, but {len(names)} came.")
    return tuple(names)
