"""Scores of predicted classes and of probabilities. Labels (N,) in [0, K) have been checked.

Intervals count whole groups (their codes, (N,)) where there are groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import (
    average_precision_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from transferkit._format import PlainResult
from transferkit._typing import BoolArray, Float64Array, Int64Array
from transferkit.metrics.intervals import (
    clustered_variance,
    effective_groups,
    score_size,
    share_interval,
    wilson_interval,
)


@dataclass(frozen=True, slots=True)
class ClassScores(PlainResult):
    """Precision, recall and F1 of one class.

    Attributes:
        name: The class's name.
        precision: Share of the images predicted as this class that belong to it; NaN if there are
            none.
        recall: Share of the class's images that are predicted as it, also called sensitivity; NaN
            if it has none.
        recall_interval: Its 95 % interval.
        specificity: Share of the other images that are not predicted as it; NaN if there are none.
        specificity_interval: Its 95 % interval.
        f1: Harmonic mean of the two, ``2 TP / (2 TP + FP + FN)``; NaN if all three are zero.
        support: Images of the class.
    """

    name: str
    precision: float
    recall: float
    recall_interval: tuple[float, float]
    specificity: float
    specificity_interval: tuple[float, float]
    f1: float
    support: int


def class_scores(
    labels: Int64Array,
    predicted: Int64Array,
    classes: Sequence[str],
    groups: Int64Array | None = None,
) -> tuple[ClassScores, ...]:
    """Precision, recall, specificity and F1 of each class."""
    columns = precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=np.nan
    )
    found = []
    for k, (precision, recall, f1, support) in enumerate(np.column_stack(columns).tolist()):
        own, hit = labels == k, ((labels == k) == (predicted == k)).astype(np.float64)
        rest = float(hit[~own].mean()) if not own.all() else float("nan")
        ends = [
            share_interval(hit[rows], None if groups is None else groups[rows])
            for rows in (own, ~own)
        ]
        found.append(
            ClassScores(classes[k], precision, recall, ends[0], rest, ends[1], f1, int(support))
        )
    return tuple(found)


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
    scored = _scored_classes(labels, probabilities.shape[1])
    scores = [float(score(labels == k, probabilities[:, k])) for k in scored]
    return float(np.mean(scores)) if scores else float("nan")


def _scored_classes(labels: Int64Array, num_classes: int) -> list[int]:
    every = [1] if num_classes == 2 else range(num_classes)
    return [k for k in every if 0 < np.sum(labels == k) < len(labels)]


def ranking_interval(
    score: float,
    influences: Callable[[BoolArray, Float64Array], Float64Array],
    labels: Int64Array,
    probabilities: Float64Array,
    groups: Int64Array | None = None,
) -> tuple[float, float]:
    """95 % interval of :func:`auroc` or :func:`average_precision`, from their influences."""
    scored = _scored_classes(labels, probabilities.shape[1])
    if not scored:
        return float("nan"), float("nan")
    n, counts, codes = len(labels), np.bincount(labels), groups
    if codes is None:
        codes = np.arange(n)
    total, uncertain = np.zeros(n), 0.0
    for k in scored:
        own = labels == k
        total += influences(own, probabilities[:, k])
        # Of the two sides the one of fewer groups limits the size; a mean over classes, all.
        uncertain += 1 / min(effective_groups(codes[own]), effective_groups(codes[~own]))
    variance = clustered_variance(total / len(scored), 1 / counts[labels], groups)
    units = len(scored) ** 2 / uncertain
    size = score_size(variance, score * (1 - score), score, units)
    return wilson_interval(score * size, size)


def auroc_influences(own: BoolArray, scores: Float64Array) -> Float64Array:
    """What each image adds to the error of the area under the ROC curve (N,).

    E. DeLong, D. DeLong and D. Clarke-Pearson, Biometrics 44 (1988), by ranks: X. Sun and W. Xu,
    IEEE Signal Processing Letters 21 (2014); summed by group, N. Obuchowski, Biometrics 53 (1997).
    """
    ranks, won = rankdata(scores), np.empty(len(scores))  # won: share of the other side beaten
    for side, sign in ((own, 1), (~own, -1)):
        beaten = (ranks[side] - rankdata(scores[side])) / np.sum(~side)
        won[side] = beaten if sign > 0 else 1 - beaten
    return np.asarray((won - won[own].mean()) / np.where(own, own.sum(), np.sum(~own)))


def precision_influences(own: BoolArray, scores: Float64Array) -> Float64Array:
    """What each image adds to the error of the average precision (N,): its derivative by weight."""
    # With A positives and B negatives at or above a threshold, the precision is A / (A + B). One
    # more positive of score x is one more in the mean, and raises the precision at all thresholds
    # up to x by B / (A + B)^2; one more negative lowers it there by A / (A + B)^2.
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # ties share a threshold
    above, below = (np.cumsum(side[order])[ends].astype(np.float64) for side in (own, ~own))
    new, total = np.diff(above, prepend=0.0), above + below
    precision, count = above / total, float(own.sum())
    gains, losses = (
        np.cumsum((new * part / total**2)[::-1])[::-1] / count for part in (below, above)
    )
    place = np.searchsorted(ends, np.argsort(order, kind="stable"))
    mean = float(np.sum(new * precision)) / count
    raised = (precision[place] - mean) / count + gains[place]
    return np.asarray(np.where(own, raised, -losses[place]), np.float64)


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
