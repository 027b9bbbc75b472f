"""The learning-rate range test: a short run at rising learning rates, on a copy of the model."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import Unpack

import numpy as np
import torch
from scipy.signal import savgol_filter

from transferkit._format import PlainResult, table
from transferkit._typing import Float64Array
from transferkit._validation import check_number, check_whole
from transferkit.data.image_data import ImageData
from transferkit.data.splits import require_splits
from transferkit.errors import ConfigError, TrainingError
from transferkit.models.classifier import Classifier, match_classes, require_classifier
from transferkit.models.device import check_precision, place, plain_context, seeded, training_device
from transferkit.training.batches import Loader, augmented, reader_of_images, shuffled_batches
from transferkit.training.optimizer import build_optimizer, scale_rates
from transferkit.training.options import Options, TrainOptions, check_option_names
from transferkit.training.train_epoch import (
    Loss,
    Meter,
    check_batch_norm,
    class_weights,
    take_step,
)
from transferkit.training.trainer import check_data

SMOOTHING = 0.9
"""Decay of the exponential moving average of the loss."""
DIVERGED = 4.0
"""The run ends when the smoothed loss exceeds this multiple of its lowest value."""


@dataclass(frozen=True, slots=True, eq=False)
class LRFind(PlainResult):
    """Loss against learning rate.

    Attributes:
        rates: Learning rates of the head, rising, ``(S,)``.
        losses: Training loss of the batch at each of them, smoothed, ``(S,)``.
        suggestion: The rate at which the loss falls most steeply, before its lowest value.
    """

    rates: Float64Array
    losses: Float64Array
    suggestion: float

    def __str__(self) -> str:
        places = np.unique(np.linspace(0, len(self.rates) - 1, 12).round().astype(np.int64))
        rows = [[f"{self.rates[i]:.1e}", f"{self.losses[i]:.4f}"] for i in places]
        return f"{table(['lr', 'loss'], rows, left=0)}\n\nsuggestion: lr={self.suggestion:.1e}"


def lr_find(
    model: Classifier,
    data: ImageData | Mapping[str, ImageData],
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
    **options: Unpack[TrainOptions],
) -> LRFind:
    """Train a copy of ``model`` at learning rates that rise from step to step.

    The model, its mode and all random states are left as they were. Source: L. N. Smith,
    "Cyclical learning rates for training neural networks", WACV 2017, section 3.3,
    arXiv:1506.01186; the rate of steepest fall is fastai's suggestion.

    Args:
        model: The classifier; its frozen stages are frozen in the copy too.
        data: Training images, or splits with ``"train"``.
        lowest: First learning rate of the head.
        highest: Last learning rate; where the loss diverges the run ends earlier.
        steps: Optimizer steps, one for each rate, spaced evenly in the logarithm.
        **options: Options of the training that the rate is for, see
            :class:`~transferkit.Trainer`, without ``scheduler`` and ``warmup``; ``monitor``,
            ``patience``, ``progress``, ``cache``, ``compiled`` and ``checkpoint`` have no
            effect here.

    Raises:
        ConfigError: Not ``0 < lowest < highest``, fewer than ten steps, or a bad option.
        DataError: The data cannot train this model.
        TrainingError: Everything is frozen, or the loss is not finite at the lowest rates.
    """
    check_number("lowest", lowest, above=0)
    check_number("highest", highest, above=lowest)
    check_whole("steps", steps, least=10)
    check_option_names(options, owner="lr_find", beside=("lowest", "highest", "steps"))
    for name in options.keys() & {"scheduler", "warmup"}:
        raise ConfigError(
            f"{name} is no option of lr_find, which sets the learning rate of each step itself. "
            "Leave it to the training."
        )
    chosen = Options(lr=lowest, **options)
    model = require_classifier(model)
    train = data if isinstance(data, ImageData) else require_splits(data).require("train")[0]
    check_data(model, train, None)
    train = match_classes(model, train)
    with plain_context():
        twin = copy.deepcopy(model)
    device = place(twin, training_device(chosen.device, twin))
    check_precision(chosen.precision, device, twin)
    rates = np.geomspace(lowest, highest, steps)
    with plain_context(device), seeded((chosen.seed, 0, 1), device):
        losses = _losses(twin.train(), train, rates, chosen, device)
    if len(losses) < 10:
        raise TrainingError(
            f"The loss became NaN or infinite after {len(losses)} steps, at "
            f"lr={rates[len(losses)]:.1e}. Start from a smaller rate, lowest={lowest / 100:.0e}."
        )
    tried = rates[: len(losses)]
    return LRFind(tried, losses, steepest(tried, losses))


def steepest(rates: Float64Array, losses: Float64Array) -> float:
    """Rate of steepest fall in log(rate) before the lowest loss; both ``(S,)``, evenly spaced."""
    # The slope is that of a line fitted to an eighth of the steps. The first steps are left out:
    # their smoothed loss is the mean of a few batches, and falls or rises by chance.
    window = max(3, len(losses) // 8 | 1)
    slope = savgol_filter(losses, window, polyorder=1, deriv=1)
    end = int(np.argmin(losses)) + 1
    start = min(window, end - 1)
    return float(rates[start + int(np.argmin(slope[start:end]))])


def _losses(
    model: Classifier,
    train: ImageData,
    rates: Float64Array,
    options: Options,
    device: torch.device,
) -> Float64Array:
    """Smoothed loss at each rate, until it diverges."""
    labels = train.require_labels("Training")
    forward = augmented(model.outputs, options.augment)
    loader = Loader(reader_of_images(train, device), labels, forward)
    weights = class_weights(options.class_weights, labels, model.num_classes)
    loss = Loss(weights, options.label_smoothing)
    optimizer = build_optimizer(model, options)
    check_batch_norm(model, shuffled_batches(len(train), options.batch_size, seed=0, epoch=1))
    batches = chain.from_iterable(
        shuffled_batches(len(train), options.batch_size, seed=options.seed, epoch=epoch)
        for epoch in count(1)
    )
    mean, lowest, smoothed = 0.0, np.inf, list[float]()
    for step, rate in enumerate(rates, start=1):
        scale_rates(optimizer, float(rate) / options.lr)
        meter = Meter(device)
        step_batches = list(islice(batches, options.accumulate))
        take_step(loader, step_batches, loss, optimizer, meter, options)
        value, _ = meter.figures()
        if not math.isfinite(value):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        smoothed.append(mean / (1 - SMOOTHING**step))  # corrects the start at zero, as Adam
        lowest = min(lowest, smoothed[-1])
        if smoothed[-1] > DIVERGED * lowest:
            break
    return np.array(smoothed)
