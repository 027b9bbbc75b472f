from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from transferkit.audit import domain_classifier
from transferkit.audit.domain_classifier import (
    _aucs,
    _ranks,
    classifier_inputs,
    cross_fitted,
    domain_classifier_test,
    draw_folds,
    without_typical,
)
from transferkit.audit.two_sample import SplitPair, TwoSampleResult
from transferkit.errors import DataError

RNG = np.random.default_rng(0)


def compare(a, b, *, groups=None, **options) -> TwoSampleResult:
    return domain_classifier_test(SplitPair.of(a, b, groups=groups), **options)


def test_scores_of_all_memberships_are_those_of_ridge_fitted_one_by_one() -> None:
    inputs = RNG.normal(size=(60, 4))
    inputs -= inputs.mean(axis=0)
    members = RNG.random((3, 60)) < 0.4
    fold = draw_folds(60, 5, groups=None, seed=0)
    scores = cross_fitted(inputs, members, fold)
    shrinkage = ledoit_wolf_shrinkage(inputs, assume_centered=True) + 1e-6
    penalty = shrinkage / (1 - shrinkage) * np.mean(inputs**2)
    for b in range(3):
        for one in range(5):
            kept = fold != one
            model = Ridge(alpha=penalty * kept.sum(), fit_intercept=False)
            target = members[b, kept] - members[b, kept].mean()
            theirs = model.fit(inputs[kept], target).predict(inputs[~kept])
            assert scores[~kept, b] * (1 - shrinkage) == pytest.approx(theirs)


def test_the_auc_is_scikit_learns_where_there_is_one_fold() -> None:
    scores = np.round(RNG.normal(size=(50, 4)), 1)
    members = RNG.random((4, 50)) < 0.5
    fold = np.zeros(50, dtype=np.int64)
    truth = [roc_auc_score(members[b], scores[:, b]) for b in range(4)]
    assert _aucs(_ranks(scores, fold), members, fold) == pytest.approx(truth)


def test_more_features_than_rows_are_rotated_without_loss() -> None:
    pair = SplitPair.of(RNG.normal(size=(12, 40)), RNG.normal(size=(9, 40)))
    inputs = classifier_inputs(pair, 0)
    assert inputs is not None
    assert inputs.shape == (21, 21)
    rows = pair.values
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    assert inputs @ inputs.T == pytest.approx(standard @ standard.T)


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain_classifier, "FEW_FEATURES", 0)


@pytest.mark.parametrize("few", [0, 32])
def test_a_shift_of_known_auc_comes_back(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain_classifier, "FEW_FEATURES", few)
    gap = 1.0
    a, b = RNG.normal(size=(600, 5)), RNG.normal(size=(500, 5))
    b[:, 0] += gap
    result = compare(a, b)
    truth = ndtr(gap / np.sqrt(2))
    assert result.statistic == pytest.approx(truth, abs=0.03)
    assert result.interval[0] < 2 * truth - 1 < result.interval[1] + 0.02
    assert result.p_value == 1 / 200
    assert result.effect == pytest.approx(2 * result.statistic - 1)


def test_the_nonlinear_form_sees_a_change_of_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = RNG.normal(size=(400, 3)), RNG.normal(size=(400, 3)) * 1.5
    assert compare(a, b).p_value < 0.01
    monkeypatch.setattr(domain_classifier, "FEW_FEATURES", 0)
    assert compare(a, b).statistic < 0.6


def test_the_most_typical_rows_are_the_planted_ones() -> None:
    a, b = RNG.normal(size=(200, 6)), RNG.normal(size=(200, 6))
    b[:40, 2] += 6
    result = compare(a, b)
    assert result.typical is not None
    assert sum(row < 40 for row in np.argsort(-result.typical[200:])[:40]) >= 33
    assert result.typical.shape == (400,)
    assert ((result.typical > 0) & (result.typical < 1)).all()


@pytest.mark.usefixtures("linear")
def test_intervals_cover() -> None:
    truth, held = ndtr(0.8 / np.sqrt(2)), []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=(150, 1)), rng.normal(size=(100, 1)) + 0.8
        found = compare(a, b, permutations=19, seed=seed)
        held.append(found.interval[0] <= 2 * truth - 1 <= found.interval[1])
    assert np.mean(held) >= 0.88


