"""Label shift: do two splits hold the classes in the same shares?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import chi2, ncx2, random_table

from transferkit._format import percent_interval, plain, table
from transferkit._typing import JSON, Float64Array, Int64Array
from transferkit._validation import check_classes, check_labels, check_share
from transferkit.audit.two_sample import (
    Groups,
    TwoSampleResult,
    check_rows,
    nothing_differs,
    permutation_p_value,
    permuted_members,
    pooled_groups,
)
from transferkit.errors import ConfigError, DataError
from transferkit.metrics.bootstrap import bootstrap_mean_interval
from transferkit.metrics.intervals import wilson_interval

ENOUGH = 10.0
"""Expected count in every cell from which on the chi-square distribution is trusted."""

Statistic: TypeAlias = Literal["chi_square", "g"]


def category_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    statistic: Statistic = "chi_square",
    groups: Groups = None,
    permutations: int = 1999,
    confidence: float = 0.95,
    seed: int = 0,
) -> TwoSampleResult:
    """Chi-square or G test that two samples share one distribution over categories.

    The p-value is that of the chi-square distribution where every expected count is at least 10;
    else, and with groups, it is a permutation p-value. ``effect`` is the total variation distance
    of the shares, ``sum |p - q| / 2``: the share of rows that would have to change category. Its
    interval scales it by the noncentral chi-square interval of Cramer's V, so it leaves out 0
    where the test rejects. Source of that interval: M. Smithson, "Confidence intervals" (2003);
    with groups chi-square is divided by its mean under permutation, after J. Rao and
    A. Scott, "The analysis of categorical data from complex sample surveys", JASA 76 (1981).

    Args:
        a: ``(n_a,)`` categories, as integers or names.
        b: ``(n_b,)`` categories.
        statistic: ``"chi_square"`` (Pearson) or ``"g"`` (likelihood ratio).
        groups: Group of each row of ``a``, and of ``b``: groups are permuted.
        permutations: B, where permutation is used.
        confidence: Coverage of the interval.
        seed: Seed of the permutations.

    Raises:
        DataError: Empty samples, categories that are not integers or names, groups that do not
            fit.
        ConfigError: An option out of its range.
    """
    check_share("confidence", confidence)
    if statistic not in get_args(Statistic):
        raise ConfigError(f"statistic must be one of {get_args(Statistic)}; {statistic!r} came.")
    codes, n_a = _codes(a, b)
    n_b, kinds = len(codes) - n_a, int(codes.max()) + 1
    if kinds == 1:
        return nothing_differs(statistic, n_a, n_b)
    grouped = pooled_groups(groups, n_a, n_b)
    table = np.stack([np.bincount(part, minlength=kinds) for part in (codes[:n_a], codes[n_a:])])
    observed = float(_statistics(table[None].astype(np.float64), statistic)[0])
    if grouped is None and _expected(table[None].astype(np.float64)).min() >= ENOUGH:
        null, p_value = None, float(chi2.sf(observed, kinds - 1))
    else:
        tables = _permuted_tables(codes, table, grouped, permutations, seed)
        null = _statistics(tables, statistic)
        p_value = permutation_p_value(np.concatenate([[observed], null]))
    design = 1.0 if null is None else max(1.0, float(null.mean()) / (kinds - 1))
    effect = float(np.abs(table[0] / n_a - table[1] / n_b).sum() / 2)
    return TwoSampleResult(
        test=statistic,
        statistic=observed,
        p_value=p_value,
        effect=effect,
        interval=_interval(effect, observed / design, kinds - 1, confidence),
        n_a=n_a,
        n_b=n_b,
        permutations=None if null is None else permutations,
    )


def _codes(a: ArrayLike, b: ArrayLike) -> tuple[Int64Array, int]:
    """Return the pooled categories as codes from 0, and the size of the first sample."""
    first, second = np.asarray(a), np.asarray(b)
    for sample, which in ((first, "first"), (second, "second")):
        if sample.ndim != 1 or (len(sample) and sample.dtype.kind not in "biuUS"):
            raise DataError(
                f"Categories must be integers or names (rows,), but the {which} sample came with "
                f"shape {sample.shape} and type {sample.dtype}."
            )
        check_rows(len(sample), which, 1)
    pooled = np.concatenate([first, second])
    return np.unique(pooled, return_inverse=True)[1].astype(np.int64), len(first)


def _expected(tables: Float64Array) -> Float64Array:
    """Return expected counts of tables ``(R, 2, K)`` under equal shares."""
    rows, columns = tables.sum(axis=2, keepdims=True), tables.sum(axis=1, keepdims=True)
    expected: Float64Array = rows * columns / rows.sum(axis=1, keepdims=True)
    return expected


def _statistics(tables: Float64Array, statistic: Statistic) -> Float64Array:
    """Return the statistic of each table ``(R, 2, K)``, ``(R,)``."""
    expected = _expected(tables)
    if statistic == "chi_square":
        gaps = (tables - expected) ** 2 / expected
        return np.asarray(gaps.sum(axis=(1, 2)), dtype=np.float64)
    logs = tables * np.log(np.where(tables > 0, tables / expected, 1.0))
    return np.asarray(2 * logs.sum(axis=(1, 2)), dtype=np.float64)


def _permuted_tables(
    codes: Int64Array, table: Int64Array, groups: Int64Array | None, permutations: int, seed: int
) -> Float64Array:
    """Draw tables ``(B, 2, K)`` under the null: by row with both margins fixed, or by group."""
    if permutations < 1:
        raise ConfigError(f"permutations must be at least 1; {permutations} came.")
    if groups is None:
        margins = random_table(table.sum(axis=1), table.sum(axis=0))
        drawn = margins.rvs(size=permutations, random_state=np.random.default_rng(seed))
        return np.asarray(drawn, dtype=np.float64)
    member = np.arange(len(codes)) < table[0].sum()
    members = permuted_members(member, permutations=permutations, seed=seed, groups=groups)[1:]
    columns = np.eye(table.shape[1])[codes]
    first = members.astype(np.float64) @ columns
    return np.stack([first, table.sum(axis=0) - first], axis=1)


def _interval(
    effect: float, statistic: float, freedom: int, confidence: float
) -> tuple[float, float]:
    """Scale ``effect`` by the interval of the square root of the noncentrality."""
    if statistic <= 0:
        return 0.0, effect
    tail = (1 - confidence) / 2
    ends = [_noncentrality(statistic, freedom, level) for level in (1 - tail, tail)]
    low, high = (effect * sqrt(end / statistic) for end in ends)
    return min(low, effect), min(1.0, max(high, effect))


def _noncentrality(statistic: float, freedom: int, level: float) -> float:
    """Return the noncentrality at which P(chi-square <= statistic) is ``level``; 0 if none is."""

    def above(noncentrality: float) -> float:
        return float(ncx2.cdf(statistic, freedom, noncentrality)) - level

    if chi2.cdf(statistic, freedom) <= level:
        return 0.0
    top = statistic + 10 * sqrt(statistic) + 50
    return float(brentq(above, 1e-9, top))


@dataclass(frozen=True, slots=True, eq=False)
class LabelShiftResult:
    """The class shares of two samples, and whether they differ.

    Attributes:
        classes: K class names.
        shares_a: ``(K,)`` shares in the first sample.
        shares_b: ``(K,)`` shares in the second.
        intervals_a: ``(K, 2)`` their intervals.
        intervals_b: ``(K, 2)`` their intervals.
        test: The test of equal shares; its effect is their total variation distance.
    """

    classes: tuple[str, ...]
    shares_a: Float64Array
    shares_b: Float64Array
    intervals_a: Float64Array
    intervals_b: Float64Array
    test: TwoSampleResult

    @property
    def most_changed(self) -> str:
        """The class whose share differs most."""
        return self.classes[int(np.argmax(np.abs(self.shares_b - self.shares_a)))]

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        own = {name: plain(getattr(self, name)) for name in self.__slots__ if name != "test"}
        return {**own, "test": self.test.to_dict()}

    def __str__(self) -> str:
        rows = [
            [name, _said(self.shares_a[k], self.intervals_a[k]), _said(self.shares_b[k], ends)]
            for k, (name, ends) in enumerate(zip(self.classes, self.intervals_b, strict=True))
        ]
        return f"{table(('class', 'first', 'second'), rows)}\n{self.test}"


def label_shift_test(
    labels_a: ArrayLike,
    labels_b: ArrayLike,
    *,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    groups: Groups = None,
    permutations: int = 1999,
    confidence: float = 0.95,
    seed: int = 0,
) -> LabelShiftResult:
    """Compare the class shares of two labelled samples.

    Shares have Wilson intervals, or bootstrap intervals by group where groups are given. The test
    is chi-square (see :func:`~transferkit.audit.label_shift.category_test`). For a sample without
    labels see :mod:`transferkit.audit.label_shift_estimation`.

    Args:
        labels_a: ``(n_a,)`` class indices of the first sample.
        labels_b: ``(n_b,)`` class indices of the second.
        num_classes: K; by default one more than the largest label.
        classes: K class names.
        groups: Group of each row, in both samples.
        permutations: B, where permutation is used.
        confidence: Coverage of the intervals.
        seed: Seed of permutations and bootstrap.

    Raises:
        DataError: Empty samples, labels outside ``[0, K)``, groups or names that do not fit.
        ConfigError: An option out of its range.
    """
    if num_classes is None and classes is not None:
        num_classes = len(classes)
    a = check_labels(labels_a, num_classes=num_classes)
    b = check_labels(labels_b, num_classes=num_classes)
    kinds = num_classes if num_classes is not None else int(max(a.max(), b.max())) + 1
    test = category_test(
        a, b, groups=groups, permutations=permutations, confidence=confidence, seed=seed
    )
    group_a, group_b = (None, None) if groups is None else groups
    return LabelShiftResult(
        classes=check_classes(classes, kinds),
        shares_a=np.bincount(a, minlength=kinds) / len(a),
        shares_b=np.bincount(b, minlength=kinds) / len(b),
        intervals_a=_share_intervals(a, kinds, group_a, confidence, seed),
        intervals_b=_share_intervals(b, kinds, group_b, confidence, seed),
        test=test,
    )


def _share_intervals(
    labels: Int64Array, kinds: int, groups: ArrayLike | None, confidence: float, seed: int
) -> Float64Array:
    if groups is None:
        counts = np.bincount(labels, minlength=kinds).tolist()
        ends = [wilson_interval(k, len(labels), confidence=confidence) for k in counts]
    else:
        ends = [
            bootstrap_mean_interval(labels == k, confidence=confidence, seed=seed, groups=groups)
            for k in range(kinds)
        ]
    return np.array(ends, dtype=np.float64)


def _said(share: float, ends: Float64Array) -> str:
    return percent_interval(share, (float(ends[0]), float(ends[1])))
