"""How likely "A is better than B" is false, after a test on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from scipy.optimize import brentq
from scipy.stats import beta

from transferkit._format import PlainResult, percent
from transferkit._typing import Float64Array, Int64Array

SETTLED = 0.05
"""Probability of a false claim at which it counts as settled."""


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
