"""Intervals against scipy, by hand, and by their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from transferkit._sampling import stream
from transferkit.metrics.intervals import (
    difference_interval,
    effective_size,
    mean_variance,
    resamples,
    share_interval,
    wilson_interval,
)


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
    """Newcombe 1998, table II, method 10: 56/70 against 48/80."""
    a, b = wilson_interval(56, 70), wilson_interval(48, 80)
    assert difference_interval(0.8, a, 0.6, b) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_effective_size_of_independent_and_of_equal_images() -> None:
    rng = np.random.default_rng(0)
    right = (rng.random(600) < 0.8).astype(float)
    assert effective_size(right, None) == 600
    assert effective_size(right, np.arange(600)) == pytest.approx(600, rel=0.01)
    copies = np.repeat(np.arange(600), 5)
    assert effective_size(right[copies], copies) == pytest.approx(600, rel=0.02)
    alike = np.ones(300)
    assert effective_size(alike, np.repeat(np.arange(60), 5)) == pytest.approx(60, rel=0.1)
    assert effective_size(right, np.repeat(np.arange(120), 5)) == pytest.approx(600, rel=0.25)
    assert effective_size(alike, np.zeros(300, int)) < 1
    assert effective_size(right[:2], np.arange(2)) < 1


def test_groups_widen_the_interval_as_theory_says() -> None:
    """100 groups of 9 equal images: as certain as 100 images, not 900."""
    right = (np.random.default_rng(0).random(100) < 0.8).astype(float)
    once = np.array(share_interval(right))
    often = np.array(share_interval(np.repeat(right, 9), np.repeat(np.arange(100), 9)))
    assert np.ptp(often) == pytest.approx(np.ptp(once), rel=0.04)
    values = np.random.default_rng(0).normal(size=100)
    variance = mean_variance(np.repeat(values, 9), np.repeat(np.arange(100), 9))
    assert variance == pytest.approx(values.var(ddof=1) / 100, rel=0.04)
    assert mean_variance(values, None) == pytest.approx(values.var(ddof=1) / 100)


@pytest.mark.parametrize("shape", ["copies", "alike", "alone"])
@pytest.mark.parametrize("groups", [8, 20, 100])
@pytest.mark.parametrize("share", [0.6, 0.95])
def test_intervals_by_group_cover(shape: str, groups: int, share: float) -> None:
    rng, held, codes = np.random.default_rng(0), 0, np.repeat(np.arange(groups), 10)
    likely = {"copies": 1e-3, "alike": 2.0, "alone": 1e6}[shape]  # spread between groups
    for _ in range(300):
        own = rng.beta(share * likely, (1 - share) * likely, groups)
        right = (rng.random(10 * groups) < own[codes]).astype(float)
        low, high = share_interval(right, codes)
        held += low <= share <= high
    assert held / 300 >= 0.93 - 3 * np.sqrt(0.05 * 0.95 / 300)


def test_draws_keep_groups_whole() -> None:
    groups = np.array([0, 1, 1, 2, 2, 2, 0])
    for drawn in resamples(7, samples=50, rng=np.random.default_rng(0), groups=groups):
        times = np.bincount(drawn, minlength=7)
        for group in range(3):
            assert len(set(times[groups == group].tolist())) == 1


def test_the_global_random_state_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the legacy state is what is checked
    list(resamples(5, samples=3, rng=stream("test", 0)))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002 - likewise
