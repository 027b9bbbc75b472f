"""Evaluation and prediction with a trained classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from transferkit.data.image_data import ImageData, require_images
from transferkit.errors import DataError
from transferkit.metrics.evaluation import Evaluation, Predictions
from transferkit.models.classifier import Classifier, in_eval_mode, require_classifier
from transferkit.models.device import place
from transferkit.models.prefix_cache import encode, images_at_once


def evaluate(
    model: Classifier,
    data: ImageData,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Evaluate ``model`` on labelled images, in float32.

    Args:
        model: The classifier; its mode is left as it was.
        data: Labelled images; their class names are those of the result.
        batch_size: Largest batch size; on a CPU smaller batches may be taken, which are faster.
        device: Where to compute, and to leave the model; by default where it is.

    Raises:
        DataError: No labels, no images, or another number of classes than the model's.

    Example:
        >>> import transferkit as tk
        >>> splits = tk.phantom_splits(sizes=(60, 30, 30), image_size=32, seed=0)
        >>> model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, seed=0)
        >>> scores = tk.evaluate(model, splits["test"])
        >>> scores.n, scores.classes
        (30, ('normal', 'pneumonia'))
        >>> low, high = scores.accuracy_interval
        >>> low <= scores.accuracy <= high
        True
    """
    require_images("What is evaluated", data).require_labels("Evaluation")
    require_classifier(model)
    if data.num_classes != model.num_classes:
        raise DataError(
            f"The images have {data.num_classes} classes and the model {model.num_classes}; "
            "evaluate on images of the classes that the model was built for."
        )
    probabilities = _probabilities(model, data, batch_size, device)
    return Predictions.of(probabilities, labels=data.labels, classes=data.classes).evaluation()


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
        batch_size: Largest batch size; on a CPU smaller batches may be taken, which are faster.
        device: Where to compute, and to leave the model; by default where it is.

    Raises:
        DataError: No images, or pixels that cannot be understood.

    Example:
        >>> import numpy as np
        >>> import transferkit as tk
        >>> model = tk.create_classifier(
        ...     "transferkit/formula_resnet18", 2, classes=["cat", "dog"], image_size=32, seed=0
        ... )
        >>> images = np.zeros((3, 40, 40), dtype=np.uint8)
        >>> predictions = tk.predict(model, images)
        >>> predictions.probabilities.shape
        (3, 2)
        >>> [predictions.classes[k] in ("cat", "dog") for k in predictions.predicted]
        [True, True, True]
    """
    require_classifier(model)
    images = _images_of(data)
    return Predictions.of(
        _probabilities(model, images, batch_size, device),
        labels=images.labels,
        classes=model.classes,
        names=images.names,
    )


def _images_of(data: object) -> ImageData:
    """The images themselves, or those of an array."""
    if isinstance(data, ImageData):
        return data
    if data is None or isinstance(data, str | Path | Mapping):
        return require_images("What is predicted on", data)
    return ImageData(cast(ArrayLike, data))


def _probabilities(
    model: Classifier, data: ImageData, batch_size: int, device: torch.device | str | None
) -> ArrayLike:
    where = place(model, device)
    few, model = images_at_once(model, batch_size, where), in_eval_mode(model)
    (logits,) = encode(lambda images: (model(images),), data, device=where, batch_size=few)
    return logits.double().softmax(dim=1).numpy()
