"""Significance: two models on the same images, and many tests at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from transferkit._format import PlainResult, percent
from transferkit._typing import BoolArray, Float64Array
from transferkit.metrics.intervals import bootstrap_means, normal_quantile, percentile_interval


@dataclass(frozen=True, slots=True)
class PairedTest(PlainResult):
    """A test of two models on the same images.

    Attributes:
        method: Name of the test.
        difference: Mean of the first minus mean of the second.
        interval: Interval of that difference.
        confidence: Coverage that the interval aims at.
        p_value: Two-sided, against no difference.
        n: Images.
    """

    method: str
    difference: float
    interval: tuple[float, float]
    confidence: float
    p_value: float
    n: int

    @property
    def significant(self) -> bool:
        """Whether the p-value is at most one minus the confidence."""
        return self.p_value <= 1 - self.confidence

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.method}: difference {self.difference:+.4g} "
            f"[{low:+.4g}, {high:+.4g}] ({percent(self.confidence, digits=0)}), "
            f"p = {self.p_value:.3g}, n = {self.n}"
        )


def mcnemar(a: BoolArray, b: BoolArray, *, confidence: float = 0.95) -> PairedTest:
    """Exact McNemar test of two accuracies, from which images (N,) either model gets right.

    Source: Q. McNemar, Psychometrika 12 (1947); the interval is that of D. Bonett and R. Price,
    "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data", JEBS 37 (2012).
    """
    z, n = normal_quantile(confidence), len(a)
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    discordant = only_a + only_b
    p_value = float(binomtest(only_a, discordant).pvalue) if discordant else 1.0
    share_a, share_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    centre = share_a - share_b
    half = z * sqrt((share_a + share_b - centre**2) / (n + 2))
    return PairedTest(
        method="McNemar, exact",
        difference=(only_a - only_b) / n,
        interval=(max(-1.0, centre - half), min(1.0, centre + half)),
        confidence=confidence,
        p_value=p_value,
        n=n,
    )


def paired_bootstrap(
    a: Float64Array,
    b: Float64Array,
    *,
    samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> PairedTest:
    """Bootstrap test of two means over the same images (N,), groups drawn whole.

    With ``d*`` draws of the mean difference d, ``p = (1 + #(|d* - d| >= |d|)) / (1 + samples)``:
    B. Efron and R. Tibshirani, "An introduction to the bootstrap" (1993), chapters 13 and 16.
    """
    means = bootstrap_means(a - b, samples=samples, seed=seed, groups=groups)
    difference = float(np.mean(a - b))
    slack = 1e-12 * max(1.0, float(np.abs(a - b).max()))  # equal up to rounding is as extreme
    extreme = int(np.sum(np.abs(means - difference) >= abs(difference) - slack))
    return PairedTest(
        method="paired bootstrap" if groups is None else "paired bootstrap by group",
        difference=difference,
        interval=percentile_interval(means, confidence=confidence),
        confidence=confidence,
        p_value=(1 + extreme) / (1 + samples),
        n=len(a),
    )


def holm(p_values: ArrayLike) -> Float64Array:
    """Adjust p-values ``(m,)`` so that any false alarm at all has a chance of at most alpha.

    In rising order, the i-th becomes ``max_{j <= i} (m - j + 1) p_j``, valid under any dependence:
    S. Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1.0)
