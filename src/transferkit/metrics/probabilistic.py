"""Metrics of probabilities and scores: ranking (AUROC, AP) and fit (log loss, Brier).

With two classes, class 1 is the positive one. With more, rankings are one class against the
rest, averaged over the classes that can be ranked (those with images both in and out of them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from transferkit._typing import JSON, BoolArray, Float64Array, Int64Array
from transferkit.errors import DataError
from transferkit.metrics._checks import (
    check_labels,
    check_probabilities,
    check_same_length,
    check_scores,
)
from transferkit.metrics._json import plain


@dataclass(frozen=True, slots=True, eq=False)
class RocCurve:
    """A receiver operating characteristic, from (0, 0) to (1, 1).

    Attributes:
        false_positive_rate: ``(T,)``, rising.
        true_positive_rate: ``(T,)``, rising.
        thresholds: ``(T,)``, falling: scores at or above it count as positive. The first is
            infinite.
    """

    false_positive_rate: Float64Array
    true_positive_rate: Float64Array
    thresholds: Float64Array

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        return {name: plain(getattr(self, name)) for name in self.__slots__}


def auroc(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive image outranks a negative one.

    Args:
        labels: True classes ``(N,)``.
        probabilities: ``(N, K)``, or scores ``(N,)`` of class 1 against class 0.

    Returns:
        The area, ties counting one half; with K > 2 the macro mean over one class against the
        rest. NaN where only one class has images.

    Raises:
        DataError: Arrays that no ranking can be made of.
    """
    return _macro(labels, probabilities, roc_auc_score)


def average_precision(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean precision over the recall steps of a ranking: the area under precision and recall.

    Args:
        labels: True classes ``(N,)``.
        probabilities: ``(N, K)``, or scores ``(N,)`` of class 1 against class 0.

    Returns:
        ``sum_t (R_t - R_{t-1}) P_t`` over falling thresholds t; with K > 2 the macro mean over
        one class against the rest. NaN where only one class has images.

    Raises:
        DataError: Arrays that no ranking can be made of.
    """
    return _macro(labels, probabilities, average_precision_score)


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """ROC curve of scores of a positive class.

    Args:
        labels: ``(N,)``: 1 for positive, 0 for negative.
        scores: ``(N,)``, higher for positive.

    Raises:
        DataError: Arrays that do not fit, or only one class with images.
    """
    truth, values = check_labels(labels, num_classes=2), check_scores(scores)
    check_same_length(labels=truth, scores=values)
    if truth.min() == truth.max():
        raise DataError(f"A ROC curve needs both classes; all {len(truth)} images are {truth[0]}.")
    return RocCurve(*sklearn_roc_curve(truth, values))


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean negative log likelihood of the true class, in nats.

    Probabilities are clipped at float64's epsilon, so that one certain error costs 36 nats
    instead of infinity.

    Raises:
        DataError: Arrays that do not fit each other.
    """
    truth, values = _pair(labels, probabilities)
    own = values[np.arange(len(truth)), truth]
    return float(-np.log(np.clip(own, np.finfo(np.float64).eps, 1)).mean())


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean squared error of the probabilities (Brier 1950).

    Returns:
        With two classes ``mean (p_1 - y)^2``, in [0, 1]; with more
        ``mean sum_k (p_k - [y = k])^2``, in [0, 2], as scikit-learn has it.

    Raises:
        DataError: Arrays that do not fit each other.
    """
    truth, values = _pair(labels, probabilities)
    errors = values - np.eye(values.shape[1])[truth]
    scale = 0.5 if values.shape[1] == 2 else 1.0
    return float(scale * np.square(errors).sum(axis=1).mean())


def _pair(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Int64Array, Float64Array]:
    values = check_probabilities(probabilities)
    truth = check_labels(labels, num_classes=values.shape[1])
    check_same_length(labels=truth, probabilities=values)
    return truth, values


def _macro(
    labels: ArrayLike,
    probabilities: ArrayLike,
    score: Callable[[BoolArray, Float64Array], float],
) -> float:
    """Average ``score(is positive, score)`` over the rankings that have both sides."""
    if np.ndim(probabilities) == 1:
        values = check_scores(probabilities)[:, None]
        truth = check_labels(labels, num_classes=2) - 1  # column 0 ranks class 1
        check_same_length(labels=truth, scores=values)
    else:
        truth, values = _pair(labels, probabilities)
        if values.shape[1] == 2:
            truth, values = truth - 1, values[:, 1:]
    present = [k for k in range(values.shape[1]) if 0 < np.sum(truth == k) < len(truth)]
    scores = [float(score(truth == k, values[:, k])) for k in present]
    return float(np.mean(scores)) if scores else float("nan")
