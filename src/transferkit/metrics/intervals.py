"""Intervals of shares: closed formulas, right for small and for perfect samples."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

from transferkit._validation import check_share, is_number
from transferkit.errors import DataError


def normal_quantile(confidence: float) -> float:
    """Half-width in standard errors of a two-sided normal interval: 1.96 for 0.95."""
    check_share("confidence", confidence)
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson_interval(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a share, such as an accuracy.

    The shares p that a two-sided score test does not reject:
    ``|p - k/n| <= z sqrt(p (1 - p) / n)``. Source: E. B. Wilson, "Probable inference, the law of
    succession, and statistical inference", JASA 22 (1927).

    Args:
        successes: k, images that are right.
        n: Images in all. With none, every share is possible: the interval is (0, 1).
        confidence: Coverage aimed at.

    Returns:
        Low and high end, within [0, 1].

    Raises:
        DataError: Not ``0 <= successes <= n``.
        ConfigError: ``confidence`` outside (0, 1).

    Example:
        >>> from transferkit.metrics.intervals import wilson_interval
        >>> low, high = wilson_interval(45, 50)
        >>> f"{45 / 50:.0%} of 50 images: between {low:.1%} and {high:.1%}"
        '90% of 50 images: between 78.6% and 95.7%'
    """
    z = normal_quantile(confidence)
    if not (is_number(successes) and is_number(n)) or not 0 <= successes <= n:
        raise DataError(f"Successes must lie in 0..n; {successes} of {n} came.")
    if n == 0:
        return 0.0, 1.0
    share, shrink = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / shrink
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def share_difference_interval(
    successes_a: int, n_a: int, successes_b: int, n_b: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the difference of two shares on different images, such as val and test.

    With shares a, b and their Wilson ends: ``low = a - b - sqrt((a - a_low)^2 + (b_high - b)^2)``,
    and the mirror image for the high end. Source: R. G. Newcombe, "Interval estimation for the
    difference between independent proportions", Statistics in Medicine 17 (1998), method 10.

    Args:
        successes_a: Successes of the first sample.
        n_a: Size of the first sample.
        successes_b: Successes of the second sample.
        n_b: Size of the second sample.
        confidence: Coverage aimed at.

    Returns:
        Low and high end of share a minus share b.

    Raises:
        DataError: An empty sample, or more successes than images.
        ConfigError: ``confidence`` outside (0, 1).
    """
    if n_a < 1 or n_b < 1:
        raise DataError(f"A difference of shares needs two filled samples; {n_a} and {n_b} came.")
    low_a, high_a = wilson_interval(successes_a, n_a, confidence=confidence)
    low_b, high_b = wilson_interval(successes_b, n_b, confidence=confidence)
    a, b = successes_a / n_a, successes_b / n_b
    down = sqrt((a - low_a) ** 2 + (high_b - b) ** 2)
    up = sqrt((high_a - a) ** 2 + (b - low_b) ** 2)
    return max(-1.0, a - b - down), min(1.0, a - b + up)
