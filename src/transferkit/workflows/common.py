"""The frame that all workflows share: check, train, judge."""

from __future__ import annotations

from collections.abc import Mapping

from transferkit.data.dataset import ImageData, Splits, require_splits
from transferkit.errors import DataError
from transferkit.models.classifier import Classifier, create_classifier, require_classifier
from transferkit.training.evaluate import evaluate
from transferkit.training.history import History
from transferkit.workflows.result import Result


def checked_splits(splits: Mapping[str, ImageData]) -> Splits:
    """See that there is a labelled train split and a labelled val split, with the same classes.

    Raises:
        DataError: There is not.
    """
    checked = require_splits(splits)
    for name, data in zip(("train", "val"), checked.require("train", "val"), strict=True):
        data.require_labels(f"Training (the {name} split)")
    return checked


def classifier_for(model: Classifier | str, splits: Splits, *, seed: int) -> Classifier:
    """The model itself, or a new one on the backbone of that name; it takes the splits' classes.

    Raises:
        DataError: The model has another number of classes than the splits.
        ConfigError: It is no model.
        UnknownNameError: No backbone goes by the name.
        WeightsError: The backbone's default weights cannot be had.
    """
    if isinstance(model, str):
        return create_classifier(model, splits.num_classes, classes=splits.classes, seed=seed)
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
