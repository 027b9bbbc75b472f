from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from transferkit.audit.label_shift import category_test
from transferkit.errors import ConfigError, DataError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("statistic", "power"), [("chi_square", 1), ("g", 0)])
def test_with_enough_rows_it_is_scipys_contingency_test(statistic: str, power: float) -> None:
    a, b = RNG.integers(4, size=300), RNG.choice(4, p=[0.3, 0.3, 0.2, 0.2], size=200)
    counts = [np.bincount(part, minlength=4) for part in (a, b)]
    truth = chi2_contingency(counts, correction=False, lambda_=power)
    ours = category_test(a, b, statistic=statistic)  # type: ignore[arg-type]
    assert ours.statistic == pytest.approx(truth.statistic)
    assert ours.p_value == pytest.approx(truth.pvalue)
    assert ours.permutations is None
    shares = np.abs(counts[0] / 300 - counts[1] / 200).sum() / 2
    assert ours.effect == pytest.approx(shares)


def test_with_few_rows_it_meets_all_assignments() -> None:
    pooled = np.array([0, 0, 0, 1, 1, 2, 0, 1, 2, 2])
    observed = category_test(pooled[:4], pooled[4:], permutations=4000)
    every = []
    for chosen in combinations(range(10), 4):
        inside = np.isin(np.arange(10), chosen)
        counts = [np.bincount(pooled[part], minlength=3) for part in (inside, ~inside)]
        every.append(chi2_contingency(counts, correction=False).statistic)
    exact = np.mean(np.array(every) >= observed.statistic - 1e-9)
    assert observed.p_value == pytest.approx(exact, abs=0.03)


def test_the_interval_leaves_out_zero_just_where_the_test_rejects() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        a, b = rng.choice(2, p=[0.5, 0.5], size=200), rng.choice(2, p=[0.6, 0.4], size=150)
        found = category_test(a, b)
        assert (found.interval[0] > 0) == (found.p_value < 0.025)
        assert found.interval[0] <= found.effect <= found.interval[1]


def test_intervals_cover_the_distance_of_the_shares() -> None:
    p, q = [0.5, 0.3, 0.2], [0.35, 0.3, 0.35]
    held = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        found = category_test(rng.choice(3, p=p, size=300), rng.choice(3, p=q, size=250))
        held.append(found.interval[0] <= 0.15 <= found.interval[1])
    assert np.mean(held) >= 0.92


def test_groups_of_one_class_each_are_permuted_whole() -> None:
    a, b = np.repeat([0, 1, 0, 0], 25), np.repeat([1, 1, 0, 1], 25)
    groups = (np.repeat(np.arange(4), 25), np.repeat(np.arange(4, 8), 25))
    assert category_test(a, b).p_value < 1e-3
    by_group = category_test(a, b, groups=groups)
    assert by_group.p_value > 0.3
    assert by_group.interval[0] == 0


def test_names_one_category_and_bad_input() -> None:
    assert category_test(["png", "jpeg"] * 30, ["png"] * 60).p_value < 1e-6
    assert category_test([1, 1], [1]).p_value == 1
    with pytest.raises(DataError, match="0 row"):
        category_test([], [1])
    with pytest.raises(DataError, match="integers or names"):
        category_test([0.5], [1])
    with pytest.raises(ConfigError, match="statistic"):
        category_test([0, 1], [1], statistic="fisher")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="permutations"):
        category_test([0, 1], [1], permutations=0)
