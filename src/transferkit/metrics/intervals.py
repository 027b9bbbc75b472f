"""Intervals of shares and means, two models on the same images, and many tests at once.

Images of one group (a patient, a video) are not independent: whole groups are counted and drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, hypot, inf, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import beta, binomtest
from scipy.stats import t as student_t

from transferkit._format import PlainResult, percent
from transferkit._sampling import group_codes, stream
from transferkit._typing import BoolArray, Float64Array, Int64Array

PRIOR = 0.25
"""Groups of which it is assumed, before any is seen, that their images are all alike."""

FLIPS = 9999
"""Draws of the signs in a paired test."""

SETTLED = 0.05
"""Probability of a false claim at which it counts as settled."""


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


def share_interval(values: Float64Array, groups: Int64Array | None = None) -> tuple[float, float]:
    """95 % interval of the mean of values in [0, 1] (N,), such as hits: Wilson's at their size."""
    size = effective_size(values, groups)
    return wilson_interval(float(values.mean()) * size if len(values) else 0.0, size)


# Whole groups count (their codes, (N,)). The variance of a score is the sum over groups of the
# squared sum of what each image adds to its error, u, each over one less the group's leverage h:
# V = sum_g (sum_i u_i)^2 / (1 - h_g), "CR2" of R. Bell and D. McCaffrey, Survey Methodology 28
# (2002). The size is that of independent images of the same variance, s (1 - s) / V, of which t
# quantiles for the number of groups take their part: E. Korn and B. Graubard, Survey Methodology 24
# (1998). Unequal groups of n_g images count as (sum n_g)^2 / sum n_g^2, and near 0 and 1, where
# few groups speak, a quarter of a group is assumed whose images are all alike. The coverage beside
# that of the bootstrap is in docs/intervals.md.
def effective_size(values: Float64Array, groups: Int64Array | None) -> float:
    """Number of independent images whose mean of values in [0, 1] (N,) would be as certain."""
    n = len(values)
    if groups is None or n == 0:
        return float(n)
    share = float(values.mean())
    variance = clustered_variance((values - share) / n, np.full(n, 1 / n), groups)
    return score_size(variance, share * (1 - share), share, effective_groups(groups), most=n)


def effective_groups(groups: Int64Array) -> float:
    """Number of equal groups that are worth these (codes, (N,)): L. Kish, "Survey sampling"."""
    sizes = np.bincount(groups)
    return float(sizes.sum() ** 2 / np.sum(sizes**2))


def clustered_variance(
    influences: Float64Array, leverages: Float64Array, groups: Int64Array | None
) -> float:
    """Variance of a score from what each image adds to its error, and from its weight (N,)."""
    if groups is not None:
        influences, leverages = (
            np.asarray(np.bincount(groups, each), np.float64) for each in (influences, leverages)
        )
    return float(np.sum(influences**2 / np.maximum(1 - leverages, 0.1)))


def score_size(
    variance: float, spread: float, share: float, units: float, *, most: float = inf
) -> float:
    """Number of independent images, each of variance ``spread``, worth ``units`` groups."""
    inverse = min(max(variance / spread, 1 / most), 1 / units) if spread > 0 else 1 / units
    weight = units * sqrt(max(min(share, 1 - share), 0.0))
    inverse = (weight * inverse + PRIOR / units) / (weight + PRIOR)
    return (normal_quantile(0.95) / _t_quantile(units)) ** 2 / inverse


def mean_variance(values: Float64Array, groups: Int64Array | None) -> float:
    """Variance of the mean of a number per image (N,), for normal quantiles."""
    n = len(values)
    variance = clustered_variance((values - values.mean()) / n, np.full(n, 1 / n), groups)
    few = 1.0
    if groups is not None:
        few = _t_quantile(effective_groups(groups)) / normal_quantile(0.95)
    return variance * few**2


def _t_quantile(units: float) -> float:
    return float(student_t.ppf(0.975, max(units - 1, 1)))


