"""What a workflow hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transferkit._format import percent_interval, table
from transferkit._typing import JSON
from transferkit.data.image_data import ImageData, Splits, require_splits
from transferkit.errors import DataError
from transferkit.metrics.evaluation import Evaluation
from transferkit.models.classifier import Classifier, require_classifier
from transferkit.training.evaluate import evaluate
from transferkit.training.history import History


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A trained classifier with its scores.

    Attributes:
        classifier: The classifier, with the weights of the best epoch on val, in eval mode.
        history: The figures of every epoch.
        val: Its score on val, which chose the epoch, so it flatters a little.
        test: Its score on test, read once; None where there is no test split.
    """

    classifier: Classifier
    history: History
    val: Evaluation
    test: Evaluation | None

    def to_dict(self) -> dict[str, JSON]:
        """The backbone, the history and the scores as plain data."""
        return {
            "backbone": self.classifier.name,
            "history": self.history.to_dict(),
            "val": self.val.to_dict(),
            "test": None if self.test is None else self.test.to_dict(),
        }

    def __str__(self) -> str:
        judged = {"val": self.val, "test": self.test}
        rows = [_row(name, scores) for name, scores in judged.items() if scores is not None]
        header = ("split", "images", "accuracy", "balanced", "AUROC", "log loss")
        trained = f"{len(self.history)} epochs, best {self.history.best_epoch}"
        parts = [f"{self.classifier.name}  ({trained})", table(header, rows)]
        return "\n".join([*parts, "", str(self.history.summary())])


def _row(name: str, scores: Evaluation) -> tuple[str, ...]:
    return (
        name,
        str(scores.n),
        percent_interval(scores.accuracy, scores.accuracy_interval),
        f"{100 * scores.balanced_accuracy:.1f} %",
        f"{scores.auroc:.4f}",
        f"{scores.log_loss:.4f}",
    )


def checked_splits(splits: Mapping[str, ImageData]) -> Splits:
    """See that there is a labelled train split and a labelled val split, with the same classes.

    Raises:
        DataError: There is not.
    """
    checked = require_splits(splits)
    for name, data in zip(("train", "val"), checked.require("train", "val"), strict=True):
        data.require_labels(f"Training (the {name} split)")
    return checked


def classifier_for(model: object, splits: Splits) -> Classifier:
    """The classifier that a caller has given, which takes the class names of the splits.

    Raises:
        DataError: The model has another number of classes than the splits.
        ConfigError: It is no classifier.
    """
    model = require_classifier(model)
    if model.num_classes != splits.num_classes:
        raise DataError(
            f"The model has {model.num_classes} classes and the splits {splits.num_classes} "
            f"({', '.join(splits.classes)}); build it for as many."
        )
    model.classes = splits.classes
    return model


def judged(model: Classifier, history: History, splits: Splits, *, batch_size: int = 64) -> Result:
    """Judge a trained model on val and, once, on test where that has labels."""
    test = splits.get("test")
    return Result(
        classifier=model,
        history=history,
        val=evaluate(model, splits["val"], batch_size=batch_size),
        test=None
        if test is None or test.labels is None
        else evaluate(model, test, batch_size=batch_size),
    )
