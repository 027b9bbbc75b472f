"""Metrics of predicted classes: all of them read off the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from transferkit._typing import JSON, Float64Array, Int64Array
from transferkit.errors import DataError
from transferkit.metrics._checks import check_classes, check_labels, check_same_length
from transferkit.metrics._json import plain
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