def test_disjoint_samples_have_an_interval_below_one() -> None:
    result = compare(RNG.normal(size=(40, 2)), RNG.normal(size=(30, 2)) + 50)
    assert result.statistic == 1
    assert 0.7 < result.interval[0] < 1


def test_an_interval_holds_one_half_unless_the_test_rejects() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = compare(
            rng.normal(size=(30, 5)), rng.normal(size=(25, 5)), permutations=39, seed=seed
        )
        assert found.p_value <= 0.05 or found.interval[0] == 0


def test_folds_keep_groups_whole_and_sizes_near() -> None:
    groups = RNG.integers(40, size=500)
    fold = draw_folds(500, 5, groups=groups, seed=0)
    assert all(len(set(fold[groups == g])) == 1 for g in np.unique(groups))
    assert np.ptp(np.bincount(fold)) <= np.bincount(groups).max()
    assert np.ptp(np.bincount(draw_folds(52, 5, groups=None, seed=0))) <= 1


def test_tiny_constant_and_extreme_samples() -> None:
    constant = compare(np.ones((4, 2)), np.ones((3, 2)))
    assert (constant.statistic, constant.p_value) == (0.5, 1.0)
    two = compare([[0.0], [1.0]], [[2.0], [3.0]], permutations=19)
    assert 0 < two.p_value <= 1
    one_group = compare(RNG.normal(size=(5, 2)), RNG.normal(size=(5, 2)), groups=([1] * 5, [2] * 5))
    assert one_group.p_value > 0.3


def test_groups_do_not_alarm_where_rows_would() -> None:
    rng = np.random.default_rng(5)
    code = np.arange(200) // 20
    rows = rng.normal(size=(10, 4))[code] + 0.1 * rng.normal(size=(200, 4))
    alone = compare(rows[:100], rows[100:])
    by_group = compare(rows[:100], rows[100:], groups=(code[:100], code[100:]))
    assert alone.p_value < 0.01 < by_group.p_value


def test_rows_of_a_single_group_are_refused_and_two_groups_suffice() -> None:
    a, b = RNG.normal(size=(20, 3)), RNG.normal(size=(15, 3))
    with pytest.raises(DataError, match="35 images of both splits are in one group"):
        compare(a, b, groups=(["x"] * 20, ["x"] * 15))
    result = compare(a, b, groups=(["x"] * 20, ["y"] * 15))
    assert result.p_value > 0.3


def test_a_shift_that_lives_in_a_few_rows_goes_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain_classifier, "TYPICAL_SHARE", 0.15)
    a, b = RNG.normal(size=(600, 5)), RNG.normal(size=(600, 5))
    b[:150, 2] += 5
    pair = SplitPair.of(a, b)
    left = without_typical(pair)
    assert left is not None
    assert left[2] > 0.5


def test_a_shift_of_all_rows_stays() -> None:
    a, b = RNG.normal(size=(600, 5)), RNG.normal(size=(600, 5)) + 0.6
    pair = SplitPair.of(a, b)
    left = without_typical(pair)
    assert left is not None
    _, p_value, gone = left
    assert gone < 0.45
    assert p_value < 0.05


def test_without_a_shift_removal_makes_none() -> None:
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        pair = SplitPair.of(rng.normal(size=(60, 3)), rng.normal(size=(50, 3)))
        left = without_typical(pair, permutations=39, seed=seed)
        alarms += left is not None and left[1] <= 0.05
    assert alarms <= 6


def test_too_few_rows_are_not_judged() -> None:
    pair = SplitPair.of(RNG.normal(size=(9, 2)), RNG.normal(size=(12, 2)))
    assert without_typical(pair) is None


def test_two_groups_in_both_splits_are_too_few_to_judge_a_removal() -> None:
    code = np.arange(40) % 2
    pair = SplitPair.of(RNG.normal(size=(40, 2)), RNG.normal(size=(40, 2)) + 3, groups=(code, code))
    assert without_typical(pair) is None
