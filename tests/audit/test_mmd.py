from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from transferkit.audit import mmd as kernels
from transferkit.audit.mmd import (
    BANDWIDTHS,
    kernel_sums,
    mmd_test,
    scaled_rows,
    squared_mmd,
)
from transferkit.audit.two_sample import SplitPair, permuted_members

RNG = np.random.default_rng(0)


def direct(rows: np.ndarray, member: np.ndarray, bandwidth: float) -> float:
    """Unbiased squared MMD from the whole kernel matrix."""
    kernel = np.exp(-cdist(rows, rows, "sqeuclidean") / (2 * bandwidth**2))
    np.fill_diagonal(kernel, 0)
    n, m = member.sum(), (~member).sum()
    within_a = kernel[np.ix_(member, member)].sum() / (n * (n - 1))
    within_b = kernel[np.ix_(~member, ~member)].sum() / (m * (m - 1))
    return within_a + within_b - 2 * kernel[np.ix_(member, ~member)].mean()


@pytest.mark.parametrize("block", [7, 64, 2048])
@pytest.mark.parametrize("grouped", [False, True])
def test_streamed_sums_are_those_of_the_whole_matrix(
    block: int, grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "BLOCK", block)
    pooled, member = RNG.normal(size=(50, 4)), np.arange(50) < 20
    groups = np.arange(50) // 3 if grouped else None
    members = permuted_members(member, permutations=6, seed=0, groups=groups)
    rows = scaled_rows(pooled, seed=0)
    assert rows is not None
    sums = kernel_sums(rows, members)
    for j, bandwidth in enumerate(BANDWIDTHS):
        truth = [direct(rows, one, bandwidth) for one in members]
        assert squared_mmd(sums, members)[j] == pytest.approx(truth, abs=1e-12)


def test_rows_are_scaled_to_a_median_distance_of_one() -> None:
    rows = scaled_rows(RNG.normal(size=(300, 5)) * 40 + 1e4, seed=0)
    assert rows is not None
    distances = cdist(rows, rows)[np.triu_indices(300, 1)]
    assert np.median(distances) == pytest.approx(1, rel=1e-6)


def test_single_precision_changes_nothing_that_matters() -> None:
    pooled, member = np.random.default_rng(0).normal(size=(2400, 64)), np.arange(2400) < 1000
    members = permuted_members(member, permutations=20, seed=0)
    rows = scaled_rows(pooled, seed=0)
    assert rows is not None
    assert rows.dtype == np.float32
    single = squared_mmd(kernel_sums(rows, members), members)
    precise = rows.astype(np.float64)
    double = squared_mmd(kernel_sums(precise, members), members)
    assert np.abs(single - double).max() < 2e-3 * double.std(axis=1).min()  # 1.1 to 1.7e-3


def test_a_shift_is_seen_and_its_size_grows() -> None:
    a = RNG.normal(size=(150, 10))
    results = [
        mmd_test(SplitPair.of(a, RNG.normal(size=(90, 10)) + step)) for step in (0.0, 0.5, 3.0)
    ]
    assert results[0].p_value > 0.05
    assert results[1].p_value == results[2].p_value == 1 / 200
    assert results[0].effect < results[1].effect < results[2].effect < 1
    assert results[0].interval[0] == 0
    for result in results[1:]:
        assert 0 < result.interval[0] < result.effect < result.interval[1]


def test_a_change_of_spread_or_of_dependence_is_seen() -> None:
    a = RNG.normal(size=(300, 2))
    wide = RNG.normal(size=(300, 2)) * 1.6
    tilted = RNG.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], size=300)
    assert mmd_test(SplitPair.of(a, wide)).p_value < 0.01
    assert mmd_test(SplitPair.of(a, tilted)).p_value < 0.01


def test_intervals_hold_the_effect_of_a_large_sample() -> None:
    def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        return rng.normal(size=(n, 3)), rng.normal(size=(n, 3)) + 0.5

    truth = mmd_test(SplitPair.of(*draw(4000, 99)), permutations=1).effect
    held = []
    for seed in range(60):
        low, high = mmd_test(SplitPair.of(*draw(120, seed)), permutations=1).interval
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.85


def test_equal_rows_differ_in_nothing() -> None:
    result = mmd_test(SplitPair.of(np.ones((5, 3)), np.ones((4, 3))))
    assert (result.p_value, result.effect) == (1.0, 0.0)


def test_one_odd_row_among_equal_ones_is_no_shift() -> None:
    a, b = np.zeros((3000, 2)), np.zeros((3000, 2))
    b[7] = 5.0
    assert mmd_test(SplitPair.of(a, b), permutations=19).p_value > 0.05


def test_fewer_rows_than_features_outliers_and_two_rows_are_no_trouble() -> None:
    assert (
        0
        < mmd_test(SplitPair.of(RNG.normal(size=(6, 500)), RNG.normal(size=(5, 500)))).p_value
        <= 1
    )
    far = RNG.normal(size=(30, 3))
    far[0] = 1e30
    assert mmd_test(SplitPair.of(far, RNG.normal(size=(20, 3)))).p_value > 0.05
    assert mmd_test(SplitPair.of([[0.0], [1.0]], [[5.0], [6.0]])).p_value > 0.2


def test_groups_do_not_alarm_where_rows_would() -> None:
    rng = np.random.default_rng(3)
    code = np.arange(200) // 20
    rows = rng.normal(size=(10, 4))[code] + 0.1 * rng.normal(size=(200, 4))
    groups = (code[:100], code[100:])
    assert mmd_test(SplitPair.of(rows[:100], rows[100:])).p_value == 1 / 200
    result = mmd_test(SplitPair.of(rows[:100], rows[100:], groups=groups))
    assert result.p_value > 0.02
    assert result.interval[0] < mmd_test(SplitPair.of(rows[:100], rows[100:])).interval[0] + 1e-12


def test_a_permuted_split_of_one_row_is_no_evidence() -> None:
    # A group of one row beside larger ones: alone in a split, it has no pair of different rows.
    p_values = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        groups = (["a"] * 5, ["b"] + ["c"] * 4 + ["d"] * 6)
        pair = SplitPair.of(rng.normal(size=(5, 3)), rng.normal(size=(11, 3)), groups=groups)
        p_values.append(mmd_test(pair, permutations=39, seed=seed).p_value)
    assert min(p_values) >= 1 / 40
    assert np.mean(np.array(p_values) <= 0.05) <= 0.13


def test_a_shift_is_seen_where_a_permuted_split_may_be_one_row() -> None:
    groups = (["a"] * 5, [f"b{i}" for i in range(20)] + [f"c{i // 3}" for i in range(60)])
    pair = SplitPair.of(RNG.normal(size=(5, 3)) + 4, RNG.normal(size=(80, 3)), groups=groups)
    assert mmd_test(pair).p_value <= 0.1  # one group among 41
