"""What is checked before training starts."""

from __future__ import annotations

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from transferkit._typing import Int64Array
from transferkit.data.dataset import require_images
from transferkit.errors import ConfigError, DataError, TrainingError
from transferkit.models.classifier import Classifier


def check_data(model: Classifier, train: object, val: object) -> None:
    """See that the splits can train and judge ``model``.

    Raises:
        DataError: A split is none, empty or unlabelled, ``train`` shows one class only, or the
            classes are not those of the model.
    """
    images = require_images("The train split", train)
    judged = images if val is None else require_images("The val split", val)
    for name, data in (("train", images), ("val", judged)):
        if len(data) == 0:
            raise DataError(f"The {name} split is empty; training needs images in it.")
        data.require_labels(f"Training (the {name} split)")
        if data.num_classes != model.num_classes:
            raise DataError(
                f"The {name} split has {data.num_classes} classes ({', '.join(data.classes)}) and "
                f"the model {model.num_classes}; build it with create_classifier(name, "
                f"{data.num_classes})."
            )
    present = np.unique(images.require_labels("Training"))
    if len(present) < 2:
        raise DataError(
            f"All {len(images)} training images are of the class {images.classes[present[0]]!r}; "
            "a classifier needs two classes or more to learn from."
        )


def check_epochs(epochs: object, done: int) -> None:
    """See that there is something left to train.

    Raises:
        ConfigError: ``epochs`` is not a count, or all of them are done.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(f"epochs must be a whole number, 1 or more, got {epochs!r}.")
    if done >= epochs:
        raise ConfigError(
            f"epochs={epochs} is the length of the whole run, and this trainer has done {done} "
            "already. Ask for more to go on, or make a new Trainer to start again."
        )


def check_batch_norm(model: nn.Module, plan: list[Int64Array]) -> None:
    """See that no batch of one image meets a batch norm that trains; ``model`` is in train mode.

    Raises:
        TrainingError: One would.
    """
    if min(map(len, plan)) > 1:
        return
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise TrainingError(
                f"A batch of one image cannot train the batch norm {name!r}: it has no spread. "
                "Give more images, a batch_size of 2 or more, or freeze the stage."
            )
