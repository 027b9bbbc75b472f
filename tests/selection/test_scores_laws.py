"""What every score must do: find the planted truth, and refuse what is bad."""

from __future__ import annotations

import time

import numpy as np
import pytest

from transferkit.selection.probe import probe_score
from transferkit.selection.scores import h_score, knn_accuracy, logme


def probe_accuracy(features, labels) -> float:
    return probe_score(features, labels).accuracy


FEATURE_SCORES = {
    "logme": logme,
    "h_score": h_score,
    "knn": knn_accuracy,
    "probe": probe_accuracy,
}


def features_of(quality: float, *, n: int = 300, d: int = 20, seed: int = 0):
    """Return features whose class means lie ``quality`` apart, and labels of three classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    means = np.linalg.qr(np.random.default_rng(99).normal(size=(d, 3)))[0].T
    return rng.normal(size=(n, d)) + quality * means[labels], labels


@pytest.mark.parametrize("name", FEATURE_SCORES)
def test_features_that_separate_better_score_higher(name: str) -> None:
    values = [FEATURE_SCORES[name](*features_of(quality)) for quality in (0, 1.5, 3, 5)]
    assert values == sorted(values)
    assert values[-1] - values[0] > 0.2


@pytest.mark.parametrize("name", FEATURE_SCORES)
@pytest.mark.parametrize("change", ["order", "rotation", "scale", "class numbers"])
def test_what_does_not_matter_changes_nothing(name: str, change: str) -> None:
    features, labels = features_of(2)
    rng = np.random.default_rng(1)
    before = FEATURE_SCORES[name](features, labels)
    if change == "order":
        order = rng.permutation(len(labels))
        features, labels = features[order], labels[order]
    elif change == "rotation":
        features = features @ np.linalg.qr(rng.normal(size=(20, 20)))[0]
    elif change == "scale":
        features = 1e3 * features
    else:
        labels = np.array([2, 0, 1])[labels]
    tolerance = 0.05 if name == "probe" else 0.004 if name == "knn" else 1e-6
    assert FEATURE_SCORES[name](features, labels) == pytest.approx(before, abs=tolerance)


@pytest.mark.parametrize("name", FEATURE_SCORES)
def test_constant_columns_and_float32_are_fine(name: str) -> None:
    features, labels = features_of(2)
    before = FEATURE_SCORES[name](features, labels)
    dead = np.hstack([features, np.zeros((len(labels), 3))]).astype(np.float32)
    tolerance = 0.15 if name == "h_score" else 0.01  # shrinkage sees the three extra dimensions
    assert FEATURE_SCORES[name](dead, labels) == pytest.approx(before, abs=tolerance)


@pytest.mark.parametrize("name", FEATURE_SCORES)
def test_few_images_and_many_features_are_fine(name: str) -> None:
    features, labels = features_of(3, n=6, d=500)
    assert np.isfinite(FEATURE_SCORES[name](features, labels))


@pytest.mark.slow
@pytest.mark.parametrize("name", FEATURE_SCORES)
def test_cost_grows_linearly_with_the_images(name: str) -> None:
    def seconds(n: int) -> float:
        features, labels = features_of(1, n=n, d=32)
        runs = []
        for _ in range(3):
            start = time.process_time()
            FEATURE_SCORES[name](features, labels)
            runs.append(time.process_time() - start)
        return min(runs)

    assert seconds(16_000) < 2.5 * 4 * seconds(4_000)
