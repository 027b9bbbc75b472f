"""Features of images: the output of the backbone, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from transferkit._typing import FloatArray, Int64Array
from transferkit.data.image_data import ImageData, require_images
from transferkit.errors import DataError
from transferkit.models.classifier import Classifier, require_classifier
from transferkit.models.device import place, plain_context
from transferkit.models.fast_layers import folded_copy
from transferkit.models.prefix_cache import (
    Cache,
    Job,
    Where,
    backbone_tensors,
    cache_named,
    encode,
    images_at_once,
    keep,
    prefix_key,
)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The features of some images, with their labels.

    Attributes:
        features: (N, D) float32.
        labels: Class numbers (N,), or None where the images have none.
        classes: Class names.
        names: File names (N,).
    """

    features: FloatArray = field(repr=False)
    labels: Int64Array | None = field(repr=False)
    classes: tuple[str, ...]
    names: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.features)


def extract_features(
    model: Classifier,
    data: ImageData,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    cache: Cache | Where | None = None,
) -> Features:
    """Run images through the preprocessing and the backbone of a classifier, in eval mode.

    Features that a cache on disk holds for these weights and images, from here or from a
    :class:`~transferkit.Trainer` with a frozen backbone, are read instead.

    Args:
        model: Its head is not used; the mode of its modules is left as it was.
        data: Images, with labels or without.
        batch_size: Largest number of images run at once; on a CPU fewer are faster.
        device: Where to compute, and to leave the model; by default where it is.
        cache: Where to keep the features for later calls: ``"disk"`` or a
            :class:`~transferkit.Cache`; by default nowhere.

    Raises:
        DataError: There are no images.

    Example:
        >>> import transferkit as tk
        >>> splits = tk.phantom_splits(sizes=(60, 30, 30), image_size=32, seed=0)
        >>> model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32)
        >>> train = tk.extract_features(model, splits["train"])
        >>> train.features.shape, train.labels.shape
        ((60, 384), (60,))
    """
    where = place(require_classifier(model), device)
    require_images("The data", data)
    if len(data) == 0:
        raise DataError("There are no images to extract features from.")
    with plain_context(where):
        folded = folded_copy(model, data.batch(np.arange(min(2, len(data)))).to(where))

    def prefix(images: Tensor) -> tuple[Tensor, ...]:
        return (folded.features(images).float(),)

    def key() -> str:
        return prefix_key(model, backbone_tensors(model), data, "head", "float32", where.type)

    kept, found, few = cache_named(cache), None, images_at_once(model, batch_size, where)
    if kept is not None:
        found = keep([Job(prefix, data, key)], kept, device=where, batch_size=few)
    (features,) = found[0] if found else encode(prefix, data, device=where, batch_size=few)
    return Features(features.float().cpu().numpy(), data.labels, data.classes, data.names)
