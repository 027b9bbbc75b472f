"""One epoch over the training batches, and one look at the val batches.

Nothing waits for the device within an epoch: losses and hits add up there, and come back at its
end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from transferkit._typing import Float64Array, Int64Array
from transferkit.errors import ConfigError, TrainingError
from transferkit.models.device import Precision, autocast
from transferkit.training.batches import Feed, plain_plan
from transferkit.training.optimizer import clip
from transferkit.training.options import ClassWeights

AUX_WEIGHT = 0.3
"""Weight of each auxiliary head's loss (Szegedy et al. 2015, Going Deeper, section 5)."""


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """Cross-entropy as a sum over samples, to be divided by :meth:`mass`.

    The quotient is the mean over samples, or with class weights the weighted mean, as in
    ``torch.nn.CrossEntropyLoss``. Sum and mass apart make the mean right over batches of any size.

    Attributes:
        weights: Weight of each class (K,), or None.
        label_smoothing: The share of the target spread over all classes.
    """

    weights: Float64Array | None = None
    label_smoothing: float = 0.0

    def mass(self, labels: Int64Array) -> float:
        """The weight of all ``labels`` together: their number where no class has a weight."""
        return float(len(labels) if self.weights is None else self.weights[labels].sum())

    def __call__(self, outputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Sum the loss of the main logits and ``AUX_WEIGHT`` times that of the others.

        Args:
            outputs: Logits (B, K), the main head's first.
            labels: Class numbers (B,).
        """
        main, *others = [self._sum(logits, labels) for logits in outputs]
        return main + AUX_WEIGHT * torch.stack(others).sum() if others else main

    def _sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        weights = None
        if self.weights is not None:
            weights = torch.as_tensor(self.weights, dtype=torch.float32, device=logits.device)
        return cross_entropy(
            logits.float(),
            labels,
            weight=weights,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )


def class_weights(
    weights: ClassWeights | None, labels: Int64Array, num_classes: int
) -> Float64Array | None:
    """Weights of the classes (K,): those given, or ``"balanced"`` ones, N / (K * count).

    Raises:
        ConfigError: Not one weight for each class.
    """
    if weights is None:
        return None
    if isinstance(weights, str):
        counts = np.bincount(labels, minlength=num_classes)
        return len(labels) / (num_classes * np.maximum(counts, 1.0))
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (num_classes,):
        raise ConfigError(f"class_weights needs {num_classes} numbers, one a class, got {weights}.")
    return values


_LOOK_EVERY = 50
"""On a GPU, how many batches pass between two looks for a loss that is not a number."""


@dataclass(slots=True, eq=False)
class Meter:
    """Adds up losses and hits on the device.

    Attributes:
        device: Where they are.
        losses: The summed loss of each batch so far.
        mass: The weight of all samples so far.
        count: The samples so far.
    """

    device: torch.device
    losses: list[Tensor] = field(default_factory=list)
    mass: float = 0.0
    count: int = 0
    _hits: Tensor | int = 0
    _looked_at: int = 0

    def add(self, loss: Tensor, mass: float, logits: Tensor, labels: Tensor) -> None:
        """Take in one batch: its summed loss, its weight, its logits and labels."""
        self.losses.append(loss.detach())
        self._hits = self._hits + (logits.detach().argmax(dim=1) == labels).sum()
        self.mass += mass
        self.count += len(labels)

    def first_bad(self, *, every: int = 1) -> int | None:
        """The first batch whose loss is not finite, among those not looked at before.

        Looks only when ``every`` batches have come since the last look.
        """
        fresh = self.losses[self._looked_at :]
        if len(fresh) < every:
            return None
        finite = torch.isfinite(torch.stack(fresh)).tolist()
        start, self._looked_at = self._looked_at, len(self.losses)
        return None if all(finite) else start + finite.index(False)

    def figures(self) -> tuple[float, float]:
        """Mean loss and accuracy over all samples."""
        total = torch.stack(self.losses).sum(dtype=torch.float64).item()
        return total / self.mass, float(self._hits) / self.count


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """How batches are turned into optimizer steps.

    Attributes:
        loss: The training loss.
        device: Where the model is.
        accumulate: How many batches make one optimizer step.
        clip_norm: The largest norm of the gradient, or None.
        precision: Of the forward pass.
    """

    loss: Loss
    device: torch.device
    accumulate: int = 1
    clip_norm: float | None = None
    precision: Precision = "auto"

    def steps(self, plan: Sequence[Int64Array]) -> list[Sequence[Int64Array]]:
        """The batches of the plan, grouped into optimizer steps."""
        return [plan[i : i + self.accumulate] for i in range(0, len(plan), self.accumulate)]

    def train(
        self,
        feed: Feed,
        plan: Sequence[Int64Array],
        optimizer: Optimizer,
        *,
        epoch: int,
        before_step: Callable[[], None],
    ) -> tuple[float, float]:
        """Take one optimizer step for each group of batches.

        The gradient of a step is that of the mean over all samples of its batches, so that
        accumulation gives the step that one large batch would.

        Args:
            feed: The training split.
            plan: The rows of each batch.
            optimizer: What takes the steps.
            epoch: The number of the epoch, for messages.
            before_step: Called before each step, to set the rates.

        Returns:
            Mean loss and accuracy over the epoch, as each batch was seen.

        Raises:
            TrainingError: The loss of a batch is not finite.
        """
        meter = Meter(self.device)
        batches = feed.batches(plan, self.device)
        optimizer.zero_grad(set_to_none=True)
        for group in self.steps(plan):
            before_step()
            mass = max(self.loss.mass(feed.labels[np.concatenate(group)]), 1e-12)
            for rows, (inputs, labels) in zip(group, islice(batches, len(group)), strict=True):
                with autocast(self.precision, self.device):
                    outputs = feed.forward(*inputs)
                loss = self.loss(outputs, labels)
                meter.add(loss, self.loss.mass(feed.labels[rows]), outputs[0], labels)
                self._stop_if_bad(
                    meter, epoch, every=1 if self.device.type == "cpu" else _LOOK_EVERY
                )
                torch.autograd.backward(loss / mass)
            clip(optimizer, self.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._stop_if_bad(meter, epoch)
        return meter.figures()

    def _stop_if_bad(self, meter: Meter, epoch: int, *, every: int = 1) -> None:
        batch = meter.first_bad(every=every)
        if batch is not None:
            value, step = meter.losses[batch].item(), batch // self.accumulate + 1
            raise diverged(f"The training loss became {value} at epoch {epoch}, step {step} of it.")

    def judge(self, feed: Feed) -> tuple[float, float]:
        """Mean cross-entropy and accuracy of the main logits; the model must be in eval mode."""
        plain, meter = Loss(), Meter(self.device)
        plan = plain_plan(len(feed.inputs), feed.at_once)
        with torch.inference_mode(), autocast(self.precision, self.device):
            for inputs, labels in feed.batches(plan, self.device):
                logits = feed.forward(*inputs)[0]
                meter.add(plain((logits,), labels), len(labels), logits, labels)
        return meter.figures()


def diverged(what: str) -> TrainingError:
    """The error of a run that has left the numbers, with what to do next."""
    return TrainingError(
        f"{what} The model has the weights of the last whole epoch again. "
        "Try a lower lr, a warmup, or clip_norm=1.0."
    )
