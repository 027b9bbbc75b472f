"""Fine-tuning: train the head and the stages behind it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from transferkit.data.dataset import ImageData
from transferkit.models.caching import Cache, Where
from transferkit.models.classifier import Classifier
from transferkit.models.freezing import unfreeze
from transferkit.training.history import Monitor
from transferkit.training.options import Augmentation, ClassWeights, OptimizerName
from transferkit.training.schedules import Plateau, Schedule, ScheduleName
from transferkit.training.trainer import Trainer
from transferkit.workflows.common import checked_splits, classifier_for, judged
from transferkit.workflows.result import Result


def fine_tune(
    model: Classifier | str,
    splits: Mapping[str, ImageData],
    *,
    upto: str | int | None = None,
    epochs: int = 10,
    lr: float = 1e-4,
    optimizer: OptimizerName = "adamw",
    weight_decay: float | None = None,
    layer_decay: float = 1.0,
    scheduler: ScheduleName | Schedule | Plateau = "cosine",
    warmup: float | int = 0.0,
    batch_size: int = 32,
    label_smoothing: float = 0.0,
    class_weights: ClassWeights | None = None,
    augment: Augmentation | None = None,
    monitor: Monitor = "val_accuracy",
    patience: int | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool | None = None,
    cache: Cache | Where | None = "auto",
) -> Result:
    """Train from the stage ``upto`` to the head, choose the epoch on val, and judge on test.

    Args:
        model: A classifier, trained in place, or the name of a backbone, which gets its default
            weights.
        splits: ``"train"`` and ``"val"``, and ``"test"`` if there is one.
        upto: The first stage that is trained, by name or place; everything before it is frozen.
            None trains everything.
        epochs: Length of the run.
        lr: The base rate, at the head.
        optimizer: See :class:`~transferkit.Trainer`, as for all that follows.
        weight_decay: Of weight matrices and kernels.
        layer_decay: The rate falls by this factor with every stage away from the head.
        scheduler: A name, or a function of optimizer steps.
        warmup: Linear warm-up, as a share of the run or a number of steps.
        batch_size: Images a batch.
        label_smoothing: Share of the target that is spread over all classes.
        class_weights: ``"balanced"``, or one weight a class.
        augment: Random augmentation of the training images.
        monitor: The val figure that chooses the best epoch.
        patience: Stop after this many epochs without a better one.
        device: Where to train; by default a GPU if there is one.
        seed: Of everything random.
        progress: True for a bar, False for nothing, None for what suits the terminal.
        cache: Where to keep what the frozen part makes of each image.

    Raises:
        DataError: A split is absent, empty, unlabelled, or has other classes than the model.
        ConfigError: An option that cannot work.
        UnknownNameError: No such stage, or no such backbone.
        TrainingError: The loss is not finite any more.

    Example:
        >>> import transferkit as tk
        >>> splits = tk.phantom_splits(sizes=(60, 30, 30), image_size=32, seed=0)
        >>> model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, seed=0)
        >>> result = tk.fine_tune(model, splits, upto="layer3", epochs=2, lr=1e-3)
        >>> [stage.name for stage in tk.summary(model).stages if stage.state == "trainable"]
        ['layer3', 'head']
        >>> len(result.history), result.test.n
        (2, 30)
    """
    parts = checked_splits(splits)
    classifier = classifier_for(model, parts, seed=seed)
    unfreeze(classifier, upto=upto)
    trainer = Trainer(
        classifier,
        lr=lr,
        optimizer=optimizer,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        scheduler=scheduler,
        warmup=warmup,
        batch_size=batch_size,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        augment=augment,
        monitor=monitor,
        patience=patience,
        device=device,
        seed=seed,
        progress=progress,
        cache=cache,
    )
    history = trainer.fit(parts["train"], parts["val"], epochs=epochs)
    return judged(classifier, history, parts)
