from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import chi2_contingency
from sklearn.metrics import log_loss

from transferkit.audit.label_shift import (
    Scored,
    _by_group,
    bbse_shares,
    calibrated,
    calibration,
    chi_square_test,
    mlls,
    mlls_shares,
    paired_draws,
)
from transferkit.audit.two_sample import permuted_members

RNG = np.random.default_rng(0)


def test_pneumoniamnist_shifts_its_labels_from_val_to_test_only(shared_path: Path) -> None:
    with np.load(shared_path / "data" / "pneumoniamnist.npz") as data:
        train, val, test = (data[f"{name}_labels"].ravel() for name in ("train", "val", "test"))
    assert chi_square_test(train, val).p_value > 0.9
    found = chi_square_test(val, test)
    assert found.p_value < 1e-4
    assert found.effect == pytest.approx(234 / 624 - 135 / 524)


def test_missing_classes_are_no_trouble() -> None:
    zeros = np.zeros(2, dtype=np.int64)
    assert chi_square_test(zeros, zeros).p_value == 1
    assert chi_square_test(np.array([0, 0, 0, 1]), np.array([1, 1, 1, 0, 1])).effect == 0.55


def test_with_enough_rows_it_is_scipys_contingency_test() -> None:
    a, b = RNG.integers(4, size=300), RNG.choice(4, p=[0.3, 0.3, 0.2, 0.2], size=200)
    counts = [np.bincount(part, minlength=4) for part in (a, b)]
    truth = chi2_contingency(counts, correction=False)
    ours = chi_square_test(a, b)
    assert ours.statistic == pytest.approx(truth.statistic)
    assert ours.p_value == pytest.approx(truth.pvalue)
    shares = np.abs(counts[0] / 300 - counts[1] / 200).sum() / 2
    assert ours.effect == pytest.approx(shares)


def test_with_few_rows_it_meets_all_assignments() -> None:
    pooled = np.array([0, 0, 0, 1, 1, 2, 0, 1, 2, 2])
    observed = chi_square_test(pooled[:4], pooled[4:], permutations=4000)
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
        found = chi_square_test(a, b)
        assert (found.interval[0] > 0) == (found.p_value < 0.025)
        assert found.interval[0] <= found.effect <= found.interval[1]


def test_intervals_cover_the_distance_of_the_shares() -> None:
    p, q = [0.5, 0.3, 0.2], [0.35, 0.3, 0.35]
    held = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        found = chi_square_test(rng.choice(3, p=p, size=300), rng.choice(3, p=q, size=250))
        held.append(found.interval[0] <= 0.15 <= found.interval[1])
    assert np.mean(held) >= 0.92


def test_groups_of_one_class_each_are_permuted_whole() -> None:
    a, b = np.repeat([0, 1, 0, 0], 25), np.repeat([1, 1, 0, 1], 25)
    groups = (np.repeat(np.arange(4), 25), np.repeat(np.arange(4, 8), 25))
    assert chi_square_test(a, b).p_value < 1e-3
    by_group = chi_square_test(a, b, groups=groups)
    assert by_group.p_value > 0.3
    assert by_group.interval[0] == 0


def test_one_category_and_few_rows() -> None:
    assert chi_square_test(np.array([1, 1]), np.array([1])).p_value == 1
    assert chi_square_test(np.array([0, 1]), np.array([1])).p_value == 1


def test_other_shares_are_seen_where_all_patients_of_a_class_lie_in_both_splits() -> None:
    # 135 of 524 images are normal, 25.8 %, and 234 of 624, 37.5 %, each of a patient of its own;
    # the others are two images each of 195 patients (minus one image) in both splits.
    sick = np.repeat(np.arange(195), 2)
    labels = [np.repeat([0, 1], [135, 389]), np.repeat([0, 1], [234, 390])]
    names = [[f"{split}{i}" for i in range(n)] for split, n in (("a", 135), ("b", 234))]
    groups = (names[0] + sick[1:].tolist(), names[1] + sick.tolist())
    found = chi_square_test(labels[0], labels[1], groups=groups)
    assert found.p_value < 0.005
    assert found.interval[0] > 0


