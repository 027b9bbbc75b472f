"""The learning-rate range test: a short run at rising rates, on a copy."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from scipy.signal import savgol_filter

from transferkit._format import plain, table
from transferkit._typing import JSON, Float64Array, Int64Array
from transferkit._validation import check_number, check_whole
from transferkit.data.image_data import ImageData, require_splits
from transferkit.errors import ConfigError, TrainingError
from transferkit.models.classifier import Classifier, require_classifier
from transferkit.models.device import place, seeded, training_device
from transferkit.training.batches import Feed, Images, shuffled_plan
from transferkit.training.optimizer import build_optimizer, scale_rates
from transferkit.training.options import OptimizerName, Options
from transferkit.training.train_epoch import Loss, Meter, check_batch_norm, take_step
from transferkit.training.trainer import check_data

SMOOTHING = 0.9
"""Weight of the past in the running mean of the loss."""
DIVERGED = 4.0
"""The run ends when the smoothed loss exceeds this multiple of its lowest value so far."""


@dataclass(frozen=True, slots=True, eq=False)
class LRFind:
    """Loss against learning rate.

    Attributes:
        rates: Base rates tried, rising ``(S,)``.
        losses: Training loss of the batch at each rate, smoothed ``(S,)``.
        suggestion: The rate at which the loss falls most steeply, before its lowest value.
    """

    rates: Float64Array
    losses: Float64Array
    suggestion: float

    def to_dict(self) -> dict[str, JSON]:
        """The curve and the suggestion as plain data."""
        return {
            "rates": plain(self.rates),
            "losses": plain(self.losses),
            "suggestion": self.suggestion,
        }

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
    optimizer: OptimizerName = "adamw",
    weight_decay: float | None = None,
    layer_decay: float = 1.0,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> LRFind:
    """Train a copy of ``model``, as frozen as it is, at rates that rise from step to step.

    The model, its mode and every random state stay as they were, bit for bit. Source: L. N.
    Smith, "Cyclical learning rates for training neural networks", WACV 2017, section 3.3,
    arXiv:1506.01186; the rate of steepest fall is fastai's suggestion.

    Args:
        model: The classifier; stages that are frozen stay frozen in the copy.
        data: Training images, or splits with ``"train"``.
        lowest: First base rate.
        highest: Last base rate; the run ends before where the loss diverges.
        steps: Optimizer steps, one a rate, spaced evenly in the logarithm.
        optimizer: See :class:`~transferkit.Trainer`, as for all that follows.
        weight_decay: Of weight matrices and kernels.
        layer_decay: The rate falls by this factor with every stage away from the head.
        batch_size: Images a batch.
        device: Where to train the copy; by default a GPU if there is one.
        seed: Of batches, dropout and the like.

    Raises:
        ConfigError: Not ``0 < lowest < highest``, fewer than ten steps, or a bad option.
        DataError: The data cannot train this model.
        TrainingError: Everything is frozen, or the loss is not finite at the lowest rates.
    """
    check_number("lowest", lowest, above=0)
    check_number("highest", highest, above=0)
    check_whole("steps", steps)
    if not lowest < highest or steps < 10:
        raise ConfigError(
            f"lr_find needs 0 < lowest < highest and 10 steps or more, got {lowest}, {highest} "
            f"and {steps}."
        )
    model = require_classifier(model)
    train = data if isinstance(data, ImageData) else require_splits(data).require("train")[0]
    options = Options(
        optimizer=optimizer,
        lr=lowest,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        batch_size=batch_size,
        seed=seed,
    )
    check_data(model, train, None)
    twin = copy.deepcopy(model)
    rates = np.geomspace(lowest, highest, steps)
    where = place(twin, training_device(device, twin))
    with seeded((seed, 0, 1), where):
        losses = _losses(twin.train(), train, rates, options, where)
    if len(losses) < 10:
        raise TrainingError(
            f"The loss left the numbers after {len(losses)} steps, at lr={rates[len(losses)]:.1e}. "
            "Give a lower `lowest`."
        )
    tried = rates[: len(losses)]
    return LRFind(tried, losses, steepest(tried, losses))


def steepest(rates: Float64Array, losses: Float64Array) -> float:
    """The rate at which the loss falls fastest in the logarithm of the rate, before its lowest.

    The slope is that of a line through an eighth of the steps, and the first steps are passed
    over: there the smoothed loss is the mean of a few batches, and falls or rises by chance.

    Args:
        rates: (N,), evenly spaced in the logarithm.
        losses: (N,), smoothed.
    """
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
    feed = Feed(Images(train), train.require_labels("Training"), model.outputs)
    optimizer = build_optimizer(model, options)
    check_batch_norm(model, [next(_batches(len(train), options))])
    mean, lowest, smoothed = 0.0, np.inf, list[float]()
    batches = islice(_batches(len(train), options), len(rates))
    for step, (rate, rows) in enumerate(zip(rates, batches, strict=True), start=1):
        scale_rates(optimizer, float(rate) / options.lr)
        meter = Meter(device)
        take_step(feed, [rows], Loss(), optimizer, meter, options)
        loss, _ = meter.figures()
        if not math.isfinite(loss):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING**step))  # as if there had been a past
        lowest = min(lowest, smoothed[-1])
        if smoothed[-1] > DIVERGED * lowest:
            break
    return np.array(smoothed)


def _batches(images: int, options: Options) -> Iterator[Int64Array]:
    for epoch in count(1):
        yield from shuffled_plan(images, options.batch_size, seed=options.seed, epoch=epoch)
