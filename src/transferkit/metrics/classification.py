"""Scores of predicted classes and of probabilities. Labels (N,) in [0, K) have been checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from transferkit._format import PlainResult
from transferkit._typing import BoolArray, Float64Array, Int64Array
from transferkit.metrics.intervals import wilson_interval


@dataclass(frozen=True, slots=True)
class ClassScores(PlainResult):
    """Precision, recall and F1 of one class.

    Attributes:
        name: The class's name.
        precision: Share of the images predicted as this class that belong to it; NaN if there are
            none.
        recall: Share of the class's images that are predicted as it; NaN if it has none.
        recall_interval: Wilson interval of the recall, 95 %.
        f1: Harmonic mean of the two, ``2 TP / (2 TP + FP + FN)``; NaN if all three are zero.
        support: Images of the class.
    """

    name: str
    precision: float
    recall: float
    recall_interval: tuple[float, float]
    f1: float
    support: int


def class_scores(
    labels: Int64Array, predicted: Int64Array, classes: Sequence[str]
) -> tuple[ClassScores, ...]:
    """Precision, recall and F1 of each class."""
    columns = precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=np.nan
    )
    hits = np.bincount(labels[labels == predicted], minlength=len(classes)).tolist()
    return tuple(
        ClassScores(name, precision, recall, wilson_interval(hit, support), f1, support)
        for name, hit, precision, recall, f1, support in zip(
            classes, hits, *(column.tolist() for column in columns), strict=True
        )
    )


def auroc(labels: Int64Array, probabilities: Float64Array) -> float:
    """Area under the ROC curve, ties counting one half."""
    return _one_against_rest(roc_auc_score, labels, probabilities)


def average_precision(labels: Int64Array, probabilities: Float64Array) -> float:
    """Average precision: ``sum_t (R_t - R_{t-1}) P_t`` over falling thresholds t."""
    return _one_against_rest(average_precision_score, labels, probabilities)


def _one_against_rest(
    score: Callable[[BoolArray, Float64Array], float],
    labels: Int64Array,
    probabilities: Float64Array,
) -> float:
    """Score of the second of two classes, else the mean over classes; NaN if only one occurs."""
    num_classes = probabilities.shape[1]
    scores = [
        float(score(labels == k, probabilities[:, k]))
        for k in ([1] if num_classes == 2 else range(num_classes))
        if 0 < np.sum(labels == k) < len(labels)
    ]
    return float(np.mean(scores)) if scores else float("nan")


def log_loss(labels: Int64Array, probabilities: Float64Array) -> float:
    """Mean negative log likelihood of the true class, in nats."""
    # Clipped, so that one certain error costs 36 nats instead of infinity. scikit-learn's log_loss
    # warns where half precision does not sum to one.
    own = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(own, np.finfo(np.float64).eps, 1)).mean())


def brier(labels: Int64Array, probabilities: Float64Array) -> float:
    """Mean squared error of the probabilities (Brier 1950): two classes in [0, 1], else [0, 2]."""
    errors = probabilities - np.eye(probabilities.shape[1])[labels]
    scale = 0.5 if probabilities.shape[1] == 2 else 1.0
    return float(scale * np.square(errors).sum(axis=1).mean())


@dataclass(frozen=True, slots=True, eq=False)
class ReliabilityCurve:
    """Mean confidence against accuracy in B bins of equal width; NaN in an empty bin."""

    edges: Float64Array  # (B + 1,): bin b holds confidences in (edges[b], edges[b + 1]]
    counts: Int64Array  # (B,) images
    confidence: Float64Array  # (B,)
    accuracy: Float64Array  # (B,)

    @property
    def error(self) -> float:
        """Expected calibration error: ``sum_b counts_b / N |accuracy_b - confidence_b|``."""
        filled = self.counts > 0
        gap = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float(np.average(gap, weights=self.counts[filled]))


def reliability_curve(
    labels: Int64Array, probabilities: Float64Array, *, bins: int = 15
) -> ReliabilityCurve:
    """Reliability of the confidence in the predicted class: C. Guo et al., ICML 2017, eq. 1-3."""
    confidence = np.clip(probabilities.max(axis=1), 0, 1)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins).astype(np.int64)
    filled = np.where(counts > 0, counts, np.nan)
    means = (np.bincount(place, values, bins) / filled for values in (confidence, right))
    return ReliabilityCurve(edges, counts, *means)
