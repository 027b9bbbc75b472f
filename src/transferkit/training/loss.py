"""The loss: cross-entropy, with class weights, label smoothing and auxiliary heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from transferkit._typing import Float64Array, Int64Array
from transferkit.errors import ConfigError
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
