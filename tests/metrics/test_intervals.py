"""Intervals against scipy, by hand, and by their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from transferkit.errors import ConfigError, DataError
from transferkit.metrics.intervals import share_difference_interval, wilson_interval


@given(st.integers(1, 10**6), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_wilson_equals_scipy(n: int, share: float, confidence: float) -> None:
    k = round(share * n)
    expected = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(k, n, confidence=confidence) == pytest.approx(expected, abs=1e-12)


def test_wilson_at_the_ends() -> None:
    assert wilson_interval(0, 0) == (0, 1)
    assert wilson_interval(0, 10)[0] == 0
    assert wilson_interval(10, 10)[1] == 1
    assert wilson_interval(10, 10)[0] < 1


@pytest.mark.parametrize("share", [0.5, 0.81, 0.95])
def test_wilson_covers(share: float) -> None:
    """Sum the chance of each count whose interval holds the truth: no sampling."""
    n = 200
    ends = [wilson_interval(k, n) for k in range(n + 1)]
    covered = sum(
        binom.pmf(k, n, share) for k, (low, high) in enumerate(ends) if low <= share <= high
    )
    assert 0.93 <= covered <= 0.97


def test_difference_equals_the_published_example() -> None:
    """Newcombe 1998, table II, method 10: 56/70 against 48/80, and 10/10 against 0/10."""
    assert share_difference_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert share_difference_interval(10, 10, 0, 10) == pytest.approx((0.6075, 1.0), abs=5e-5)


def test_difference_covers() -> None:
    rng = np.random.default_rng(0)
    draws = zip(rng.binomial(600, 0.95, 2000), rng.binomial(624, 0.81, 2000), strict=True)
    held = 0
    for a, b in draws:
        low, high = share_difference_interval(a, 600, b, 624)
        held += low <= 0.14 <= high
    assert 0.935 <= held / 2000 <= 0.965


def test_refusals() -> None:
    with pytest.raises(DataError, match="11 of 10"):
        wilson_interval(11, 10)
    with pytest.raises(ConfigError, match="confidence must be a number above 0 and below 1"):
        wilson_interval(5, 10, confidence=95)
    with pytest.raises(DataError, match="two filled samples"):
        share_difference_interval(0, 0, 1, 2)
