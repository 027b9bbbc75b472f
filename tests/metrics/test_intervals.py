"""Intervals against scipy, by hand, and by their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, kstest

from transferkit.metrics.intervals import (
    bootstrap_means,
    difference_interval,
    effective_size,
    percentile_interval,
    resamples,
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
    assert effective_size(alike, np.zeros(300, int)) == 1
    assert effective_size(right[:2], np.arange(2)) < 1


def test_means_have_the_standard_error_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=400)
    means = bootstrap_means(values, samples=4000, seed=1)
    assert means.mean() == pytest.approx(values.mean(), abs=0.005)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.05)


def test_groups_widen_the_interval_as_theory_says() -> None:
    """100 groups of 9 equal images: the effective size is 100, not 900."""
    values = np.repeat(np.random.default_rng(0).normal(size=100), 9)
    groups = np.repeat([f"patient{i}" for i in range(100)], 9)
    means = bootstrap_means(values, samples=4000, seed=1, groups=groups)
    assert means.std() == pytest.approx(values.std() / 10, rel=0.05)


@pytest.mark.parametrize("by_group", [False, True])
def test_the_fast_mean_and_the_general_draw_agree(by_group: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, 60).astype(float) + rng.integers(0, 2, 60)
    groups = rng.integers(0, 25, 60) if by_group else None
    fast = bootstrap_means(values, samples=4000, seed=1, groups=groups)
    draws = resamples(60, samples=4000, seed=2, groups=groups)
    slow = np.array([values[drawn].mean() for drawn in draws])
    assert kstest(fast, slow).pvalue > 0.001
    assert fast.std() == pytest.approx(slow.std(), rel=0.06)


def test_draws_keep_groups_whole() -> None:
    groups = np.array([0, 1, 1, 2, 2, 2, 0])
    for drawn in resamples(7, samples=50, seed=0, groups=groups):
        times = np.bincount(drawn, minlength=7)
        for group in range(3):
            assert len(set(times[groups == group].tolist())) == 1


def interval(values, *, samples: int = 2000, seed: int = 0) -> tuple[float, float]:
    return percentile_interval(bootstrap_means(values, samples=samples, seed=seed))


def test_one_seed_one_answer() -> None:
    values = np.arange(30.0)
    assert interval(values, seed=3) == interval(values, seed=3) != interval(values, seed=4)


def test_the_global_random_state_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the legacy state is what is checked
    interval(np.arange(5.0))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002 - likewise


def test_intervals_cover_the_mean() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(400):
        low, high = interval(rng.random(300) < 0.8, samples=500, seed=trial)
        held += low <= 0.8 <= high
    assert held / 400 >= 0.92
