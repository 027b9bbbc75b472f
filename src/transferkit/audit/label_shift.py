"""Label shift: do two splits hold the classes in the same shares?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from transferkit._text import percent_interval, table
from transferkit._typing import JSON, Float64Array, Int64Array
from transferkit.audit.categorical import category_test
from transferkit.audit.samples import Groups
from transferkit.audit.two_sample import TwoSampleResult
from transferkit.metrics._checks import check_classes, check_labels
from transferkit.metrics._json import plain
from transferkit.metrics.bootstrap import bootstrap_mean_interval
from transferkit.metrics.intervals import wilson_interval


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
    is chi-square (see :func:`~transferkit.audit.categorical.category_test`). For a sample without
    labels see :mod:`transferkit.audit.priors`.

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
