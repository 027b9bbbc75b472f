"""Two models on the same images: is one better?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from transferkit._format import percent, plain
from transferkit._typing import JSON
from transferkit._validation import check_flags, check_same_length, check_scores
from transferkit.metrics.bootstrap import bootstrap_means, percentile_interval
from transferkit.metrics.intervals import normal_quantile


@dataclass(frozen=True, slots=True)
class PairedTest:
    """The verdict on two models judged on the same images.

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

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        return {key: plain(value) for key, value in asdict(self).items()}

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.method}: difference {self.difference:+.4g} "
            f"[{low:+.4g}, {high:+.4g}] ({percent(self.confidence, digits=0)}), "
            f"p = {self.p_value:.3g}, n = {self.n}"
        )


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike, *, confidence: float = 0.95) -> PairedTest:
    """Exact McNemar test of two accuracies on the same images.

    Under the null, each of the ``a + b`` images that only one model gets right falls to either
    with chance one half: a binomial test. Source: Q. McNemar, Psychometrika 12 (1947); the
    interval is that of D. Bonett and R. Price, "Adjusted Wald confidence interval for a
    difference of binomial proportions based on paired data", JEBS 37 (2012).

    Args:
        correct_a: ``(N,)`` whether the first model is right.
        correct_b: ``(N,)`` whether the second is, image by image.
        confidence: Coverage of the interval.

    Raises:
        DataError: Lengths differ, or values besides True and False.
        ConfigError: ``confidence`` outside (0, 1).

    Example:
        Two models on the same 100 images: eight only the first has right, one only the second.

        >>> from transferkit.metrics.paired import mcnemar
        >>> first = [True] * 90 + [True] * 8 + [False] * 2
        >>> second = [True] * 90 + [False] * 8 + [True] + [False]
        >>> print(mcnemar(first, second))
        McNemar, exact: difference +0.07 [+0.006305, +0.131] (95 %), p = 0.0391, n = 100
    """
    a, b = check_flags(correct_a, "correct_a"), check_flags(correct_b, "correct_b")
    check_same_length(correct_a=a, correct_b=b)
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
    values_a: ArrayLike,
    values_b: ArrayLike,
    *,
    samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    strata: ArrayLike | None = None,
    groups: ArrayLike | None = None,
) -> PairedTest:
    """Bootstrap test of two means over the same images.

    With d the mean difference and ``d*`` its bootstrap draws, the interval is the central part
    of ``d*``, and ``p = (1 + #(|d* - d| >= |d|)) / (1 + samples)``: the draws are centred, so
    that they follow the null. Source: B. Efron and R. Tibshirani (1993), chapters 13 and 16.

    Args:
        values_a: ``(N,)`` a number per image from the first model: right or wrong, or a loss.
        values_b: ``(N,)`` the same from the second, image by image.
        samples: Bootstrap draws.
        confidence: Coverage of the interval.
        seed: Seed of the draws.
        strata: ``(N,)`` class of each image: each class keeps its size.
        groups: ``(N,)`` group of each image (a patient): whole groups are drawn.

    Raises:
        DataError: Lengths differ, values are not finite, or strata and groups do not fit.
        ConfigError: Too few samples, or ``confidence`` outside (0, 1).
    """
    a, b = check_scores(values_a), check_scores(values_b)
    check_same_length(values_a=a, values_b=b)
    means = bootstrap_means(a - b, samples=samples, seed=seed, strata=strata, groups=groups)
    difference = float(np.mean(a - b))
    slack = 1e-12 * max(1.0, float(np.abs(a - b).max()))
    extreme = int(np.sum(np.abs(means - difference) >= abs(difference) - slack))
    return PairedTest(
        method="paired bootstrap" if groups is None else "paired bootstrap by group",
        difference=difference,
        interval=percentile_interval(means, confidence=confidence),
        confidence=confidence,
        p_value=(1 + extreme) / (1 + samples),
        n=len(a),
    )
