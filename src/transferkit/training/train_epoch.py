"""One epoch from top to bottom: batches, loss, optimizer steps, validation, best weights.

Nothing waits for the device within an epoch: losses and hits add up there, and are read at its end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from transferkit._typing import Float64Array, Int64Array
from transferkit.data.image_data import ImageData
from transferkit.errors import ConfigError, TrainingError
from transferkit.metrics.evaluation import evaluate_probabilities
from transferkit.models.device import autocast, seeded
from transferkit.models.fast_layers import fast_formats
from transferkit.training.batches import Loader, Loaders, ordered_batches, shuffled_batches
from transferkit.training.checkpoint import Run
from transferkit.training.history import EpochRecord, Monitor, ValFigures
from transferkit.training.optimizer import (
    parameters_of,
    rate_factor,
    scale_rates,
    warm_up_steps,
)
from transferkit.training.options import ClassWeights, Options

AUX_WEIGHT = 0.3
"""Weight of each auxiliary head's loss (Szegedy et al. 2015, Going Deeper, section 5)."""

_CHECK_LOSS_EVERY = 50
"""On a GPU, batches between two checks for a loss that is NaN or infinite."""


def train_epoch(
    run: Run,
    loaders: Loaders,
    train: ImageData,
    val: ImageData | None,
    *,
    epochs: int,
    on_step: Callable[[], object],
) -> EpochRecord:
    """Train for one epoch and validate; ``epochs`` is the length of the whole run."""
    started = time.perf_counter()
    model, options, number = run.model, run.options, run.epochs_done + 1
    optimizer = run.begin_epoch()
    train_loader, val_loader = loaders.of(train, val, epoch=number)
    labels = train_loader.labels
    weights = class_weights(options.class_weights, labels, model.num_classes)
    loss = Loss(weights, options.label_smoothing)

    batches = shuffled_batches(len(labels), options.batch_size, seed=options.seed, epoch=number)
    check_batch_norm(model, batches)
    size = options.accumulate
    steps = [batches[i : i + size] for i in range(0, len(batches), size)]
    meter, rate = Meter(run.device), 0.0
    with fast_formats(model):
        with seeded((options.seed, number, 1), run.device):
            for step in steps:
                rate = scale_rates(optimizer, schedule_factor(run, epochs * len(steps)))
                take_step(train_loader, step, loss, optimizer, meter, options)
                run.step += 1
                on_step()
                meter.check(number, size)
        meter.check(number, size, all_of_them=True)
        model.eval()
        check_weights(model, number)
        figures: ValFigures = {} if val_loader is None else validate(val_loader, run)

    seconds = time.perf_counter() - started
    record = EpochRecord(number, run.step, rate, *meter.figures(), None, None, seconds)
    record = replace(record, **figures)
    run.end_epoch(record, images=len(labels))
    return record


