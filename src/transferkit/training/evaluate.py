"""Judging and using a trained classifier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from transferkit._typing import Int64Array
from transferkit.data.dataset import ImageData
from transferkit.errors import DataError
from transferkit.metrics.evaluation import Evaluation, Predictions
from transferkit.models.classifier import Classifier
from transferkit.training.device import place
from transferkit.training.loader import Feed, Images, plain_plan


def evaluate(
    model: Classifier,
    data: ImageData,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Judge ``model`` on labelled images, in float32.

    Args:
        model: The classifier; its mode is left as it was.
        data: Labelled images.
        batch_size: Images a batch.
        device: Where to compute, and to leave the model; by default where it is.

    Raises:
        DataError: No labels, no images, or another number of classes than the model's.
    """
    labels = data.require_labels("Evaluation")
    if data.num_classes != model.num_classes:
        raise DataError(
            f"The images have {data.num_classes} classes and the model {model.num_classes}; "
            "evaluate on images of the classes that the model was built for."
        )
    predictions = predict(model, data, batch_size=batch_size, device=device)
    return Predictions.of(
        predictions.probabilities, labels=labels, classes=data.classes
    ).evaluation()


def predict(
    model: Classifier,
    data: ImageData | ArrayLike | Tensor,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> Predictions:
    """Predict the class probabilities of images, in float32.

    Args:
        model: The classifier; its mode is left as it was.
        data: Images, with labels or without, or an array of them that
            :class:`~transferkit.ImageData` can read.
        batch_size: Images a batch.
        device: Where to compute, and to leave the model; by default where it is.

    Raises:
        DataError: No images, or pixels that cannot be understood.
    """
    images = data if isinstance(data, ImageData) else ImageData(data)
    if len(images) == 0:
        raise DataError("There are no images to predict.")
    place_of_work = place(model, device)
    labels: Int64Array = np.zeros(len(images), np.int64) if images.labels is None else images.labels
    feed = Feed(Images(images), labels, lambda batch: (model(batch),))
    probabilities = []
    with evaluating(model), torch.inference_mode():
        for inputs, _ in feed.batches(plain_plan(len(images), batch_size), place_of_work):
            logits = feed.forward(*inputs)[0]
            probabilities.append(logits.cpu().double().softmax(dim=1))
    return Predictions.of(
        torch.cat(probabilities).numpy(),
        labels=images.labels,
        classes=model.classes,
        names=images.names,
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode; then put back the mode of each of its modules."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
