"""Permutation tests: the p-value and the permutations, by row or by group.

Where rows come in groups (images of one patient) rows are not exchangeable, but groups are. A
group that lies in one sample moves as a whole; the rows of a group that lies in both samples
change places within it. Both keep the joint distribution under the null, so the p-value is exact
for any statistic.
"""

from __future__ import annotations

import numpy as np

from transferkit._typing import BoolArray, Float64Array, Int64Array
from transferkit.errors import ConfigError

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
        >>> from transferkit.audit.permutation import permutation_p_value
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
