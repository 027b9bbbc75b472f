"""What every score must do: find the planted truth, and refuse what is bad."""

from __future__ import annotations

import time

import numpy as np
import pytest

from transferkit.errors import DataError
from transferkit.selection.probe import probe_score
from transferkit.selection.scores import h_score, knn_accuracy, leep, logme


def probe_accuracy(features, labels) -> float:
    return probe_score(features, labels).accuracy


FEATURE_SCORES = {
    "logme": logme,
    "h_score": h_score,
    "knn": knn_accuracy,
    "probe": probe_accuracy,
}
SOURCE_SCORES = {"leep": leep}


def features_of(quality: float, *, n: int = 300, d: int = 20, seed: int = 0):
    """Return features whose class means lie ``quality`` apart, and labels of three classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    means = np.linalg.qr(np.random.default_rng(99).normal(size=(d, 3)))[0].T
    return rng.normal(size=(n, d)) + quality * means[labels], labels


def sources_of(quality: float, *, n: int = 400):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    raw = rng.exponential(size=(n, 8)) + quality * np.eye(8)[labels]
    return raw / raw.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("name", FEATURE_SCORES)
def test_features_that_separate_better_score_higher(name: str) -> None:
    values = [FEATURE_SCORES[name](*features_of(quality)) for quality in (0, 1.5, 3, 5)]
    assert values == sorted(values)
    assert values[-1] - values[0] > 0.2


@pytest.mark.parametrize("name", SOURCE_SCORES)
def test_sources_that_tell_more_score_higher(name: str) -> None:
    values = [SOURCE_SCORES[name](*sources_of(quality)) for quality in (0, 0.5, 1, 2, 4)]
    assert values == sorted(values)
    assert values[-1] <= 0


@pytest.mark.parametrize("name", FEATURE_SCORES)
@pytest.mark.parametrize("change", ["order", "rotation", "scale", "class numbers", "empty class"])
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
    elif change == "class numbers":
        labels = np.array([2, 0, 1])[labels]
    else:
        labels = 5 * labels
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


BAD_FEATURES = {
    "nan": (
        np.array([[0.0, 1.0], [np.nan, 2.0], [1.0, 1.0]]),
        [0, 1, 0],
        r"got nan in row 1, column 0",
    ),
    "infinite": (np.array([[0.0, np.inf], [1.0, 2.0]]), [0, 1], r"got inf in row 0, column 1"),
    "constant": (np.ones((4, 3)), [0, 1, 0, 1], "All 4 rows of features are equal"),
    "one class": (np.arange(6.0).reshape(3, 2), [1, 1, 1], "got only class 1"),
    "one image": (np.ones((1, 2)), [0], "at least two rows"),
    "flat": (np.arange(4.0), [0, 1, 0, 1], r"must have shape \(N, D\)"),
    "lengths": (np.arange(6.0).reshape(3, 2), [0, 1], "features has 3, labels has 2"),
    "float labels": (np.arange(4.0).reshape(2, 2), [0.5, 1.0], "must be integers"),
}


@pytest.mark.parametrize("name", FEATURE_SCORES)
@pytest.mark.parametrize(
    ("features", "labels", "message"), BAD_FEATURES.values(), ids=BAD_FEATURES.keys()
)
def test_bad_features_are_refused(name: str, features, labels, message: str) -> None:
    with pytest.raises(DataError, match=message):
        FEATURE_SCORES[name](features, labels)


@pytest.mark.parametrize("name", SOURCE_SCORES)
def test_bad_sources_are_refused(name: str) -> None:
    theta, labels = sources_of(1)
    with pytest.raises(DataError, match="must sum to 1"):
        SOURCE_SCORES[name](theta / 2, labels)
    with pytest.raises(DataError, match="got only class 0"):
        SOURCE_SCORES[name](theta, 0 * labels)
    with pytest.raises(DataError, match="source_probabilities has 400, labels has 3"):
        SOURCE_SCORES[name](theta, labels[:3])


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
