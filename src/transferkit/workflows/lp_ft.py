"""LP-FT: a linear probe first, then fine-tuning from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import torch

from transferkit.data.dataset import ImageData
from transferkit.models.caching import Cache, Where
from transferkit.models.classifier import Classifier
from transferkit.training.history import Monitor
from transferkit.training.options import Augmentation, ClassWeights, OptimizerName
from transferkit.training.schedules import Plateau, Schedule, ScheduleName
from transferkit.workflows.common import checked_splits, classifier_for, judged
from transferkit.workflows.phases import Phase, finish, without_test
from transferkit.workflows.probe import linear_probe
from transferkit.workflows.result import Result
from transferkit.workflows.tune import fine_tune


class _Shared(TypedDict):
    """The options that both phases take as they are."""

    optimizer: OptimizerName
    weight_decay: float | None
    scheduler: ScheduleName | Schedule | Plateau
    batch_size: int
    label_smoothing: float
    class_weights: ClassWeights | None
    augment: Augmentation | None
    monitor: Monitor
    patience: int | None
    device: torch.device | str | None
    seed: int
    progress: bool | None
    cache: Cache | Where | None


def lp_ft(
    model: Classifier | str,
    splits: Mapping[str, ImageData],
    *,
    upto: str | int | None = None,
    probe_epochs: int = 10,
    probe_lr: float = 1e-2,
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
    """Train the head on frozen features, then fine-tune from there, and judge on test once.

    A new head sends large, random gradients into the backbone and distorts features that were
    good; a head that fits already does not (A. Kumar et al., "Fine-tuning can distort pretrained
    features and underperform out-of-distribution", ICLR 2022, arXiv:2202.10054). The epoch is
    chosen on val over both phases: where fine-tuning never beats the probe there, the probe stays.

    Args:
        model: A classifier, trained in place, or the name of a backbone, which gets its default
            weights.
        splits: ``"train"`` and ``"val"``, and ``"test"`` if there is one.
        upto: The first stage that is fine-tuned; None fine-tunes everything.
        probe_epochs: Length of the first phase.
        probe_lr: The base rate of the first phase.
        epochs: Length of the second phase.
        lr: The base rate of the second phase, at the head.
        optimizer: See :class:`~transferkit.Trainer`, as for all that follows.
        weight_decay: Of weight matrices and kernels.
        layer_decay: In the second phase the rate falls by this factor with every stage away from
            the head.
        scheduler: A name, or a function of optimizer steps; each phase has its own run of it.
        warmup: Linear warm-up of the second phase, as a share of it or a number of steps.
        batch_size: Images a batch.
        label_smoothing: Share of the target that is spread over all classes.
        class_weights: ``"balanced"``, or one weight a class.
        augment: Random augmentation of the training images.
        monitor: The val figure that chooses the best epoch.
        patience: End a phase after this many epochs without a better one.
        device: Where to train; by default a GPU if there is one.
        seed: Of everything random.
        progress: True for a bar, False for nothing, None for what suits the terminal.
        cache: Where to keep what the frozen part makes of each image.

    Returns:
        The classifier, and the history of both phases as one.

    Raises:
        DataError: A split is absent, empty, unlabelled, or has other classes than the model.
        ConfigError: An option that cannot work.
        UnknownNameError: No such stage, or no such backbone.
        TrainingError: The loss is not finite any more.
    """
    parts = checked_splits(splits)
    classifier = classifier_for(model, parts, seed=seed)
    blind = without_test(parts)
    shared = _Shared(
        optimizer=optimizer,
        weight_decay=weight_decay,
        scheduler=scheduler,
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
    probe = linear_probe(
        classifier,
        blind,
        epochs=probe_epochs,
        lr=probe_lr,
        **shared,
    )
    first = Phase.of(classifier, probe.history)
    tuned = fine_tune(
        classifier,
        blind,
        upto=upto,
        epochs=epochs,
        lr=lr,
        layer_decay=layer_decay,
        warmup=warmup,
        **shared,
    )
    history = finish(classifier, [first, Phase.of(classifier, tuned.history)])
    return judged(classifier, history, parts)
