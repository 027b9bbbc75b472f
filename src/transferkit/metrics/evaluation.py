"""All the scores of one split, in one frozen result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix

from transferkit._format import (
    PlainResult,
    csv_text,
    percent,
    percent_interval,
    plain_fields,
    table,
)
from transferkit._sampling import shared_groups
from transferkit._typing import JSON, BoolArray, Float64Array, GroupsLike, Int64Array
from transferkit._validation import (
    check_classes,
    check_labels,
    check_probabilities,
    check_same_length,
)
from transferkit.errors import DataError
from transferkit.metrics.classification import (
    ClassScores,
    auroc,
    auroc_influences,
    average_precision,
    brier,
    class_scores,
    log_loss,
    precision_influences,
    ranking_interval,
    reliability_curve,
)
from transferkit.metrics.intervals import share_interval

MANY_CLASSES = 12
"""Beyond this many classes the printed table shows the worst ones only."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """How well probabilities fit the labels of one split.

    Attributes:
        n: Images.
        classes: K class names; with two, the second is the positive class.
        accuracy: Share of images that are right.
        accuracy_interval: Its 95 % interval, like all here by whole groups where data have groups:
            Wilson's, at the number of images that independent ones would have to be.
        balanced_accuracy: Mean recall over the classes that have images.
        auroc: Area under the ROC curve (K > 2: macro, one against the rest); NaN for one class.
        auroc_interval: Its 95 % interval, from DeLong's variance.
        average_precision: Area under precision and recall, likewise.
        average_precision_interval: Its 95 % interval.
        log_loss: Mean negative log likelihood, in nats.
        brier: Mean squared error of the probabilities.
        ece: Expected calibration error over 15 bins.
        per_class: Precision, recall and F1 of each class.
        confusion: Counts ``(K, K)``, rows the truth.
        probabilities: ``(N, K)``, kept for curves; not in ``to_dict()``.
        labels: ``(N,)``, likewise.
        groups: Number of each image's group ``(N,)``, likewise, or None without groups.
    """

    n: int
    classes: tuple[str, ...]
    accuracy: float
    accuracy_interval: tuple[float, float]
    balanced_accuracy: float
    auroc: float
    auroc_interval: tuple[float, float]
    average_precision: float
    average_precision_interval: tuple[float, float]
    log_loss: float
    brier: float
    ece: float
    per_class: tuple[ClassScores, ...]
    confusion: Int64Array
    probabilities: Float64Array = field(repr=False)
    labels: Int64Array = field(repr=False)
    groups: Int64Array | None = field(repr=False, default=None)

    @property
    def predicted(self) -> Int64Array:
        """Predicted classes ``(N,)``."""
        winners: Int64Array = np.argmax(self.probabilities, axis=1)
        return winners

    @property
    def correct(self) -> BoolArray:
        """Whether each image is right ``(N,)``, for paired tests."""
        return np.equal(self.predicted, self.labels)

    def to_dict(self) -> dict[str, JSON]:
        """Return the scores as plain values, ready for JSON; NaN is None."""
        return plain_fields(self, without=("probabilities", "labels", "groups"))

    def __str__(self) -> str:
        blocks = [self._scores_text(), self._classes_text(), self._confusion_text()]
        return "\n\n".join(filter(None, blocks))

    def _scores_text(self) -> str:
        rows = [
            ["accuracy", percent_interval(self.accuracy, self.accuracy_interval)],
            ["balanced accuracy", percent(self.balanced_accuracy)],
            ["AUROC", _area(self.auroc, self.auroc_interval)],
            ["average precision", _area(self.average_precision, self.average_precision_interval)],
            ["log loss", f"{self.log_loss:.4f}"],
            ["Brier score", f"{self.brier:.4f}"],
            ["calibration error", percent(self.ece)],
        ]
        title = f"{self.n} images"
        if self.groups is not None:
            title += f" of {len(np.unique(self.groups))} groups"
        return table([title, f"{len(self.classes)} classes"], rows, left=2)

    def _classes_text(self) -> str:
        shown = self.per_class
        if len(shown) > MANY_CLASSES:
            present = [scores for scores in shown if scores.support]
            shown = tuple(sorted(present, key=lambda scores: scores.recall)[:MANY_CLASSES])
        rows = [
            [
                scores.name,
                _defined(scores.precision, percent(scores.precision)),
                _defined(scores.recall, percent_interval(scores.recall, scores.recall_interval)),
                _defined(scores.f1, percent(scores.f1)),
                str(scores.support),
            ]
            for scores in shown
        ]
        title = "class" if len(shown) == len(self.classes) else "class (lowest recall)"
        return table([title, "precision", "recall", "F1", "images"], rows)

    def _confusion_text(self) -> str:
        if len(self.classes) > MANY_CLASSES:
            return self._confused_pairs_text()
        rows = [
            [name, *map(str, counts)]
            for name, counts in zip(self.classes, self.confusion.tolist(), strict=True)
        ]
        return table(["truth \\ predicted", *self.classes], rows)

    def _confused_pairs_text(self) -> str:
        errors = self.confusion - np.diag(np.diag(self.confusion))
        worst = np.argsort(-errors, axis=None, kind="stable")[:MANY_CLASSES]
        pairs = [divmod(int(flat), len(self.classes)) for flat in worst]
        rows = [
            [self.classes[truth], self.classes[guess], str(errors[truth, guess])]
            for truth, guess in pairs
            if errors[truth, guess]
        ]
        return table(["most confused: truth", "predicted", "images"], rows, left=2) if rows else ""


@dataclass(frozen=True, slots=True, eq=False)
class Predictions(PlainResult):
    """The predicted probabilities and classes of some images.

    Attributes:
        probabilities: ``(N, K)``.
        predicted: ``(N,)`` the most probable class.
        classes: K class names.
        labels: ``(N,)`` true classes, where they are known.
        names: N file names, where they are known.
        groups: ``(N,)`` number of each image's group, where the data have groups.
    """

    probabilities: Float64Array
    predicted: Int64Array
    classes: tuple[str, ...]
    labels: Int64Array | None = None
    names: tuple[str, ...] | None = None
    groups: Int64Array | None = None

    @classmethod
    def of(
        cls,
        probabilities: ArrayLike,
        *,
        labels: ArrayLike | None = None,
        classes: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        groups: GroupsLike | None = None,
    ) -> Predictions:
        """Build predictions from checked probabilities ``(N, K)``.

        Raises:
            DataError: NaN, rows that do not sum to one, or lengths that differ.
        """
        values = check_probabilities(probabilities)
        n, num_classes = values.shape
        truth = None if labels is None else check_labels(labels, num_classes=num_classes)
        if truth is not None:
            check_same_length(labels=truth, probabilities=values)
        if names is not None and len(names) != n:
            raise DataError(f"Expected {n} names, one per image, got {len(names)}.")
        return cls(
            probabilities=values,
            predicted=values.argmax(axis=1),
            classes=check_classes(classes, num_classes),
            labels=truth,
            names=None if names is None else tuple(names),
            groups=shared_groups(groups, n),
        )

    def __len__(self) -> int:
        return len(self.predicted)

    def evaluation(self) -> Evaluation:
        """Score the predictions against their labels.

        Raises:
            DataError: The labels are not known.
        """
        if self.labels is None:
            raise DataError("Predictions without labels have no scores. Predict labelled images.")
        labels, right = self.labels, (self.predicted == self.labels).astype(np.float64)
        per_class = class_scores(labels, self.predicted, self.classes, self.groups)
        ranked = (labels, self.probabilities)
        area, precision = auroc(*ranked), average_precision(*ranked)
        return Evaluation(
            n=len(self),
            classes=self.classes,
            accuracy=float(right.mean()),
            accuracy_interval=share_interval(right, self.groups),
            balanced_accuracy=float(np.mean([c.recall for c in per_class if c.support])),
            auroc=area,
            auroc_interval=ranking_interval(area, auroc_influences, *ranked, self.groups),
            average_precision=precision,
            average_precision_interval=ranking_interval(
                precision, precision_influences, *ranked, self.groups
            ),
            log_loss=log_loss(labels, self.probabilities),
            brier=brier(labels, self.probabilities),
            ece=reliability_curve(labels, self.probabilities).error,
            per_class=per_class,
            confusion=confusion_matrix(labels, self.predicted, labels=range(len(self.classes))),
            probabilities=self.probabilities,
            labels=labels,
            groups=self.groups,
        )

    def to_csv(self) -> str:
        """One line for each image: its name, the class predicted, and all probabilities."""
        header = ("image", "predicted", *(f"p_{name}" for name in self.classes))
        names = self.names or tuple(map(str, range(len(self))))
        rows = (
            (name, self.classes[k], *(f"{p:.6f}" for p in row))
            for name, k, row in zip(names, self.predicted, self.probabilities, strict=True)
        )
        return csv_text(header, rows)

    def __str__(self) -> str:
        limit = 20
        names = self.names or tuple(map(str, range(len(self))))
        rows = [
            [names[i], self.classes[k], percent(self.probabilities[i, k])]
            for i, k in enumerate(self.predicted[:limit].tolist())
        ]
        more = f"\n... and {len(self) - limit} more" if len(self) > limit else ""
        return table(["image", "predicted", "probability"], rows, left=2) + more


def evaluate_probabilities(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    classes: Sequence[str] | None = None,
    groups: GroupsLike | None = None,
) -> Evaluation:
    """Check probabilities ``(N, K)``, labels and groups ``(N,)``, and compute every score."""
    return Predictions.of(probabilities, labels=labels, classes=classes, groups=groups).evaluation()


def _defined(value: float, text: str) -> str:
    """The text of a score, or what stands for one that the labels leave without a value."""
    return "undefined" if math.isnan(value) else text


def _area(value: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return _defined(value, f"{value:.4f} [{low:.4f}, {high:.4f}]")