def test_patients_in_both_splits_raise_no_false_alarms() -> None:
    alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 9, size=60)
        labels = np.repeat(rng.integers(2, size=60), sizes)
        groups, first = np.repeat(np.arange(60), sizes), rng.random(sizes.sum()) < 0.7
        found = chi_square_test(
            labels[first],
            labels[~first],
            groups=(groups[first], groups[~first]),
            permutations=199,
            seed=seed,
        )
        alarms += found.p_value <= 0.05
    assert alarms <= 18  # the central 99.9 % of the binomial distribution at 5 %


def test_by_group_the_statistic_is_that_of_the_cluster_robust_difference_of_shares() -> None:
    rng = np.random.default_rng(3)
    labels, groups, first = rng.integers(2, size=60), rng.integers(10, size=60), np.arange(60) < 25
    found = _by_group(labels, first, groups, 0)(99)
    share = labels.mean()
    members = permuted_members(first, permutations=99, seed=0, groups=groups)
    for value, member in zip(found, members, strict=True):
        difference = labels[member].mean() - labels[~member].mean()
        residuals = (labels - share) * np.where(member, 1 / member.sum(), -1 / (~member).sum())
        error = np.sqrt(sum(residuals[groups == g].sum() ** 2 for g in range(10)))
        assert value == pytest.approx((difference / error) ** 2)


TRUE = (0.6, 0.3, 0.1)


def draw(
    n: int, shares: tuple[float, ...], seed: int, *, hot: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and labels of a classifier that is calibrated for equal shares at ``hot`` = 1."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(shares), p=shares, size=n)
    rows = rng.normal(size=(n, len(shares))) + 1.6 * np.eye(len(shares))[labels]
    return softmax(hot * 1.6 * rows, axis=1), labels


@pytest.mark.parametrize("shares_of", [bbse_shares, mlls_shares])
def test_planted_shares_come_back(shares_of) -> None:
    source, labels = draw(20_000, (1 / 3, 1 / 3, 1 / 3), 0)
    target, _ = draw(20_000, TRUE, 1)
    assert shares_of(source, labels, target) == pytest.approx(TRUE, abs=0.02)


def test_mlls_needs_its_calibration_and_finds_it() -> None:
    source, labels = draw(5000, (1 / 3, 1 / 3, 1 / 3), 0, hot=3)
    target, _ = draw(5000, TRUE, 1, hot=3)
    found, _ = mlls(Scored(source, labels, target), samples=2)
    assert found == pytest.approx(TRUE, abs=0.03)
    raw = mlls_shares(source, labels, target)
    assert np.abs(found - TRUE).sum() < np.abs(raw - TRUE).sum()


def test_calibration_undoes_a_known_temperature() -> None:
    source, labels = draw(20_000, (1 / 3, 1 / 3, 1 / 3), 0, hot=2.5)
    scale = calibration(source, labels)
    assert scale[0] == pytest.approx(1 / 2.5, rel=0.05)
    assert log_loss(labels, calibrated(source, scale)) < log_loss(labels, source)


def test_intervals_cover() -> None:
    held = []
    for seed in range(40):
        source, labels = draw(300, (1 / 3, 1 / 3, 1 / 3), 2 * seed)
        target, _ = draw(250, TRUE, 2 * seed + 1)
        scored = Scored(source, labels, target)
        low, high = mlls(scored, samples=60, seed=seed)[1][0]
        held.append(low <= TRUE[0] <= high)
    assert np.mean(held) >= 0.85


def test_every_draw_of_the_bootstrap_is_calibrated_anew() -> None:
    source, labels = draw(100, (0.5, 0.5), 0, hot=3)
    target, _ = draw(250, (0.7, 0.3), 1, hot=3)
    scored = Scored(source, labels, target)
    by_hand = []
    for i, j in paired_draws(scored, 40, 7):
        scale = calibration(source[i], labels[i])
        drawn = calibrated(source[i], scale), labels[i], calibrated(target[j], scale)
        by_hand.append(mlls_shares(*drawn))
    low, high = mlls(scored, samples=40, seed=7)[1].T
    assert low == pytest.approx(np.quantile(by_hand, 0.025, axis=0), abs=2e-3)
    assert high == pytest.approx(np.quantile(by_hand, 0.975, axis=0), abs=2e-3)
