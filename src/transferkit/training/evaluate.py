"""Evaluation and prediction with a trained classifier."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import ArrayLike
from tqdm import tqdm

from transferkit.data.image_data import ImageData, require_images
from transferkit.data.image_inputs import ImagesInput, ImageStream
from transferkit.metrics.evaluation import Evaluation, Predictions
from transferkit.models.classifier import (
    Classifier,
    in_eval_mode,
    match_classes,
    require_classifier,
)
from transferkit.models.device import place
from transferkit.models.prefix_cache import encode, images_at_once


def evaluate(
    model: Classifier,
    data: ImageData,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Evaluate ``model`` on labelled images, in float32, and warn if its head was never trained.

    Args:
        model: The classifier; its mode is left as it was.
        data: Labelled images of the model's classes, in any order.
        batch_size: Largest batch size; on a CPU smaller batches may be taken, which are faster.
        device: Where to compute, and to leave the model; by default where it is.

    Raises:
        DataError: No labels, no images, or other classes than the model's.

    Example:
        >>> import transferkit as tk
        >>> splits = tk.phantom_splits(sizes=(60, 30, 30), image_size=32, seed=0)
        >>> result = tk.linear_probe("transferkit/formula_resnet18", splits, solver="lbfgs")
        >>> scores = tk.evaluate(result.classifier, splits["test"])
        >>> scores.n, scores.classes
        (30, ('normal', 'pneumonia'))
        >>> low, high = scores.accuracy_interval
        >>> low <= scores.accuracy <= high
        True
    """
    require_images("What is evaluated", data).require_labels("Evaluation")
    images = match_classes(require_classifier(model), data)
    evaluation = evaluation_of(model, images, batch_size=batch_size, device=device)
    warn_if_untrained(model)
    return evaluation


def evaluation_of(
    model: Classifier,
    data: ImageData,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Evaluate on labelled images whose classes are in the order of the model's."""
    probabilities = _probabilities(model, data, batch_size, device)
    return Predictions.of(
        probabilities, labels=data.labels, classes=data.classes, groups=data.groups
    ).evaluation()


def warn_if_untrained(model: Classifier, which: str = "this classifier") -> None:
    """Warn that the scores of a head that was never trained are those of chance."""
    if not model.head_is_trained:
        warnings.warn(
            f"The head of {which} was never trained: its scores are those of chance. Train it "
            "first, for example with tk.linear_probe(model, splits).",
            stacklevel=3,
        )


def predict(
    model: Classifier,
    data: ImagesInput,
    *,
    bits: int | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    progress: bool | None = None,
) -> Predictions:
    """Predict the class probabilities of images, in float32.

    Files are read a few at a time. A classifier that was trained on files of
    :func:`~transferkit.load_splits` knows how these were read (size, resizing, grey or colour, bit
    depth), also after it was saved, and sees other files and images alike.

    Args:
        model: The classifier; its mode is left as it was.
        data: One image or several: an ImageData, a path, a PIL image, an array (H, W), (H, W, C)
            or, in torch, (C, H, W), or a list of these; a folder; a pattern such as
            ``"scans/*.png"``; a ``.csv`` with a column of paths; or a batch of images that
            :class:`~transferkit.ImageData` can read.
        bits: Bit depth of images of more than 8 bits, as in :func:`~transferkit.load_splits`. By
            default that of the training images.
        batch_size: Largest batch size; on a CPU smaller batches may be taken, which are faster.
        device: Where to compute, and to leave the model; by default where it is.
        progress: Whether to show a bar; None shows it on a terminal only.

    Raises:
        DataError: No images, an image that cannot be read, a shape with two readings, such as an
            array (3, H, W), which may be one image or three, or labels of other classes.

    Example:
        >>> import numpy as np
        >>> import transferkit as tk
        >>> model = tk.create_classifier(
        ...     "transferkit/formula_resnet18", 2, classes=["cat", "dog"], image_size=32, seed=0
        ... )
        >>> image = np.zeros((40, 50, 3), dtype=np.uint8)
        >>> tk.predict(model, image).probabilities.shape
        (1, 2)
        >>> predictions = tk.predict(model, [image, image[:, :40]])
        >>> [predictions.classes[k] in ("cat", "dog") for k in predictions.predicted]
        [True, True]
    """
    classes = require_classifier(model).classes
    stream = ImageStream(data, model.preprocess.in_channels, bits, model.preprocess.reading)
    probabilities = np.empty((len(stream), len(classes)))
    names, labels = np.empty(len(stream), dtype=object), None
    hide = None if progress is None else not progress
    with tqdm(
        total=len(stream), desc="predicting", unit="image", leave=False, delay=1, disable=hide
    ) as bar:
        for places, images in stream:
            known = match_classes(model, images)
            probabilities[places] = _probabilities(model, known, batch_size, device)
            names[places], labels = known.names, known.labels
            bar.update(len(places))
    return Predictions.of(
        probabilities,
        labels=labels,
        classes=classes,
        names=names.tolist(),
        groups=None if stream.whole is None else stream.whole.groups,
    )


def _probabilities(
    model: Classifier, data: ImageData, batch_size: int, device: torch.device | str | None
) -> ArrayLike:
    where = place(model, device)
    few, model = images_at_once(model, batch_size, where), in_eval_mode(model)
    with torch.autocast(where.type, enabled=False):
        (logits,) = encode(lambda images: (model(images),), data, device=where, batch_size=few)
    return logits.double().softmax(dim=1).numpy()