def take_step(
    loader: Loader,
    batches: Sequence[Int64Array],
    loss: Loss,
    optimizer: Optimizer,
    meter: Meter,
    options: Options,
) -> None:
    """Take one optimizer step on the mean loss over all samples of ``batches``.

    Sum and mass of the loss are apart, so that accumulated batches give the step that one large
    batch would, also with class weights and with a last batch that is smaller.
    """
    mass = max(loss.mass(loader.labels[np.concatenate(batches)]), 1e-12)
    for rows in batches:
        inputs, labels = loader.batch(rows, meter.device)
        with autocast(options.precision, meter.device):
            outputs = loader.forward(*inputs)  # random augmentation comes first in it
        total = loss(outputs, labels)
        meter.add(total, loss.mass(loader.labels[rows]), outputs[0], labels)
        torch.autograd.backward(total / mass)
    if options.clip_norm is not None:
        clip_grad_norm_(parameters_of(optimizer), options.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def validate(loader: Loader, run: Run) -> ValFigures:
    """Mean cross-entropy, accuracy and the monitored figure; the model must be in eval mode."""
    loss, meter, kept = Loss(), Meter(run.device), list[Tensor]()
    monitor = run.options.monitor
    with torch.inference_mode(), autocast(run.options.precision, run.device):
        for rows in ordered_batches(np.arange(len(loader.labels)), loader.eval_batch_size):
            inputs, labels = loader.batch(rows, run.device)
            logits = loader.forward(*inputs)[0]
            meter.add(loss((logits,), labels), len(labels), logits, labels)
            if monitor not in ("val_accuracy", "val_loss"):
                kept.append(logits)
    mean_loss, accuracy = meter.figures()
    if not math.isfinite(mean_loss):
        epoch = run.epochs_done + 1
        raise diverged(f"The val loss became {mean_loss} after epoch {epoch}.")
    figures: ValFigures = {"val_loss": mean_loss, "val_accuracy": accuracy}
    return {**figures, **monitored(monitor, kept, loader.labels)}


def monitored(monitor: Monitor, logits: Sequence[Tensor], labels: Int64Array) -> ValFigures:
    """The figures that need the logits (B, K) of all batches together, if one is monitored."""
    if monitor in ("val_accuracy", "val_loss"):
        return {}
    probabilities = torch.cat(list(logits)).cpu().double().softmax(dim=1)
    scores = evaluate_probabilities(probabilities.numpy(), labels)
    auroc = None if math.isnan(scores.auroc) else scores.auroc
    if auroc is None and monitor == "val_auroc":
        raise ConfigError(
            "monitor='val_auroc' is undefined on val, which has images of one class only. Choose "
            "monitor='val_loss', or give a val split with images of two classes or more."
        )
    return {
        "val_balanced_accuracy": scores.balanced_accuracy,
        "val_auroc": auroc,
        "val_macro_f1": float(np.nanmean([one.f1 for one in scores.per_class])),
    }


def schedule_factor(run: Run, total: int) -> float:
    """The factor on all learning rates at the next of ``total`` optimizer steps."""
    options, records = run.options, run.history.records
    validated = all(record.val_loss is not None for record in records)
    monitor = options.monitor if validated else "train_loss"
    return rate_factor(
        options.scheduler,
        run.step,
        total,
        warmup=warm_up_steps(options.warmup, total),
        figures=[getattr(record, monitor) for record in records],
        maximize=not monitor.endswith("loss"),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """Cross-entropy as a sum over samples; divided by :meth:`mass`, it is the (weighted) mean."""

    weights: Float64Array | None = None
    label_smoothing: float = 0.0

    def mass(self, labels: Int64Array) -> float:
        """The weight of all ``labels`` together: their number where no class has a weight."""
        return float(len(labels) if self.weights is None else self.weights[labels].sum())

    def __call__(self, outputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Loss of the main logits (B, K), plus ``AUX_WEIGHT`` times that of each auxiliary head."""
        main, *others = [self._sum(logits, labels) for logits in outputs]
        return main + AUX_WEIGHT * torch.stack(others).sum() if others else main

    def _sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing, logits = self.label_smoothing, logits.float()
        if self.weights is None:
            return cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        # each sample has the weight of its own class. With `weight=`, torch also weighs the share
        # of the target that smoothing gives to the other classes: past 19:1 and smoothing 0.1 a
        # rare class then draws more from the smoothing of the others than they keep themselves
        weights = torch.as_tensor(self.weights, dtype=torch.float32, device=logits.device)
        losses = cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        return (weights[labels] * losses).sum()


def class_weights(
    weights: ClassWeights | None, labels: Int64Array, num_classes: int
) -> Float64Array | None:
    """Weights of the classes (K,): those of the user, or ``"balanced"`` ones.

    Balanced weights give each class that has samples the same mass, and the others none.
    """
    if weights is None:
        return None
    counts = np.bincount(labels, minlength=num_classes)
    if isinstance(weights, str):
        present = counts > 0
        return np.where(present, len(labels) / (present.sum() * np.maximum(counts, 1)), 0.0)
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (num_classes,):
        raise ConfigError(
            f"class_weights must be {num_classes} numbers, one for each class, got {weights}."
        )
    if not (values * counts).any():
        raise ConfigError(
            f"class_weights={weights} leaves no training image with a weight above 0."
        )
    return values


@dataclass(slots=True, eq=False)
class Meter:
    """Adds up losses and hits on the device, and the weight and number of samples."""

    device: torch.device
    losses: list[Tensor] = field(default_factory=list)
    mass: float = 0.0
    count: int = 0
    _hits: Tensor | int = 0
    _checked: int = 0

    def add(self, loss: Tensor, mass: float, logits: Tensor, labels: Tensor) -> None:
        """Take in one batch: its summed loss, its weight, its logits (B, K) and labels (B,)."""
        self.losses.append(loss.detach())
        self._hits = self._hits + (logits.detach().argmax(dim=1) == labels).sum()
        self.mass += mass
        self.count += len(labels)

    def check(self, epoch: int, accumulate: int, *, all_of_them: bool = False) -> None:
        """See that the losses are finite; on a GPU only from time to time, because it waits."""
        fresh = self.losses[self._checked :]
        often = all_of_them or self.device.type == "cpu"
        if len(fresh) < (1 if often else _CHECK_LOSS_EVERY):
            return
        finite = torch.isfinite(torch.stack(fresh)).tolist()
        if not all(finite):
            batch = self._checked + finite.index(False)
            value, step = self.losses[batch].item(), batch // accumulate + 1
            raise diverged(f"The training loss became {value} at epoch {epoch}, step {step}.")
        self._checked = len(self.losses)

    def figures(self) -> tuple[float, float]:
        """Mean loss and accuracy over all samples."""
        # on the CPU, because not every device has float64 (MPS)
        total = torch.stack(self.losses).cpu().sum(dtype=torch.float64).item()
        return total / self.mass, float(self._hits) / self.count


def check_batch_norm(model: nn.Module, batches: Sequence[Int64Array]) -> None:
    """See that no batch of one image meets a batch norm that trains; ``model`` is in train mode."""
    if min(map(len, batches)) > 1:
        return
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise TrainingError(
                f"A batch of one image cannot train the batch norm {name!r}: its variance is 0. "
                "Give more images, a batch_size of 2 or more, or freeze the stage."
            )


def check_weights(model: nn.Module, epoch: int) -> None:
    """See that all trainable weights are finite."""
    tensors: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(tensors)])
    if not torch.isfinite(norms).all():
        raise diverged(f"A weight became infinite or NaN in epoch {epoch}.")


def diverged(reason: str) -> TrainingError:
    """The error for a loss or weight that became NaN or infinite."""
    return TrainingError(
        f"{reason} The model has the weights of the last whole epoch again. "
        "Try a lower lr, a warmup, or clip_norm=1.0."
    )
