"""Gradual unfreezing: from the head backwards, a step at a time, in one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from transferkit.data.dataset import ImageData
from transferkit.errors import ConfigError
from transferkit.models.caching import Cache, Where
from transferkit.models.classifier import Classifier
from transferkit.models.freezing import stages, unfreeze
from transferkit.training.history import Monitor
from transferkit.training.options import Augmentation, ClassWeights, OptimizerName
from transferkit.training.schedules import Plateau, Schedule, ScheduleName
from transferkit.training.trainer import Trainer
from transferkit.workflows.common import checked_splits, classifier_for, judged
from transferkit.workflows.result import Result


def gradual_unfreeze(
    model: Classifier | str,
    splits: Mapping[str, ImageData],
    *,
    steps: int | Sequence[str | int] = 4,
    epochs: int = 12,
    lr: float = 1e-3,
    layer_decay: float = 0.5,
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
    """Train the head first and unfreeze further back as the run goes on, with layer-wise rates.

    One run with one schedule: the epochs are shared out evenly among the steps, and the optimizer
    keeps what it has learnt. Source: J. Howard and S. Ruder, "Universal language model
    fine-tuning for text classification", ACL 2018, section 3.3, arXiv:1801.06146.

    Args:
        model: A classifier, trained in place, or the name of a backbone, which gets its default
            weights.
        splits: ``"train"`` and ``"val"``, and ``"test"`` if there is one.
        steps: How many steps there are from the head alone to the whole network, the stages being
            shared out evenly; or the first trainable stage of each step.
        epochs: Length of the whole run.
        lr: The base rate, at the head.
        layer_decay: The rate falls by this factor with every stage away from the head.
        optimizer: See :class:`~transferkit.Trainer`, as for all that follows.
        weight_decay: Of weight matrices and kernels.
        scheduler: A name, or a function of optimizer steps.
        warmup: Linear warm-up, as a share of the run or a number of steps.
        batch_size: Images a batch.
        label_smoothing: Share of the target that is spread over all classes.
        class_weights: ``"balanced"``, or one weight a class.
        augment: Random augmentation of the training images.
        monitor: The val figure that chooses the best epoch, among all steps.
        patience: Stop after this many epochs without a better one.
        device: Where to train; by default a GPU if there is one.
        seed: Of everything random.
        progress: True for a bar, False for nothing, None for what suits the terminal.
        cache: Where to keep what the frozen part makes of each image.

    Raises:
        DataError: A split is absent, empty, unlabelled, or has other classes than the model.
        ConfigError: Fewer epochs than steps, or an option that cannot work.
        UnknownNameError: No such stage, or no such backbone.
        TrainingError: The loss is not finite any more.
    """
    parts = checked_splits(splits)
    classifier = classifier_for(model, parts, seed=seed)
    if isinstance(steps, str) or not isinstance(steps, int | Sequence):
        raise ConfigError(f"steps must be a whole number or a list of stages, got {steps!r}.")
    plan = boundaries(stages(classifier), steps) if isinstance(steps, int) else list(steps)
    begins = starts(len(plan), epochs)
    for upto in reversed(plan):  # an unknown stage shows before training starts
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
    for record in trainer.epochs(parts["train"], parts["val"], epochs=epochs):
        if record.epoch in begins:
            unfreeze(classifier, upto=plan[begins.index(record.epoch)])
    return judged(classifier, trainer.history, parts)


def boundaries(names: Sequence[str], steps: int) -> list[str | int]:
    """The first trainable stage of each step: the head, then evenly back to the first stage.

    Args:
        names: Stages from input to output.
        steps: How many; no more than there are stages.

    Raises:
        ConfigError: Fewer than two steps.
    """
    if steps < 2:
        raise ConfigError(f"Gradual unfreezing needs two steps or more, got {steps}.")
    last = len(names) - 1
    count = min(steps, len(names))
    places = [round(last * (count - 1 - step) / (count - 1)) for step in range(count)]
    return [names[place] for place in places]


def starts(steps: int, epochs: int) -> list[int]:
    """After which epoch each step begins; the first begins after epoch 0.

    Raises:
        ConfigError: Fewer epochs than steps.
    """
    if not 1 <= steps <= epochs:
        raise ConfigError(
            f"Every step needs an epoch: {steps} steps in {epochs} epochs. Give more epochs, or "
            f"steps={max(epochs, 1)} or fewer."
        )
    return [step * epochs // steps for step in range(steps)]
