"""Intervals of shares and means, tests of two models on the same images, and many tests at once.

Images of one group (a patient, a video) are not independent: whole groups are counted and drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import hypot, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest
from scipy.stats import t as student_t

from transferkit._format import PlainResult, percent
from transferkit._sampling import group_codes
from transferkit._typing import BoolArray, Float64Array, Int64Array

BLOCK = 2_000_000
"""Draws held in memory at a time."""


def normal_quantile(confidence: float) -> float:
    """Half-width in standard errors of a two-sided normal interval: 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson_interval(successes: float, n: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share ``k/n``: the p with ``|p - k/n| <= z sqrt(p (1 - p) / n)``.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927).
    """
    # scipy's binomtest has it too, but for whole numbers only, and a thousand times slower.
    if n == 0:
        return 0.0, 1.0
    z = normal_quantile(confidence)
    share, shrink = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / shrink
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def difference_interval(
    a: float, a_ends: tuple[float, float], b: float, b_ends: tuple[float, float]
) -> tuple[float, float]:
    """Interval of a - b from those of independent a and b: R. Newcombe (1998), method 10."""
    low = a - b - hypot(a - a_ends[0], b_ends[1] - b)
    return low, a - b + hypot(a_ends[1] - a, b - b_ends[0])


def mean_variance(values: Float64Array, groups: Int64Array | None) -> float:
    """Variance of the mean of a number per image (N,), from the differences between groups."""
    residuals = values - values.mean()
    sums = residuals if groups is None else np.bincount(groups, weights=residuals)
    count = len(values) if groups is None else len(np.unique(groups))
    return float(np.sum(sums**2)) / len(values) ** 2 * count / max(count - 1, 1)


def effective_size(right: Float64Array, groups: Int64Array | None) -> float:
    """Number of independent images whose share of right ones (0 or 1, N) would be as certain."""
    # N over the design effect: the variance of the share by group against that of independent
    # images (L. Kish, "Survey sampling", 1965), at least 1, at most that of groups of equal images,
    # which is assumed where all are right or all wrong. Few groups leave the variance uncertain:
    # the size shrinks by the ratio of normal to t quantiles, squared (E. Korn and B. Graubard,
    # Survey Methodology 24, 1998).
    n = len(right)
    if groups is None:
        return float(n)
    sizes = np.bincount(groups)
    count, most = int(np.sum(sizes > 0)), float(np.sum(sizes**2)) / n
    if count < 2:
        return 1.0
    share = float(right.mean())
    independent = share * (1 - share) / n
    design = most
    if independent > 0:
        design = min(max(mean_variance(right, groups) / independent, 1.0), most)
    return n / design * (normal_quantile(0.95) / float(student_t.ppf(0.975, count - 1))) ** 2


def bootstrap_means(
    values: Float64Array, *, samples: int, seed: int, groups: ArrayLike | None = None
) -> Float64Array:
    """Bootstrap means ``(samples,)`` of ``values`` (N,), groups drawn whole."""
    # Groups of equal size and sum are interchangeable: one multinomial draw over the different
    # ones replaces the drawing of images, so that right-or-wrong values cost the same at any N.
    group = group_codes(groups, len(values))
    sizes = np.bincount(group).astype(np.float64)
    units = np.column_stack([np.bincount(group, weights=values), sizes])
    kinds, counts = np.unique(units, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    totals = np.zeros((samples, 2))
    step = max(1, BLOCK // len(kinds))
    for start in range(0, samples, step):
        size = min(step, samples - start)
        drawn = rng.multinomial(len(units), counts / len(units), size=size)
        totals[start : start + size] = drawn @ kinds
    means: Float64Array = totals[:, 0] / totals[:, 1]
    return means


def resamples(
    n: int, *, samples: int, seed: int, groups: ArrayLike | None = None
) -> Iterator[Int64Array]:
    """Yield the indices of each bootstrap draw from N images; N of them where groups are equal."""
    group = group_codes(groups, n)
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        drawn = rng.choice(len(sizes), len(sizes))
        lengths = sizes[drawn]
        before = np.cumsum(lengths) - lengths
        yield order[np.repeat(starts[drawn] - before, lengths) + np.arange(lengths.sum())]


def percentile_interval(values: Float64Array) -> tuple[float, float]:
    """Return the central 95 % of ``values``."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


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


def mcnemar(a: BoolArray, b: BoolArray) -> PairedTest:
    """Exact McNemar test of two accuracies, from which images (N,) either model gets right.

    Source: Q. McNemar, Psychometrika 12 (1947); the interval is that of D. Bonett and R. Price,
    "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data", JEBS 37 (2012).
    """
    z, n = normal_quantile(0.95), len(a)
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
        confidence=0.95,
        p_value=p_value,
        n=n,
    )


def paired_bootstrap(
    a: Float64Array,
    b: Float64Array,
    *,
    samples: int = 10_000,
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
        interval=percentile_interval(means),
        confidence=0.95,
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
