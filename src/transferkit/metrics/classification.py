"""Metrics of predicted classes: all of them read off the confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from transferkit._format import percent, plain, table
from transferkit._typing import JSON, BoolArray, Float64Array, Int64Array
from transferkit._validation import (
    check_classes,
    check_labels,
    check_probabilities,
    check_same_length,
    check_scores,
)
from transferkit.errors import ConfigError, DataError
from transferkit.metrics.intervals import wilson_interval


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Precision, recall and F1 of one class.

    Attributes:
        name: The class's name.
        precision: Share of the images given this class that belong to it; NaN if none was given.
        recall: Share of the class's images that were found; NaN if it has none.
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

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        return {key: plain(value) for key, value in asdict(self).items()}


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, num_classes: int) -> Int64Array:
    """Count images by true and predicted class.

    Args:
        labels: True classes ``(N,)``, in ``[0, num_classes)``.
        predicted: Predicted classes ``(N,)``, likewise.
        num_classes: K.

    Returns:
        Counts ``(K, K)``; rows are the truth, columns the prediction.

    Raises:
        DataError: Lengths differ, or a class lies outside the range.
    """
    truth = check_labels(labels, num_classes=num_classes)
    guess = check_labels(predicted, num_classes=num_classes)
    check_same_length(labels=truth, predicted=guess)
    flat = np.bincount(truth * num_classes + guess, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes).astype(np.int64)


def accuracy(labels: ArrayLike, predicted: ArrayLike) -> float:
    """Share of images whose predicted class is the true one.

    Raises:
        DataError: Lengths differ, or not class indices.
    """
    truth, guess = check_labels(labels), check_labels(predicted)
    check_same_length(labels=truth, predicted=guess)
    return float(np.mean(truth == guess))


def balanced_accuracy(labels: ArrayLike, predicted: ArrayLike) -> float:
    """Mean recall over the classes that have images: 1/K by chance, whatever the balance.

    Raises:
        DataError: Lengths differ, or not class indices.
    """
    truth, guess = check_labels(labels), check_labels(predicted)
    num_classes = int(max(truth.max(), guess.max())) + 1
    return balanced_accuracy_of(confusion_matrix(truth, guess, num_classes))


def balanced_accuracy_of(confusion: Int64Array) -> float:
    """Balanced accuracy of a confusion matrix ``(K, K)``; NaN if it is empty."""
    recall = ratio(np.diag(confusion), confusion.sum(axis=1))
    present = recall[~np.isnan(recall)]
    return float(present.mean()) if len(present) else float("nan")


def per_class_scores(
    confusion: Int64Array, *, classes: Sequence[str] | None = None
) -> tuple[ClassScores, ...]:
    """Precision, recall and F1 of each class.

    Args:
        confusion: Counts ``(K, K)``, rows the truth.
        classes: K names; ``"0"``, ``"1"``, ... by default.

    Raises:
        DataError: The matrix is not square, or the names do not fit.
    """
    matrix = np.asarray(confusion)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"A confusion matrix is square (K, K); shape {matrix.shape} came.")
    names = check_classes(classes, len(matrix))
    hits, support, given = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    precision, recall = ratio(hits, given), ratio(hits, support)
    f1 = ratio(2 * hits, support + given)
    return tuple(
        ClassScores(
            name=name,
            precision=float(precision[k]),
            recall=float(recall[k]),
            recall_interval=wilson_interval(int(hits[k]), int(support[k])),
            f1=float(f1[k]),
            support=int(support[k]),
        )
        for k, name in enumerate(names)
    )


def ratio(part: Int64Array, whole: Int64Array) -> Float64Array:
    """Divide counts, with NaN where the whole is zero."""
    shares = np.full(len(part), np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


@dataclass(frozen=True, slots=True, eq=False)
class ReliabilityCurve:
    """Confidence against accuracy in B bins of equal width.

    Attributes:
        edges: ``(B + 1,)`` from 0 to 1; bin b holds confidences in ``(edges[b], edges[b + 1]]``.
        counts: ``(B,)`` images.
        confidence: ``(B,)`` mean confidence; NaN in an empty bin.
        accuracy: ``(B,)`` share that is right; NaN in an empty bin.
    """

    edges: Float64Array
    counts: Int64Array
    confidence: Float64Array
    accuracy: Float64Array

    @property
    def error(self) -> float:
        """Expected calibration error: ``sum_b counts_b / N |accuracy_b - confidence_b|``."""
        filled = self.counts > 0
        gap = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float(np.average(gap, weights=self.counts[filled]))

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        return {name: plain(getattr(self, name)) for name in self.__slots__}

    def __str__(self) -> str:
        rows = [
            [
                f"{percent(low, digits=0)} to {percent(high, digits=0)}",
                str(n),
                percent(c),
                percent(a),
            ]
            for low, high, n, c, a in zip(
                self.edges,
                self.edges[1:],
                self.counts,
                self.confidence,
                self.accuracy,
                strict=False,
            )
            if n
        ]
        return table(["bin", "images", "confidence", "accuracy"], rows)


def reliability_curve(
    labels: ArrayLike, probabilities: ArrayLike, *, bins: int = 15
) -> ReliabilityCurve:
    """Compare the confidence in the predicted class with the share that is right.

    Source: C. Guo et al., "On calibration of modern neural networks", ICML 2017, equations 1
    and 2, with B bins of equal width over [0, 1].

    Args:
        labels: True classes ``(N,)``.
        probabilities: ``(N, K)``.
        bins: B.

    Raises:
        DataError: Arrays that do not fit each other.
        ConfigError: Fewer than one bin.
    """
    if bins < 1:
        raise ConfigError(f"bins must be at least 1; {bins} came.")
    values = check_probabilities(probabilities)
    truth = check_labels(labels, num_classes=values.shape[1])
    check_same_length(labels=truth, probabilities=values)
    confidence = np.clip(values.max(axis=1), 0, 1)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins).astype(np.int64)
    right = (values.argmax(axis=1) == truth).astype(np.float64)
    return ReliabilityCurve(
        edges=edges,
        counts=counts,
        confidence=_mean_by(place, confidence, counts),
        accuracy=_mean_by(place, right, counts),
    )


def expected_calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, *, bins: int = 15
) -> float:
    """Mean distance between confidence and accuracy over equal-width bins (Guo et al. 2017, eq. 3).

    Args:
        labels: True classes ``(N,)``.
        probabilities: ``(N, K)``.
        bins: Number of bins over [0, 1].

    Returns:
        A share in [0, 1]; 0 is perfectly calibrated.

    Raises:
        DataError: Arrays that do not fit each other.
        ConfigError: Fewer than one bin.
    """
    return reliability_curve(labels, probabilities, bins=bins).error


def _mean_by(place: Int64Array, values: Float64Array, counts: Int64Array) -> Float64Array:
    sums = np.bincount(place, weights=values, minlength=len(counts))
    means = np.full(len(counts), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


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
