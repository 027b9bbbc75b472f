"""Every score against its paper's formula, computed another way, in plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import KNeighborsClassifier

from transferkit.errors import DataError
from transferkit.selection.scores import h_score, knn_accuracy, logme


def task(n: int, d: int, k: int, *, seed: int = 0, apart: float = 0.7, scale: float = 1.0):
    """Return ReLU-like features around class means, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    features = rng.normal(size=(n, d)) + apart * rng.normal(size=(k, d))[labels]
    return scale * np.maximum(features, -0.5), labels


def largest_evidence(features, target) -> float:
    """Maximise log p(y) = log N(y; 0, I/beta + FF'/alpha) over alpha and beta, by brute force.

    The weights are integrated out here, so no formula of the paper's derivation is shared.
    """
    n = len(target)
    kernel = features @ features.T

    def loss(logs) -> float:
        noise, prior = np.exp(-logs[1]), np.exp(-logs[0])
        covariance = noise * np.eye(n) + prior * kernel
        return -multivariate_normal.logpdf(target, np.zeros(n), covariance, allow_singular=True)

    size = math.log(np.trace(kernel) / n)
    starts = [(a + size, b) for a in (-4, 0, 4, 8) for b in (0, 2, 4)]
    return max(-minimize(loss, start, method="Nelder-Mead").fun for start in starts)


@pytest.mark.parametrize(
    ("n", "d", "k", "scale"),
    [(40, 5, 2, 1.0), (30, 12, 3, 100.0), (25, 60, 2, 0.01), (30, 30, 4, 1.0)],
)
def test_logme_is_the_largest_evidence(n: int, d: int, k: int, scale: float) -> None:
    features, labels = task(n, d, k, scale=scale)
    direct = [largest_evidence(features, (labels == c).astype(float)) for c in range(k)]
    assert logme(features, labels) == pytest.approx(sum(direct) / k / n, abs=1e-5)


def test_logme_of_features_without_any_signal() -> None:
    """Orthogonal to the labels: the best prior puts all weights at zero, and noise explains y."""
    labels = np.array([0, 0, 1, 1] * 5)
    features = np.array([[1.0], [-1.0], [1.0], [-1.0]] * 5)
    plain = -0.5 * (math.log(2 * math.pi * 0.5) + 1)
    assert logme(features, labels) == pytest.approx(plain, abs=1e-6)


def test_logme_of_labels_fitted_without_error_is_bounded() -> None:
    labels = np.arange(60) % 3
    assert 5 < logme(np.eye(3)[labels], labels) < 13


def h_score_by_loops(features, labels, covariance, share: float) -> float:
    mean, between = features.mean(axis=0), 0
    for row_label in labels:
        gap = features[labels == row_label].mean(axis=0) - mean
        between = between + np.outer(gap, gap) / len(labels)
    return float((1 - share) * np.trace(np.linalg.inv(covariance) @ between))


@pytest.mark.parametrize(("n", "d", "k"), [(60, 4, 2), (50, 80, 5)])
def test_h_score_equals_its_definition(n: int, d: int, k: int) -> None:
    features, labels = task(n, d, k)
    fit = LedoitWolf().fit(features)
    expected = h_score_by_loops(features, labels, fit.covariance_, fit.shrinkage_)
    assert h_score(features, labels) == pytest.approx(expected)


def test_h_score_of_wide_features_without_signal_is_low() -> None:
    features, labels = task(30, 100, 4, apart=0)
    assert h_score(features, labels) < 0.5


@pytest.mark.parametrize("neighbours", [1, 3])
def test_knn_equals_leave_one_out_with_scikit_learn(neighbours: int) -> None:
    features, labels = task(80, 6, 2)  # two classes and odd k: no tied votes
    right = 0
    for i in range(80):
        kept = np.arange(80) != i
        model = KNeighborsClassifier(neighbours, metric="cosine")
        right += (
            model.fit(features[kept], labels[kept]).predict(features[i : i + 1])[0] == labels[i]
        )
    assert knn_accuracy(features, labels, neighbours=neighbours) == right / 80


def test_knn_gives_tied_votes_to_the_nearer() -> None:
    angles = np.radians([0.0, 10.0, 25.0, 90.0])
    features = np.column_stack([np.cos(angles), np.sin(angles)])
    labels = np.array([0, 0, 1, 1])
    assert knn_accuracy(features, labels, neighbours=2) == 0.75


def test_knn_does_not_ask_images_of_the_same_group() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    labels = rng.integers(0, 2, 40)[groups]
    features = rng.normal(size=(40, 8))[groups] + 0.01 * rng.normal(size=(200, 8))
    assert knn_accuracy(features, labels) == 1
    assert knn_accuracy(features, labels, groups=groups) < 0.7
    with pytest.raises(DataError, match="at least two groups"):
        knn_accuracy(features, labels, groups=0 * groups)


def test_knn_on_a_sample_of_queries_is_close() -> None:
    features, labels = task(1500, 8, 3)
    full = knn_accuracy(features, labels)
    assert knn_accuracy(features, labels, max_queries=700) == pytest.approx(full, abs=0.06)
