"""Every metric against an independent implementation: its definition as a plain loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk

from transferkit.metrics.classification import reliability_curve
from transferkit.metrics.evaluation import evaluate_probabilities

nan = float("nan")


def auroc_by_pairs(positive, scores) -> float:
    """Return the share of positive-negative pairs in the right order, ties one half."""
    high, low = scores[positive][:, None], scores[~positive][None, :]
    if high.size == 0 or low.size == 0:
        return nan
    return float(((high > low) + 0.5 * (high == low)).mean())


def average_precision_by_steps(positive, scores) -> float:
    """Return the sum of precision times the rise of recall over falling thresholds."""
    if positive.all() or not positive.any():
        return nan
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        taken = scores >= threshold
        recall = (positive & taken).sum() / positive.sum()
        total += (recall - recall_before) * (positive & taken).sum() / taken.sum()
        recall_before = recall
    return total


def macro(score: Callable[[Any, Any], float]) -> Callable[[Any], float]:
    def average(case) -> float:
        ranks = [1] if case.num_classes == 2 else range(case.num_classes)
        values = [score(case.labels == k, case.probabilities[:, k]) for k in ranks]
        defined = [value for value in values if not math.isnan(value)]
        return sum(defined) / len(defined) if defined else nan

    return average


def accuracy_by_loop(case) -> float:
    return sum(a == b for a, b in zip(case.labels, case.predicted, strict=True)) / len(case.labels)


def balanced_accuracy_by_loop(case) -> float:
    recalls = [(case.predicted[case.labels == k] == k).mean() for k in set(case.labels.tolist())]
    return float(sum(recalls) / len(recalls))


def log_loss_by_loop(case) -> float:
    own = [p[k] for p, k in zip(case.probabilities, case.labels, strict=True)]
    return -sum(math.log(min(max(p, 2.0**-52), 1)) for p in own) / len(own)


def brier_by_loop(case) -> float:
    total = 0.0
    for row, label in zip(case.probabilities, case.labels, strict=True):
        total += sum((p - (k == label)) ** 2 for k, p in enumerate(row))
    return total / len(case.labels) / (2 if case.num_classes == 2 else 1)


def calibration_error_by_loop(case) -> float:
    """Return Guo et al. 2017, equation 3, bin by bin."""
    confidence = case.probabilities.max(axis=1)
    edges, error = np.linspace(0, 1, 16), 0.0
    for low, high in pairwise(edges):
        held = (confidence > low) & (confidence <= high)
        if held.any():
            right = (case.predicted == case.labels)[held].mean()
            error += held.mean() * abs(right - confidence[held].mean())
    return float(error)


METRICS: dict[str, Callable[[Any], float]] = {
    "accuracy": accuracy_by_loop,
    "balanced_accuracy": balanced_accuracy_by_loop,
    "auroc": macro(auroc_by_pairs),
    "average_precision": macro(average_precision_by_steps),
    "log_loss": log_loss_by_loop,
    "brier": brier_by_loop,
    "ece": calibration_error_by_loop,
}


def ours(name: str, case) -> float:
    return float(getattr(evaluate_probabilities(case.probabilities, case.labels), name))


@pytest.mark.parametrize("name", METRICS)
def test_metric_equals_its_definition(name: str, case) -> None:
    assert ours(name, case) == pytest.approx(METRICS[name](case), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", METRICS)
def test_metric_ignores_the_order_of_images(name: str, case) -> None:
    order = np.random.default_rng(0).permutation(len(case.labels))
    shuffled = type(case)(case.labels[order], case.probabilities[order])
    assert ours(name, shuffled) == pytest.approx(ours(name, case), abs=1e-12, nan_ok=True)


# ece is left out: its bins jump where a value is rounded
@pytest.mark.parametrize("name", sorted(METRICS.keys() - {"ece"}))
def test_metric_takes_float32(name: str, case) -> None:
    single = type(case)(case.labels.astype(np.int32), case.probabilities.astype(np.float32))
    assert ours(name, single) == pytest.approx(ours(name, case), abs=1e-4, nan_ok=True)


def test_confusion_matrix_and_class_scores_are_those_of_a_loop(case) -> None:
    k, pairs = case.num_classes, list(zip(case.labels, case.predicted, strict=True))
    expected = [[sum(pair == (row, col) for pair in pairs) for col in range(k)] for row in range(k)]
    result = evaluate_probabilities(case.probabilities, case.labels)
    np.testing.assert_array_equal(result.confusion, expected)
    for index, scores in enumerate(result.per_class):
        hit, row, column = (
            expected[index][index],
            sum(expected[index]),
            sum(line[index] for line in expected),
        )
        found = (scores.precision, scores.recall, scores.f1, scores.support)
        by_hand = (
            hit / column if column else nan,
            hit / row if row else nan,
            2 * hit / (row + column) if row + column else nan,
            row,
        )
        assert found == pytest.approx(by_hand, nan_ok=True)


def test_multi_class_auroc_agrees_with_scikit_learn(full_case) -> None:
    expected = sk.roc_auc_score(full_case.labels, full_case.probabilities, multi_class="ovr")
    assert ours("auroc", full_case) == pytest.approx(expected)


def test_reliability_curve_counts_every_image(case) -> None:
    curve = reliability_curve(case.labels, case.probabilities, bins=7)
    assert curve.counts.sum() == len(case.labels)
    filled = curve.counts > 0
    assert np.isnan(curve.accuracy[~filled]).all()
    assert (curve.confidence[filled] > curve.edges[:-1][filled]).all()
    assert (curve.confidence[filled] <= curve.edges[1:][filled] + 1e-12).all()
