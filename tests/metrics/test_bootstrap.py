"""The bootstrap against closed formulas, by group, by class, and by its coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from transferkit.errors import ConfigError, DataError
from transferkit.metrics.bootstrap import (
    bootstrap_interval,
    bootstrap_mean_interval,
    bootstrap_means,
    resamples,
)


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


def test_strata_keep_the_share_of_each_class() -> None:
    values = np.repeat([0.0, 1.0], [30, 70])
    means = bootstrap_means(values, samples=200, seed=0, strata=values.astype(int))
    np.testing.assert_allclose(means, 0.7)
    assert bootstrap_means(values, samples=200, seed=0).std() > 0.03


@pytest.mark.parametrize("by", ["images", "groups", "strata"])
def test_the_fast_mean_and_the_general_draw_agree(by: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, 60).astype(float) + rng.integers(0, 2, 60)
    groups = rng.integers(0, 25, 60) if by == "groups" else None
    strata = (values > 0).astype(int) if by == "strata" else None
    fast = bootstrap_means(values, samples=4000, seed=1, groups=groups, strata=strata)
    draws = resamples(60, samples=4000, seed=2, groups=groups, strata=strata)
    slow = np.array([values[drawn].mean() for drawn in draws])
    assert kstest(fast, slow).pvalue > 0.001
    assert fast.std() == pytest.approx(slow.std(), rel=0.06)


def test_draws_keep_groups_whole() -> None:
    groups = np.array([0, 1, 1, 2, 2, 2, 0])
    for drawn in resamples(7, samples=50, seed=0, groups=groups):
        times = np.bincount(drawn, minlength=7)
        for group in range(3):
            assert len(set(times[groups == group].tolist())) == 1


def test_one_seed_one_answer() -> None:
    values = np.arange(30.0)
    once = bootstrap_mean_interval(values, seed=3)
    assert once == bootstrap_mean_interval(values, seed=3)
    assert once != bootstrap_mean_interval(values, seed=4)


def test_the_global_random_state_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the legacy state is what is checked
    bootstrap_mean_interval(np.arange(5.0))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002 - likewise


def test_intervals_cover_the_mean() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(400):
        low, high = bootstrap_mean_interval(rng.random(300) < 0.8, samples=500, seed=trial)
        held += low <= 0.8 <= high
    assert held / 400 >= 0.92


def test_any_statistic_has_an_interval() -> None:
    values = np.random.default_rng(0).normal(size=200)
    low, high = bootstrap_interval(lambda i: float(np.median(values[i])), 200, samples=500)
    assert low < np.median(values) < high
    ends = bootstrap_interval(lambda i: float("nan"), 200, samples=5)
    assert np.isnan(ends).all()


def test_refusals() -> None:
    with pytest.raises(DataError, match=r"groups of shape .*one value per image"):
        bootstrap_mean_interval([1.0, 2.0], groups=["a"])
    with pytest.raises(DataError, match="lies in two"):
        bootstrap_mean_interval([1.0, 2.0, 3.0], groups=[0, 0, 1], strata=[1, 0, 0])
    with pytest.raises(DataError, match="no image came"):
        next(resamples(0, samples=1, seed=0))
    with pytest.raises(ConfigError, match="samples"):
        bootstrap_mean_interval([1.0], samples=0)
    with pytest.raises(DataError, match="finite"):
        bootstrap_mean_interval([1.0, np.nan])
