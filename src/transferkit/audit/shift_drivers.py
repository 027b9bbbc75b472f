"""What drives a shift: the rows that are most typical of each side, verified by removal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from transferkit._format import plain
from transferkit._typing import JSON, BoolArray, Float64Array, Int64Array
from transferkit._validation import check_share
from transferkit.audit.domain_classifier import (
    Design,
    DomainClassifierResult,
    Form,
    classifier_inputs,
    cross_fitted,
    domain_classifier_test,
    draw_folds,
)
from transferkit.audit.two_sample import Groups, Pair, TwoSampleResult, check_pair
from transferkit.errors import DataError

FEWEST = 10
"""Rows that must remain of each sample for the removal to be judged."""


@dataclass(frozen=True, slots=True, eq=False)
class Drivers:
    """The rows behind a shift, and what is left of it without their like.

    Attributes:
        rows_a: Rows of the first sample, those most typical of it first.
        rows_b: Rows of the second sample, those most typical of it first.
        share: Share of all rows removed at each end of the score.
        effect: ``2 AUC - 1`` of the domain classifier before the removal.
        effect_without: The same after it; None where too few rows remain.
        interval_without: Its interval, or None.
        p_value_without: The p-value on the rows that remain, or None.
    """

    rows_a: Int64Array
    rows_b: Int64Array
    share: float
    effect: float
    effect_without: float | None = None
    interval_without: tuple[float, float] | None = None
    p_value_without: float | None = None

    @property
    def explained(self) -> float | None:
        """Share of the effect that goes with the removed rows, 0 to 1; None if unknown."""
        if self.effect_without is None or self.effect <= 0:
            return None
        return min(1.0, max(0.0, 1 - self.effect_without / self.effect))

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        own = {name: plain(getattr(self, name)) for name in self.__slots__}
        return {**own, "explained": plain(self.explained)}

    def __str__(self) -> str:
        if self.effect_without is None:
            return f"effect {self.effect:.3f}; too few rows remain to judge their removal"
        return (
            f"effect {self.effect:.3f}; {self.effect_without:.3f} without the {self.share:.0%} of "
            f"rows most typical of either side (p = {self.p_value_without:.3g})"
        )


def find_drivers(
    a: ArrayLike,
    b: ArrayLike,
    result: DomainClassifierResult,
    *,
    count: int = 24,
    share: float = 0.1,
    form: Form = "auto",
    groups: Groups = None,
    permutations: int = 199,
    confidence: float = 0.95,
    seed: int = 0,
) -> Drivers:
    """Find the rows most typical of each side, and test what remains without their like.

    Each half of the rows (whole groups) is judged by a classifier trained on the other half: all
    its rows go whose score is among the ``share`` most typical of either side, to whichever
    sample they belong, and the rest is tested. Were a row's own label used, by dropping the
    typical rows of each sample or by scores that its label helped to fit, the effect would change
    by that choice alone. Figures are means over the halves; the p-value is Bonferroni's.

    Args:
        a: ``(n_a, D)`` features of the first sample.
        b: ``(n_b, D)`` features of the second.
        result: The domain classifier's result on them.
        count: Rows to name per side, at most.
        share: Share of all rows to remove at each end, below one half.
        form: Form of the classifier on the rows that remain.
        groups: Group of each row of ``a``, and of ``b``.
        permutations: Permutations of the test on the rows that remain.
        confidence: Coverage of its interval.
        seed: Seed of that test.

    Raises:
        DataError: Samples that do not fit the result or are not finite.
        ConfigError: An option out of its range.
    """
    check_share("2 x share", 2 * share)
    pair = check_pair(a, b, groups=groups)
    if (pair.n_a, pair.n_b) != (len(result.typical_a), len(result.typical_b)):
        raise DataError(
            f"The result is of {len(result.typical_a)} and {len(result.typical_b)} rows, but "
            f"{pair.n_a} and {pair.n_b} came; pass the samples that were tested."
        )
    found = Drivers(
        rows_a=np.argsort(-result.typical_a, kind="stable")[:count],
        rows_b=np.argsort(-result.typical_b, kind="stable")[:count],
        share=share,
        effect=result.test.effect,
    )
    inputs = classifier_inputs(pair, form, seed)
    if inputs is None:
        return found
    half = draw_folds(len(inputs), 2, groups=pair.groups, seed=seed)
    scores = cross_fitted(Design.of(inputs), pair.member[None], half)[:, 0]
    before, after = [], []
    for one in (0, 1):
        rows = half == one
        kept = rows & _middle(scores, rows, share)
        if min((kept & pair.member).sum(), (kept & ~pair.member).sum()) < FEWEST:
            return found
        retest = partial(_retest, pair, form, permutations, confidence, seed)
        before.append(retest(rows))
        after.append(retest(kept))
    ends = np.mean([test.interval for test in after], axis=0)
    return replace(
        found,
        effect=float(np.mean([test.effect for test in before])),
        effect_without=float(np.mean([test.effect for test in after])),
        interval_without=(float(ends[0]), float(ends[1])),
        p_value_without=min(1.0, 2 * min(test.p_value for test in after)),
    )


def _middle(scores: Float64Array, rows: BoolArray, share: float) -> BoolArray:
    """Return which rows ``(N,)`` score between the two extreme shares of ``rows``."""
    low, high = np.quantile(scores[rows], [share, 1 - share])
    return np.asarray((scores >= low) & (scores <= high), dtype=np.bool_)


def _retest(
    pair: Pair, form: Form, permutations: int, confidence: float, seed: int, kept: BoolArray
) -> TwoSampleResult:
    first, second = kept & pair.member, kept & ~pair.member
    groups = None if pair.groups is None else (pair.groups[first], pair.groups[second])
    return domain_classifier_test(
        pair.pooled[first],
        pair.pooled[second],
        form=form,
        groups=groups,
        permutations=permutations,
        confidence=confidence,
        seed=seed,
    ).test
