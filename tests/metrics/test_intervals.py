"""Intervals against scipy, by hand, and by their coverage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from transferkit.metrics.intervals import wilson_interval


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
