from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from transferkit.audit import mmd as kernels
from transferkit.audit.mmd import (
    BANDWIDTHS,
    discrepancies,
    fourier_sums,
    gaussian_bank,
    kernel_sums,
    mmd_test,
    scaled_rows,
)
from transferkit.audit.two_sample import permuted_members
from transferkit.errors import ConfigError, DataError

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
    sums = kernel_sums(rows, members, gaussian_bank, np.ones(3))
    for j, bandwidth in enumerate(BANDWIDTHS):
        truth = [direct(rows, one, bandwidth) for one in members]
        assert discrepancies(sums, members)[j] == pytest.approx(truth, abs=1e-12)


def test_rows_are_scaled_to_a_median_distance_of_one() -> None:
    rows = scaled_rows(RNG.normal(size=(300, 5)) * 40 + 1e4, seed=0)
    assert rows is not None
    distances = cdist(rows, rows)[np.triu_indices(300, 1)]
    assert np.median(distances) == pytest.approx(1, rel=1e-6)


def test_single_precision_changes_nothing_that_matters() -> None:
    pooled, member = RNG.normal(size=(2400, 64)), np.arange(2400) < 1000
    members = permuted_members(member, permutations=20, seed=0)
    rows = scaled_rows(pooled, seed=0)
    assert rows is not None
    assert rows.dtype == np.float32
    single = discrepancies(kernel_sums(rows, members, gaussian_bank, np.ones(3)), members)
    precise = rows.astype(np.float64)
    double = discrepancies(kernel_sums(precise, members, gaussian_bank, np.ones(3)), members)
    assert np.abs(single - double).max() < 1e-3 * double.std(axis=1).min()


def test_fourier_features_approach_the_kernel() -> None:
    pooled, member = RNG.normal(size=(300, 5)), np.arange(300) < 120
    pooled[:120] += 0.8
    members = permuted_members(member, permutations=3, seed=0)
    rows = scaled_rows(pooled, seed=0)
    assert rows is not None
    full = kernel_sums(rows, members, gaussian_bank, np.ones(3))
    near = fourier_sums(rows, members, bandwidths=BANDWIDTHS, frequencies=8000, seed=0)
    for name in ("within", "touching", "total", "own"):
        assert getattr(near, name) == pytest.approx(getattr(full, name), rel=0.02)
    assert discrepancies(near, members)[:, 0] == pytest.approx(
        discrepancies(full, members)[:, 0], rel=0.1
    )


@pytest.mark.parametrize("method", ["full", "fourier"])
def test_a_shift_is_seen_and_its_size_grows(method: str) -> None:
    a = RNG.normal(size=(150, 10))
    results = [
        mmd_test(a, RNG.normal(size=(90, 10)) + step, method=method)  # type: ignore[arg-type]
        for step in (0.0, 0.5, 3.0)
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
    assert mmd_test(a, wide).p_value < 0.01
    assert mmd_test(a, tilted).p_value < 0.01


def test_intervals_hold_the_effect_of_a_large_sample() -> None:
    def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        return rng.normal(size=(n, 3)), rng.normal(size=(n, 3)) + 0.5

    truth = mmd_test(*draw(4000, 99), permutations=1).effect
    held = []
    for seed in range(60):
        low, high = mmd_test(*draw(120, seed), permutations=1).interval
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.85


def test_equal_rows_differ_in_nothing() -> None:
    result = mmd_test(np.ones((5, 3)), np.ones((4, 3)))
    assert (result.p_value, result.effect) == (1.0, 0.0)
    assert "constant" in result.note


def test_one_odd_row_among_equal_ones_is_no_shift() -> None:
    a, b = np.zeros((3000, 2)), np.zeros((3000, 2))
    b[7] = 5.0
    assert mmd_test(a, b, permutations=19).p_value > 0.05


def test_fewer_rows_than_features_outliers_and_two_rows_are_no_trouble() -> None:
    assert 0 < mmd_test(RNG.normal(size=(6, 500)), RNG.normal(size=(5, 500))).p_value <= 1
    far = RNG.normal(size=(30, 3))
    far[0] = 1e30
    assert mmd_test(far, RNG.normal(size=(20, 3))).p_value > 0.05
    assert mmd_test([[0.0], [1.0]], [[5.0], [6.0]]).p_value > 0.2


def test_groups_do_not_alarm_where_rows_would() -> None:
    rng = np.random.default_rng(3)
    code = np.arange(200) // 20
    rows = rng.normal(size=(10, 4))[code] + 0.1 * rng.normal(size=(200, 4))
    groups = (code[:100], code[100:])
    assert mmd_test(rows[:100], rows[100:]).p_value == 1 / 200
    result = mmd_test(rows[:100], rows[100:], groups=groups)
    assert result.p_value > 0.02
    assert result.interval[0] < mmd_test(rows[:100], rows[100:]).interval[0] + 1e-12


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="1 row"):
        mmd_test(np.zeros((1, 2)), np.zeros((3, 2)))
    with pytest.raises(ConfigError, match="method"):
        mmd_test(np.eye(3), np.eye(3), method="linear")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="permutations"):
        mmd_test(np.eye(3), np.eye(3), permutations=0)
