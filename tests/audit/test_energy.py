from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import energy_distance

from transferkit.audit.mmd import energy_test
from transferkit.errors import ConfigError

RNG = np.random.default_rng(0)


def test_it_is_the_energy_distance_in_median_distances() -> None:
    a, b = RNG.normal(size=(40, 3)), RNG.normal(size=(25, 3)) + 1
    pooled = np.concatenate([a, b])
    median = np.median(cdist(pooled, pooled)[np.triu_indices(65, 1)])
    within_a = cdist(a, a).sum() / (40 * 39)
    within_b = cdist(b, b).sum() / (25 * 24)
    between = cdist(a, b).mean()
    result = energy_test(a, b)
    assert result.statistic == pytest.approx((2 * between - within_a - within_b) / median)
    assert result.effect == pytest.approx((2 * between - within_a - within_b) / (2 * between))
    assert result.interval[0] < result.effect < result.interval[1]
    assert result.p_value == 1 / 200


def test_in_one_dimension_it_is_scipys() -> None:
    # scipy gives the square root of the biased form; with many rows both agree.
    a, b = RNG.normal(size=1000), RNG.normal(size=900) + 0.7
    pooled = np.concatenate([a, b])[:, None]
    median = np.median(cdist(pooled, pooled)[np.triu_indices(1900, 1)])
    ours = energy_test(a, b, permutations=9).statistic * median
    assert ours == pytest.approx(energy_distance(a, b) ** 2, rel=0.02)


def test_many_rows_are_thinned_and_it_says_so() -> None:
    a, b = RNG.normal(size=(400, 2)), RNG.normal(size=(200, 2)) + 1
    groups = (np.arange(400) // 2, 1000 + np.arange(200) // 2)
    result = energy_test(a, b, max_rows=150, groups=groups)
    assert "150 rows" in result.note
    assert (result.n_a, result.n_b) == (400, 200)
    assert result.p_value == 1 / 200
    assert energy_test(np.eye(9), np.eye(9)[:3], max_rows=4, permutations=9).p_value > 0


def test_equal_rows_and_bad_options() -> None:
    assert energy_test(np.ones((5, 3)), np.ones((4, 3))).p_value == 1
    with pytest.raises(ConfigError, match="max_rows"):
        energy_test(np.eye(3), np.eye(3), max_rows=3)
