"""The result of training: a classifier, its history and its scores."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from transferkit._format import percent, percent_interval, plain_fields, table
from transferkit._typing import JSON
from transferkit.data.splits import Splits
from transferkit.metrics.evaluation import Evaluation
from transferkit.models.classifier import Classifier
from transferkit.training.evaluate import evaluation_of
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
        return {"backbone": self.classifier.name} | plain_fields(self, without=["classifier"])

    def __str__(self) -> str:
        scored = {"val": self.val, "test": self.test}
        rows = [
            (
                name,
                str(scores.n),
                percent_interval(scores.accuracy, scores.accuracy_interval),
                percent(scores.balanced_accuracy),
                f"{scores.auroc:.4f}",
                f"{scores.log_loss:.4f}",
            )
            for name, scores in scored.items()
            if scores is not None
        ]
        header = ("split", "images", "accuracy", "balanced", "AUROC", "log loss")
        history = self.history
        trained = f"{len(history)} epochs"
        if (best := history.best_epoch) is not None:
            trained += f"; best {history.monitor.replace('_', ' ')} in epoch {best}"
            if best <= history.probe_epochs:
                trained += ", an epoch of the probe, which fine-tuning did not beat"
        parts = [f"{self.classifier.name}  ({trained})", table(header, rows)]
        return "\n".join([*parts, "", str(self.history.summary())])


MAJORITY = 2 / 3
"""Share of a class from which on its constant prediction deserves a warning."""


def evaluated(model: Classifier, history: History, splits: Splits) -> Result:
    """Evaluate a trained model on val and, once, on test where that has labels."""
    val = evaluation_of(model, splits["val"])
    if val.accuracy >= MAJORITY and len(np.unique(val.predicted)) == 1:
        warnings.warn(
            f"The chosen epoch predicts {val.classes[val.predicted[0]]!r} for all {val.n} val "
            f"images; its accuracy of {percent(val.accuracy)} is the share of that class. Train "
            "with class_weights='balanced', and choose the epoch by "
            "monitor='val_balanced_accuracy'.",
            stacklevel=4,
        )
    return Result(model, history, val, evaluation_on_test(model, splits))


def evaluation_on_test(
    model: Classifier, splits: Splits, *, batch_size: int = 64
) -> Evaluation | None:
    """The evaluation on test; None without a labelled test split."""
    test = splits.get("test")
    if test is None or test.labels is None:
        return None
    return evaluation_of(model, test, batch_size=batch_size)
