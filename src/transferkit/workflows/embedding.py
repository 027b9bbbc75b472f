"""What the audit sees of the images: features, and scores where there is a classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from transferkit._typing import Float64Array, FloatArray, UInt8Array
from transferkit.data.dataset import ImageData, Splits
from transferkit.data.given import described
from transferkit.errors import ConfigError, DataError
from transferkit.features.extract import extract_features
from transferkit.models.caching import Cache, Where
from transferkit.models.classifier import Classifier, create_classifier
from transferkit.models.device import device_of
from transferkit.models.encode import in_eval_mode

DEFAULT_BACKBONE = "transferkit/formula_resnet18"
"""The backbone that comes with the package: nothing is downloaded."""

FeaturesOf: TypeAlias = Callable[[UInt8Array], FloatArray]
"""Images (N, H, W, C) to features (N, D)."""

Embedder: TypeAlias = "Classifier | str | FeaturesOf | None"


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """The splits as arrays.

    Attributes:
        features: Split to features (N, D).
        logits: Split to the classifier's own logits (N, K), or None without a classifier.
        title: What made the features, in words.
    """

    features: Mapping[str, FloatArray]
    logits: Mapping[str, Float64Array] | None
    title: str


def embed(
    splits: Splits,
    model: Embedder,
    *,
    batch_size: int = 64,
    cache: Cache | Where | None = None,
) -> Embedding:
    """Run the images of all splits through ``model`` once.

    Args:
        splits: The images.
        model: A classifier, whose logits are kept too; the name of a backbone, with its default
            weights; a function of images; None takes the embedded backbone.
        batch_size: Images a batch.
        cache: Where to keep the features of a classifier or a backbone for later calls.

    Raises:
        DataError: The classifier has another number of classes than the splits, or features are
            not (N, D) or hold NaN or infinity (named by image).
        ConfigError: ``model`` is none of these.
        UnknownNameError: No backbone goes by the name.
        WeightsError: Its default weights cannot be had.
    """
    if isinstance(model, Classifier):
        return _by_classifier(splits, model, batch_size, cache)
    if model is None or isinstance(model, str):
        name = model or DEFAULT_BACKBONE
        backbone = create_classifier(name, max(2, splits.num_classes), seed=0)
        features = _by_classifier(splits, backbone, batch_size, cache, check_classes=False).features
        return Embedding(features, None, f"{name} features")
    if not _is_function(model):
        raise ConfigError(
            "model must be a Classifier, the name of a backbone, a function of images or None, "
            f"got {described(model)}"
        )
    features = {name: np.asarray(model(data.images)) for name, data in splits.items()}
    for name, data in splits.items():
        _check(features[name], data, name)
    return Embedding(features, None, "the given features")


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, type | nn.Module)


def _by_classifier(
    splits: Splits,
    model: Classifier,
    batch_size: int,
    cache: Cache | Where | None,
    *,
    check_classes: bool = True,
) -> Embedding:
    if check_classes and model.num_classes != splits.num_classes:
        raise DataError(
            f"the model has {model.num_classes} classes and the splits {splits.num_classes}; "
            "audit with a model that was built for these classes"
        )
    features: dict[str, FloatArray] = {}
    logits: dict[str, Float64Array] = {}
    for name, data in splits.items():
        found = extract_features(model, data, batch_size=batch_size, cache=cache)
        _check(found.features, data, name)
        features[name], logits[name] = found.features, _logits(model, found.features)
    return Embedding(features, logits, f"features of {model.name}")


def _logits(model: Classifier, features: FloatArray) -> Float64Array:
    """What the head makes of features (N, D): (N, K)."""
    with in_eval_mode(model), torch.inference_mode():
        logits = model.head(torch.from_numpy(features).to(device_of(model)))
    found: Float64Array = logits.double().cpu().numpy()
    return found


def _check(features: FloatArray, data: ImageData, split: str) -> None:
    if features.ndim != 2 or len(features) != len(data):
        raise DataError(
            f"expected features of {split} of shape ({len(data)}, D), got {features.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        column = int(np.flatnonzero(~np.isfinite(features[bad[0]]))[0])
        raise DataError(
            f"{len(bad)} images of {split} have features that are NaN or infinite, the first "
            f"{data.names[bad[0]]!r} in feature {column}; remove these images, or look into the "
            "model that made the features"
        )
