"""Label shift: do two splits hold the classes in the same shares?"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import chi2, ncx2, random_table

from transferkit._typing import Float64Array, Int64Array
from transferkit.audit.two_sample import (
    Groups,
    TwoSampleResult,
    no_difference,
    permutation_p_value,
    pooled_groups,
)
from transferkit.metrics.intervals import bootstrap_means, percentile_interval, wilson_interval

ENOUGH = 10.0
"""Expected count in every cell from which on the chi-square distribution is trusted."""
BLOCK = 4_000_000
"""Memberships held in memory at a time."""


def class_shares(
    labels: Int64Array,
    count: int,
    *,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Float64Array, Float64Array]:
    """Shares ``(K,)`` of K = ``count`` classes among labels ``(n,)``, and intervals ``(K, 2)``.

    Intervals are Wilson's, with groups bootstrap intervals by group.
    """
    found = np.bincount(labels, minlength=count)
    if groups is None:
        ends = [wilson_interval(k, len(labels), confidence=confidence) for k in found.tolist()]
    else:
        ends = [
            percentile_interval(
                bootstrap_means(labels == k, samples=2000, seed=seed, groups=groups),
                confidence=confidence,
            )
            for k in range(count)
        ]
    return found / len(labels), np.array(ends, dtype=np.float64)


def chi_square_test(
    a: Int64Array,
    b: Int64Array,
    *,
    groups: Groups = None,
    permutations: int = 1999,
    confidence: float = 0.95,
    seed: int = 0,
) -> TwoSampleResult:
    """Pearson's chi-square test that whole numbers ``(n_a,)`` and ``(n_b,)`` have equal shares.

    The p-value is that of the chi-square distribution where every expected count is at least 10;
    else, and with groups, it is a permutation p-value. ``effect`` is the total variation distance
    of the shares, ``sum |p - q| / 2``: the share of rows that would have to change category. Its
    interval leaves out 0 where the test rejects.
    """
    n_a, n_b = len(a), len(b)
    codes = np.unique(np.concatenate([a, b]), return_inverse=True)[1].astype(np.int64)
    kinds = int(codes.max()) + 1
    if kinds == 1:
        return no_difference("chi_square")
    counts = [np.bincount(part, minlength=kinds) for part in (codes[:n_a], codes[n_a:])]
    table = np.stack(counts).astype(np.float64)
    observed = float(_chi_square(table[None])[0])
    if groups is None and _expected(table[None]).min() >= ENOUGH:
        null, p_value = None, float(chi2.sf(observed, kinds - 1))
    else:
        null = _chi_square(
            _permuted_tables(codes, table, pooled_groups(groups), permutations, seed)
        )
        p_value = permutation_p_value(np.concatenate([[observed], null]))
    # Rows of one group are alike, which inflates chi-square. It is divided by its mean under
    # permutation over that of independent rows, K - 1: J. Rao and A. Scott, "The analysis of
    # categorical data from complex sample surveys", JASA 76 (1981).
    inflation = 1.0 if null is None else max(1.0, float(null.mean()) / (kinds - 1))
    effect = float(np.abs(table[0] / n_a - table[1] / n_b).sum() / 2)
    return TwoSampleResult(
        test="chi_square",
        statistic=observed,
        p_value=p_value,
        effect=effect,
        interval=_interval(effect, observed / inflation, kinds - 1, confidence),
    )


def _expected(tables: Float64Array) -> Float64Array:
    """Expected counts of tables ``(R, 2, K)`` under equal shares."""
    rows, columns = tables.sum(axis=2, keepdims=True), tables.sum(axis=1, keepdims=True)
    expected: Float64Array = rows * columns / rows.sum(axis=1, keepdims=True)
    return expected


def _chi_square(tables: Float64Array) -> Float64Array:
    """Pearson's statistic of each table ``(R, 2, K)``, ``(R,)``."""
    expected = _expected(tables)
    return np.asarray(((tables - expected) ** 2 / expected).sum(axis=(1, 2)), dtype=np.float64)


def _permuted_tables(
    codes: Int64Array, table: Float64Array, groups: Int64Array | None, permutations: int, seed: int
) -> Float64Array:
    """Draw tables ``(B, 2, K)`` under the null: by row with both margins fixed, or by group."""
    rng = np.random.default_rng(seed)
    if groups is None:
        margins = random_table(*(table.sum(axis=axis).astype(np.int64) for axis in (1, 0)))
        return np.asarray(margins.rvs(size=permutations, random_state=rng), dtype=np.float64)
    # The unit is what one sample holds of a group. Of a group in both samples, both units move:
    # a group is often of one class, so were it kept in place, its share of the difference would
    # stay in every permutation, and the null would not be at equal shares. Its two units are
    # alike, which brings the true difference nearer to 0 than the permuted ones: conservative.
    first = np.arange(len(codes)) < table[0].sum()
    unit = np.unique(2 * groups + ~first, return_inverse=True)[1]
    counts = np.zeros((unit.max() + 1, table.shape[1]))
    np.add.at(counts, (unit, codes), 1)
    member = np.zeros(len(counts), dtype=np.bool_)
    member[unit] = first
    drawn = np.empty((permutations, table.shape[1]))
    step = max(1, BLOCK // len(member))
    for start in range(0, permutations, step):
        block = drawn[start : start + step]
        members = np.repeat(member[None], len(block), axis=0)
        block[:] = rng.permuted(members, axis=1).astype(np.float64) @ counts
    return np.stack([drawn, table.sum(axis=0) - drawn], axis=1)


def _interval(
    effect: float, statistic: float, freedom: int, confidence: float
) -> tuple[float, float]:
    """Interval of the total variation distance, scaled from that of chi-square.

    Source: M. Smithson, "Confidence intervals" (2003), on Cramer's V.
    """
    # Chi-square has noncentrality l about n V^2, so its root is proportional to the effect: the
    # ends are effect * sqrt(l / statistic) at the l where the statistic is a tail's quantile.
    if statistic <= 0:
        return 0.0, effect
    tail = (1 - confidence) / 2
    ends = [_noncentrality(statistic, freedom, level) for level in (1 - tail, tail)]
    low, high = (effect * sqrt(end / statistic) for end in ends)
    return min(low, effect), min(1.0, max(high, effect))


def _noncentrality(statistic: float, freedom: int, level: float) -> float:
    """Noncentrality at which P(chi-square <= statistic) is ``level``; 0 if none is."""

    def above(noncentrality: float) -> float:
        return float(ncx2.cdf(statistic, freedom, noncentrality)) - level

    if chi2.cdf(statistic, freedom) <= level:
        return 0.0
    top = statistic + 10 * sqrt(statistic) + 50
    return float(brentq(above, 1e-9, top))
