from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

from transferkit.metrics.logistic_regression import PENALTIES, fit_probe, solve_path


def blobs(count=200, width=5, num_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, count)
    centres = rng.normal(size=(num_classes, width))
    features = centres[labels] + rng.normal(size=(count, width)) * 1.5
    return (features * 10.0 ** np.arange(width) + 3).astype(np.float64), labels


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
def test_solutions_are_those_of_scikit_learn(num_classes, penalty):
    features, labels = blobs(num_classes=num_classes)
    (ours,) = solve_path(features, labels, num_classes, penalties=[penalty])
    scaled = (features - features.mean(0)) / features.std(0)
    # scikit-learn's binary model has one weight vector: the difference of two opposite ones
    factor = 2 if num_classes == 2 else 1
    theirs = LogisticRegression(C=factor / (penalty * len(labels)), tol=1e-10, max_iter=10_000)
    theirs.fit(scaled, labels)
    logits = features @ ours.weight.T + ours.bias
    odds = np.exp(logits - logits.max(1, keepdims=True))
    expected = theirs.predict_proba(scaled)
    np.testing.assert_allclose(odds / odds.sum(1, keepdims=True), expected, atol=2e-5)


def test_the_gradient_is_zero_at_the_solution_also_weighted_and_smoothed():
    features, labels = blobs()
    weights = np.array([1.0, 2.0, 0.5])
    (found,) = solve_path(
        features, labels, 3, penalties=[1e-2], class_weights=weights, label_smoothing=0.1
    )
    spread = torch.tensor(features.std(0))
    scaled = (torch.tensor(features) - torch.tensor(features.mean(0))) / spread
    weight = (torch.tensor(found.weight) * spread).requires_grad_()
    bias = torch.tensor(found.bias + found.weight @ features.mean(0)).requires_grad_()
    losses = cross_entropy(
        scaled @ weight.T + bias, torch.tensor(labels), label_smoothing=0.1, reduction="none"
    )
    loss = (losses * torch.tensor(weights[labels])).sum() / weights[labels].sum()
    (loss + 1e-2 / 2 * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-5
    assert bias.grad.abs().max() < 1e-5


def test_a_path_is_solved_point_by_point():
    features, labels = blobs()
    path = list(solve_path(features, labels, 3))
    assert [s.penalty for s in path] == list(PENALTIES) == sorted(PENALTIES, reverse=True)
    norms = [np.linalg.norm(s.weight * features.std(0)) for s in path]
    assert norms == sorted(norms)
    (alone,) = solve_path(features, labels, 3, penalties=[PENALTIES[4]])
    np.testing.assert_allclose(path[4].weight, alone.weight, rtol=1e-3, atol=1e-6)


def test_constant_features_do_no_harm():
    features, labels = blobs()
    features[:, 2] = 7.0
    (found,) = solve_path(features, labels, 3, penalties=[1e-3])
    assert np.isfinite(found.weight).all()
    assert np.abs(found.weight[:, 2]).max() == 0


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_probe_is_the_optimum_of_scikit_learn(num_classes, dtype):
    features, labels = blobs(num_classes=num_classes)
    probe = fit_probe(features.astype(dtype), labels, num_classes=num_classes, strength=0.1)
    scaled = (features - features.mean(0)) / features.std(0)
    theirs = LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000).fit(scaled, labels)
    expected = theirs.predict_proba(scaled)
    np.testing.assert_allclose(softmax(probe.scores(features), axis=1), expected, atol=3e-4)


def test_a_probe_never_predicts_a_class_that_it_has_not_seen():
    features, labels = blobs()
    probe = fit_probe(features, labels + 1, num_classes=5)
    assert np.isneginf(probe.scores(features)[:, [0, 4]]).all()
    assert set(probe.predict(features).tolist()) <= {1, 2, 3}
