"""The linear probe: the network as a fixed feature extractor, and a head on top."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import torch

from transferkit.data.dataset import ImageData
from transferkit.errors import ConfigError, UnknownNameError
from transferkit.models.caching import Cache, Where
from transferkit.models.classifier import Classifier
from transferkit.models.freezing import freeze
from transferkit.training.history import Monitor
from transferkit.training.options import Augmentation, ClassWeights, OptimizerName
from transferkit.training.schedules import Plateau, Schedule, ScheduleName
from transferkit.training.trainer import Trainer
from transferkit.workflows.common import checked_splits, classifier_for, judged
from transferkit.workflows.result import Result
from transferkit.workflows.solved import solve_head

Solver: TypeAlias = Literal["minibatch", "lbfgs"]


def linear_probe(
    model: Classifier | str,
    splits: Mapping[str, ImageData],
    *,
    solver: Solver = "minibatch",
    epochs: int = 30,
    lr: float = 1e-2,
    optimizer: OptimizerName = "adamw",
    weight_decay: float | None = None,
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
    """Freeze the backbone, train the head, choose the epoch on val, and judge on test.

    Without augmentation the features are computed once, and every epoch runs on them.

    ``solver="lbfgs"`` solves a linear head to the optimum instead, for eight L2 penalties from 10
    down to 1e-6 on scaled features, and takes the one that is best on val. ``epochs``, ``lr`` and
    the other options of stepping then have no meaning; each record of the history is one penalty,
    which stands in its column ``lr``, and ``step`` counts L-BFGS iterations.

    Args:
        model: A classifier, trained in place, or the name of a backbone, which gets its default
            weights.
        splits: ``"train"`` and ``"val"``, and ``"test"`` if there is one.
        solver: ``"minibatch"`` or ``"lbfgs"``.
        epochs: Length of the run.
        lr: The base rate.
        optimizer: See :class:`~transferkit.Trainer`, as for all that follows.
        weight_decay: Of weight matrices and kernels.
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
        cache: Where to keep the features.

    Raises:
        DataError: A split is absent, empty, unlabelled, or has other classes than the model.
        ConfigError: An option that cannot work.
        UnknownNameError: No such backbone.
        TrainingError: The loss is not finite any more.

    Example:
        >>> import transferkit as tk
        >>> splits = tk.phantom_splits(sizes=(120, 60, 60), image_size=32, opacity=2.0, seed=0)
        >>> model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, seed=0)
        >>> result = tk.linear_probe(model, splits, solver="lbfgs")
        >>> result.val.accuracy > 0.9
        True
        >>> tk.summary(result.classifier).trainable
        770
    """
    if solver not in get_args(Solver):
        raise UnknownNameError.among("solver", str(solver), get_args(Solver))
    if solver == "lbfgs" and augment is not None:
        raise ConfigError("solver='lbfgs' works on fixed features; augment needs 'minibatch'.")
    parts = checked_splits(splits)
    classifier = classifier_for(model, parts, seed=seed)
    freeze(classifier)
    trainer = Trainer(
        classifier,
        lr=lr,
        optimizer=optimizer,
        weight_decay=weight_decay,
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
    if solver == "lbfgs":
        history = solve_head(classifier, parts, trainer.options)
    else:
        history = trainer.fit(parts["train"], parts["val"], epochs=epochs)
    return judged(classifier, history, parts)
