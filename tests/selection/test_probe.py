"""The linear probe: held-out truth, groups, folds, learning curve."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from transferkit.errors import DataError
from transferkit.metrics.intervals import wilson_interval
from transferkit.selection.probe import PENALTY, _fit, probe_curve, probe_score


def gaussians(n: int, *, apart: float, d: int = 5, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    features = rng.normal(size=(n, d))
    features[:, 0] += apart * labels
    return features, labels


def test_accuracy_is_that_of_the_best_rule() -> None:
    """Two Gaussians two standard deviations apart: no rule is right in more than 84.13 %."""
    score = probe_score(*gaussians(4000, apart=2))
    assert score.accuracy == pytest.approx(0.8413, abs=0.02)
    low, high = score.interval
    assert low < 0.8413 < high


def test_noise_scores_at_chance_however_many_features() -> None:
    """A probe judged on what it has seen would be right in 100 % here."""
    features, labels = gaussians(200, apart=0, d=500)
    assert probe_score(features, labels).accuracy == pytest.approx(0.5, abs=0.1)


def test_real_digits() -> None:
    score = probe_score(*load_digits(return_X_y=True))
    assert 0.94 < score.accuracy < 0.99
    assert score.interval == pytest.approx(wilson_interval(score.accuracy * 1797, 1797))


def test_groups_never_straddle_folds() -> None:
    """Each patient has a fingerprint and one label: only leaks can be right."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 5)
    labels = rng.permutation(np.arange(60) % 2)[patients]
    features = 5 * rng.normal(size=(60, 40))[patients] + 0.01 * rng.normal(size=(300, 40))
    assert probe_score(features, labels).accuracy > 0.85
    assert probe_score(features, labels, groups=patients).accuracy < 0.7


def test_rare_classes_make_fewer_folds() -> None:
    features, labels = gaussians(60, apart=3)
    labels = np.where(np.arange(60) < 3, 2, labels)
    assert probe_score(features, labels).accuracy > 0.7  # of three folds
    with pytest.raises(DataError, match="at least two images of each"):
        probe_score(features, np.where(np.arange(60) < 1, 2, labels % 2))
    with pytest.raises(DataError, match="at least two groups of each"):
        probe_score(features, labels, groups=labels)


def test_one_seed_one_answer() -> None:
    features, labels = gaussians(100, apart=1)
    assert probe_score(features, labels, seed=1) == probe_score(features, labels, seed=1)


def test_curve_rises_towards_the_best_rule() -> None:
    curve = probe_curve(*gaussians(1600, apart=2, d=60))
    assert curve.sizes.tolist() == [75, 150, 300, 600, 1200]
    assert curve.accuracies.shape == (5, 5)
    assert curve.means[0] + 0.02 < curve.means[-1] < 0.87
    assert curve.gain_per_doubling == pytest.approx(curve.means[-1] - curve.means[-2])
    assert "images  accuracy" in str(curve)
    assert json.loads(json.dumps(curve.to_dict()))["held_out"] == 400


def test_curve_of_an_easy_task_is_flat() -> None:
    curve = probe_curve(*gaussians(800, apart=8))
    assert curve.gain_per_doubling == pytest.approx(0, abs=0.005)


def test_copies_in_a_group_change_neither_the_score_nor_its_interval() -> None:
    features, labels = gaussians(300, apart=1.5)
    once = probe_score(features, labels, groups=np.arange(300))
    copied = np.repeat(np.arange(300), 6)
    often = probe_score(features[copied], labels[copied], groups=copied)
    assert often.accuracy == pytest.approx(once.accuracy, abs=0.03)
    width = [score.interval[1] - score.interval[0] for score in (once, often)]
    assert width[1] == pytest.approx(width[0], rel=0.2)


def test_a_curve_never_holds_out_images_of_groups_that_it_learns() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(80), 5)
    labels = rng.permutation(np.arange(80) % 2)[patients]
    features = 5 * rng.normal(size=(80, 40))[patients] + 0.01 * rng.normal(size=(400, 40))
    assert probe_curve(features, labels).means[-1] > 0.75
    curve = probe_curve(features, labels, groups=patients, repeats=10)
    assert curve.means[-1] == pytest.approx(0.5, abs=0.1)
    assert curve.held_out == pytest.approx(100, abs=20)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_penalty_is_half_of_it_times_the_squared_weights(classes: int) -> None:
    """The documented objective, minimised by scikit-learn; two classes share one vector there."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % classes
    features = 3 * rng.normal(size=(300, 6)) + rng.normal(size=(classes, 6))[labels]
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    # C times the summed loss plus half the squared weights: C = 1 / (penalty N)
    direct = LogisticRegression(C=1 / (PENALTY * 300), tol=1e-10, max_iter=10_000)
    direct.fit(scaled, labels)
    logits = _fit(features, labels, classes).scores(features)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, direct.predict_proba(scaled), atol=1e-4)


@pytest.mark.parametrize("patients", [20, 40])
def test_the_interval_by_group_covers(patients: int) -> None:
    """Truth: the mean accuracy of many data sets of that size; errors cluster by patient."""
    accuracies, covered = [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(patients), 6)
        labels = groups % 2
        features = rng.normal(size=(patients, 3))[groups] + 0.7 * rng.normal(size=(len(groups), 3))
        features[:, 0] += 2 * labels
        score = probe_score(features, labels, groups=groups, seed=seed)
        accuracies.append(score.accuracy)
        covered.append(score.interval)
    truth = float(np.mean(accuracies))
    assert np.mean([low <= truth <= high for low, high in covered]) > 0.88


def test_refusals() -> None:
    features, labels = gaussians(40, apart=1)
    with pytest.raises(DataError, match="about 22 images or more, got 12"):
        probe_curve(features[:12], labels[:12])
    with pytest.raises(DataError, match="Expected groups of shape"):
        probe_score(features, labels, groups=[1, 2])
