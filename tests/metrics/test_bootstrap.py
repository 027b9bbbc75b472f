"""The bootstrap against closed formulas, by group, and by its coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from transferkit.metrics.bootstrap import bootstrap_means, percentile_interval, resamples


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
