from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, mannwhitneyu

from transferkit.audit import kolmogorov_smirnov
from transferkit.audit.kolmogorov_smirnov import ks_p_values, ks_test
from transferkit.audit.two_sample import ColumnTests, SplitPair, TwoSampleResult

RNG = np.random.default_rng(0)


def strongest(a: np.ndarray, b: np.ndarray) -> TwoSampleResult:
    return ks_test(SplitPair.of(a, b))


def compare(a: np.ndarray, b: np.ndarray) -> ColumnTests:
    columns = strongest(a, b).columns
    assert columns is not None
    return columns


def deviations(members: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Largest |N S(t) - n_a t| at block ends, for memberships in sorted order."""
    total, n_a = members.shape[1], int(members[0].sum())
    gaps = np.abs(total * members.cumsum(axis=1) - n_a * np.arange(1, total + 1))
    return np.where(ends, gaps, 0).max(axis=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 6), st.integers(0, 10**6))
def test_the_null_is_that_of_all_assignments(n_a: int, n_b: int, seed: int) -> None:
    total = n_a + n_b
    ends = np.random.default_rng(seed).random(total) < 0.6
    ends[-1] = True
    chosen = list(combinations(range(total), n_a))
    members = np.zeros((len(chosen), total), dtype=bool)
    members[np.repeat(np.arange(len(chosen)), n_a), np.ravel(chosen)] = True
    every = deviations(members, ends)
    values = np.unique(every)
    exact = ks_p_values(values, np.repeat(ends[None], len(values), axis=0), n_a, n_b)
    assert exact == pytest.approx([(every >= v).mean() for v in values], abs=1e-10)


@pytest.mark.parametrize(("n", "m"), [(50, 50), (30, 70), (101, 300)])
def test_without_ties_it_is_scipys_exact_test(n: int, m: int) -> None:
    a, b = RNG.normal(size=n), RNG.normal(size=m) + 0.3
    ours, truth = strongest(a, b), ks_2samp(a, b, method="exact")
    assert ours.statistic == pytest.approx(truth.statistic)
    assert ours.p_value == pytest.approx(truth.pvalue, rel=1e-6)


def test_distances_and_superiority_of_tied_features_are_those_of_scipy() -> None:
    a, b = RNG.poisson(2, size=(40, 6)), RNG.poisson(2.5, size=(65, 6))
    found = compare(a, b)
    for i in range(6):
        assert found.distances[i] == pytest.approx(ks_2samp(a[:, i], b[:, i]).statistic)
        wins = mannwhitneyu(b[:, i], a[:, i]).statistic / (40 * 65)
        assert found.superiority[i] == pytest.approx(wins)


def test_a_feature_has_the_same_p_value_among_others() -> None:
    a, b = np.round(RNG.normal(size=(60, 40)), 1), np.round(RNG.normal(size=(80, 40)), 1)
    together = compare(a, b)
    alone = [strongest(a[:, i], b[:, i]).p_value for i in range(40)]
    assert together.p_values == pytest.approx(alone)


def test_a_constant_feature_differs_in_nothing_and_a_disjoint_one_in_all() -> None:
    a = np.column_stack([np.ones(30), np.zeros(30)])
    b = np.column_stack([np.ones(20), np.ones(20)])
    found = compare(a, b)
    assert found.p_values[0] == 1
    assert found.distances.tolist() == [0, 1]
    assert found.superiority.tolist() == [0.5, 1]
    assert found.p_values[1] < 1e-10
    assert "feature[1]" in strongest(a, b).note
    assert found.intervals[0, 0] == 0


def test_tiny_samples_give_large_p_values_and_never_crash() -> None:
    assert strongest(np.array([1.0]), np.array([2.0])).p_value == 1
    assert compare(np.zeros((1, 500)), np.ones((2, 500))).p_values == pytest.approx(1 / 3)


def test_groups_are_permuted_and_not_their_rows() -> None:
    # Two groups a side: rows look different beyond doubt, groups cannot.
    a, b = np.repeat([0.0, 1.0], 50), np.repeat([2.0, 3.0], 50)
    groups = (np.repeat([0, 1], 50), np.repeat([2, 3], 50))
    assert strongest(a, b).p_value < 1e-10
    by_group = ks_test(SplitPair.of(a, b, groups=groups), permutations=300)
    assert by_group.p_value == pytest.approx(1 / 3, abs=0.1)


def test_large_samples_go_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kolmogorov_smirnov, "BLOCK", 11_000)
    a, b = RNG.normal(size=(3000, 3)), RNG.normal(size=(2500, 3))
    b[:, 1] += 0.2
    whole = ks_test(SplitPair.of(a, b, names=("x", "y", "z")))
    found = whole.columns
    assert found is not None
    truth = [ks_2samp(a[:, i], b[:, i], method="asymp").pvalue for i in range(3)]
    assert found.p_values == pytest.approx(truth, rel=0.15)
    assert "y, higher in the second" in whole.note
    low, high = found.intervals[1]
    assert 0 < low < found.distances[1] < high


@pytest.mark.parametrize("ties", [False, True])
def test_beyond_the_exact_null_the_limit_is_right_without_ties_and_conservative_with(
    ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = RNG.normal(size=(900, 5)), RNG.normal(size=(1350, 5)) + 0.05
    if ties:
        a, b = np.maximum(a, 0), np.maximum(b, 0)
    exact = compare(a, b).p_values
    monkeypatch.setattr(kolmogorov_smirnov, "EXACT_ROWS", 2000)
    limit = compare(a, b).p_values
    assert (limit >= exact - 1e-3).all()
    if not ties:
        assert limit == pytest.approx(exact, rel=0.15)
