from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferkit.audit.two_sample import (
    SplitPair,
    TwoSampleResult,
    family_p_values,
    max_adjusted_p_values,
    permutation_p_value,
    permuted_members,
)


def test_the_p_value_counts_the_observed_statistic_and_ties() -> None:
    assert permutation_p_value(np.array([5.0, 1, 2, 3, 4])) == 1 / 5
    assert permutation_p_value(np.array([3.0, 3, 2, 3 - 1e-12, 4])) == 4 / 5
    assert permutation_p_value(np.zeros(10)) == 1


def test_a_statistic_that_is_not_a_number_is_no_evidence() -> None:
    assert permutation_p_value(np.array([5.0, 1, np.nan, 3, 4])) == 2 / 5
    assert permutation_p_value(np.array([np.nan, 1, 2, 3, 4])) == 1


def test_rows_permute_with_sizes_kept() -> None:
    member = np.arange(10) < 4
    drawn = permuted_members(member, permutations=2000, seed=0)
    assert (drawn[0] == member).all()
    assert (drawn.sum(axis=1) == 4).all()
    assert np.abs(drawn[1:].mean(axis=0) - 0.4).max() < 0.05


@given(st.integers(0, 1000))
def test_groups_in_one_sample_move_whole(seed: int) -> None:
    groups = np.random.default_rng(seed).integers(6, size=20)
    member = groups < 3
    drawn = permuted_members(member, permutations=5, seed=seed, groups=groups)
    for one in drawn:
        shares = np.bincount(groups, weights=one, minlength=6) / np.maximum(
            np.bincount(groups, minlength=6), 1
        )
        assert set(shares) <= {0.0, 1.0}
        present = np.unique(groups)
        assert shares.sum() == len(set(present) & {0, 1, 2})


def test_the_parts_of_a_group_in_both_samples_move_whole() -> None:
    groups = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    member = np.array([1, 1, 1, 0, 1, 1, 0, 0], dtype=bool)
    drawn = permuted_members(member, permutations=400, seed=1, groups=groups)
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert (drawn[:, 1] == drawn[:, 2]).all()
    assert (drawn[:, [0, 3, 4, 6]].sum(axis=1) == 2).all()  # of the four parts, two are first
    assert np.abs(drawn[1:].mean(axis=0) - 0.5).max() < 0.1


def test_draws_repeat_by_seed() -> None:
    member = np.arange(30) < 9
    groups = np.arange(30) // 2 * 3 % 7
    for codes in (None, groups):
        first, again, other = (
            permuted_members(member, permutations=9, seed=s, groups=codes) for s in (3, 3, 4)
        )
        assert (first == again).all()
        assert (first != other).any()


def test_max_t_adjusts_for_all_columns() -> None:
    rng = np.random.default_rng(0)
    null = rng.normal(size=(1000, 20))
    adjusted = max_adjusted_p_values(null)
    by_hand = [(null.max(axis=1) >= value).mean() for value in null[0]]
    assert adjusted == pytest.approx(by_hand)


def without_a_shift(rng: np.random.Generator, n: int) -> list[TwoSampleResult]:
    """Results of unequal skewness and scale, as those of MMD and of an AUC."""
    drawn = [rng.normal(size=(200, n)), 3 + 7 * rng.gamma(0.5, size=(200, n))]
    return [
        TwoSampleResult(test="", p_value=permutation_p_value(one), null=one)
        for one in np.concatenate(drawn, axis=1).T
    ]


def test_few_permutations_serve_any_number_of_tests() -> None:
    alarms = 0
    for seed in range(100):
        found = family_p_values(without_a_shift(np.random.default_rng(seed), 30))
        alarms += found.min() <= 0.05
    assert alarms <= 13  # the central 99.9 % of the binomial distribution at 5 %
    tests = without_a_shift(np.random.default_rng(0), 100)
    for i, distance in ((3, 12.0), (150, 120.0)):
        null = np.append(distance, tests[i].null[1:])
        tests[i] = TwoSampleResult(test="", p_value=1 / 200, null=null)
    found = family_p_values(tests)
    assert found[[3, 150]].tolist() == [1 / 200, 1 / 200]


def test_exact_and_permuted_tests_share_alpha() -> None:
    exact = [TwoSampleResult(test="", p_value=p) for p in (0.001, 0.2, 1.0)]
    assert family_p_values(exact).tolist() == pytest.approx([0.003, 0.4, 1])
    permuted = TwoSampleResult(test="", p_value=0.25, null=np.array([2.0, 1, 3, 0]))
    assert family_p_values([*exact, permuted]).tolist() == pytest.approx([0.006, 0.8, 1, 1])
    assert family_p_values([permuted]).tolist() == [0.5]


GOOD = np.zeros((4, 2))


def test_integers_and_half_precision_become_floats_and_single_precision_stays() -> None:
    assert SplitPair.of([[1], [2]], [[3], [4]]).values.dtype == np.float64
    assert SplitPair.of(GOOD.astype("f"), GOOD.astype("f")).values.dtype == np.float32
    assert SplitPair.of(GOOD.astype(np.float16), GOOD.astype("e")).values.dtype == np.float32
    assert SplitPair.of([1, 2], [3, 4]).values.shape == (4, 1)


def test_equal_group_names_get_equal_codes_in_both_samples() -> None:
    pair = SplitPair.of(np.zeros(3), np.zeros(2), groups=(["p1", "p2", "p2"], ["p2", "p3"]))
    assert pair.groups is not None
    assert pair.groups.tolist() == [0, 1, 1, 1, 2]


def test_units_are_groups_or_rows() -> None:
    assert SplitPair.of(GOOD, GOOD).units == (4, 4)
    assert SplitPair.of(GOOD, GOOD, groups=([1, 1, 2, 2], [3, 3, 3, 3])).units == (2, 1)
