"""Categories: do two samples of classes, sizes or formats have the same shares?"""

from __future__ import annotations

from math import sqrt
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import chi2, ncx2, random_table

from transferkit._typing import Float64Array, Int64Array
from transferkit.audit.permutation import permutation_p_value, permuted_members
from transferkit.audit.samples import Groups, check_rows, group_codes
from transferkit.audit.two_sample import TwoSampleResult, nothing_differs
from transferkit.errors import ConfigError, DataError
from transferkit.metrics._checks import check_share

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
    grouped = group_codes(groups, n_a, n_b)
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