def resamples(
    n: int, *, samples: int, rng: np.random.Generator, groups: ArrayLike | None = None
) -> Iterator[Int64Array]:
    """Yield the indices of each bootstrap draw from N images; N of them where groups are equal."""
    group = group_codes(groups, n)
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
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

    Source: Q. McNemar, Psychometrika 12 (1947).
    """
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    difference = a.astype(np.float64) - b
    return PairedTest(
        method="McNemar, exact",
        difference=float(difference.mean()),
        interval=paired_interval(difference),
        confidence=0.95,
        p_value=float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0,
        n=len(a),
    )


def sign_flip_test(
    a: Float64Array, b: Float64Array, *, groups: Int64Array | None = None, seed: int = 0
) -> PairedTest:
    """Permutation test of two mean scores in [0, 1] over the same images (N,), by whole groups.

    If neither model is better, the difference of a group (its codes, (N,)) is as likely to have the
    other sign: ``p = (1 + #(|d*| >= |d|)) / (1 + B)`` over B draws of all signs.
    """
    sums = a - b if groups is None else np.bincount(groups, a - b)
    # Groups of one difference are interchangeable: a binomial draw says how many keep their sign.
    kinds, counts = np.unique(np.round(np.abs(sums[sums != 0]), 9), return_counts=True)
    drawn = 2 * stream("signs", seed).binomial(counts, 0.5, (FLIPS, len(counts))) - counts
    extreme = np.abs(drawn @ kinds) >= abs(float(sums.sum())) - 1e-6
    return PairedTest(
        method="paired permutation" if groups is None else "paired permutation by group",
        difference=float(np.mean(a - b)),
        interval=paired_interval(a - b, groups),
        confidence=0.95,
        p_value=(1 + int(extreme.sum())) / (1 + FLIPS),
        n=len(a),
    )


def paired_interval(
    differences: Float64Array, groups: Int64Array | None = None
) -> tuple[float, float]:
    """95 % interval of the mean of differences in [-1, 1] (N,): Bonett and Price's at their size.

    D. Bonett and R. Price, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data", JEBS 37 (2012): one image more for either side.
    """
    n, mean, square = len(differences), float(differences.mean()), float(np.mean(differences**2))
    size = float(n)
    if groups is not None:
        variance = clustered_variance((differences - mean) / n, np.full(n, 1 / n), groups)
        units = effective_groups(groups)
        size = score_size(variance, square - mean**2, square, units, most=n)
    centre = size * mean / (size + 2)
    spread = (size * square + 2) / (size + 2) - centre**2
    half = normal_quantile(0.95) * sqrt(spread / (size + 2))
    return max(-1.0, centre - half), min(1.0, centre + half)


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


@dataclass(frozen=True, slots=True)
class Claim(PlainResult):
    """That one model is more accurate than another on images like these.

    Attributes:
        better: Name of the first model.
        than: Name of the second.
        difference: Accuracy of the first minus that of the second.
        false_probability: Probability that the first is not better.
        images: How many such images would bring that probability to 5 %, if the two went on to
            differ as here; None where the first is not ahead.
        n: Images that both were tested on.
    """

    better: str
    than: str
    difference: float
    false_probability: float
    images: int | None
    n: int

    def __str__(self) -> str:
        said = (
            f'"{self.better} is better than {self.than}" ({100 * self.difference:+.1f} points on '
            f"{self.n:,} images): false with probability {percent(self.false_probability)}. "
        )
        if self.images is None:
            return f"{said}More images would settle it only if the first were ahead on them."
        done = "would have sufficed" if self.false_probability <= SETTLED else "would be needed"
        return f"{said}For {percent(SETTLED, digits=0)}, {self.images:,} such images {done}."


def judge_claim(
    first: Float64Array, second: Float64Array, groups: Int64Array | None, *, names: tuple[str, str]
) -> Claim:
    """Judge a claim from the hits (or mean hits over seeds) of two models on each image (N,).

    After E. Christodoulou et al., "False promises in medical imaging AI? Assessing validity of
    outperformance claims", arXiv:2505.04720, here from the images themselves: those on which
    exactly one model is right decide, and the share of them that the first gets right has a uniform
    prior, so that its posterior is Beta(wins + 1, losses + 1).
    """
    # Means over seeds vary less than hits, and images of a group more than independent ones: the
    # wins and losses are weighted so that their difference has the variance of sums over groups,
    # and at least that of independent images. Without both the weight is 1.
    gain = first - second
    sums = gain if groups is None else np.bincount(groups, weights=gain)
    spread = max(float(np.sum(sums**2)), float(np.sum(gain**2)))
    weight = float(np.abs(gain).sum()) / spread if spread else 0.0
    wins, losses = weight * gain.clip(min=0).sum(), -weight * gain.clip(max=0).sum()

    def false_probability(log_ratio: float) -> float:
        """At so many times the images."""
        ratio = np.exp(log_ratio)
        return float(beta.cdf(0.5, ratio * wins + 1, ratio * losses + 1))

    images = None
    if false_probability(20.0) < SETTLED:
        ratio = brentq(lambda log: false_probability(log) - SETTLED, -20, 20)
        images = ceil(len(gain) * np.exp(ratio))
    return Claim(*names, float(gain.mean()), false_probability(0.0), images, len(gain))
