"""Multinomial logistic regression on features: the one solver behind every probe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike
from scipy.optimize import minimize

from transferkit._typing import Float64Array, FloatArray, Int64Array
from transferkit.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PENALTIES: tuple[float, ...] = tuple(float(10.0**power) for power in range(1, -7, -1))
"""The path that a head is chosen from, from strong to weak."""

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse regularisation strengths that a probe's setting is chosen from."""

_MAX_ITERATIONS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A solved linear classifier of features that are not scaled."""

    weight: Float64Array  # (K, D)
    bias: Float64Array  # (K,), -inf for classes that were not seen
    penalty: float
    iterations: int

    def scores(self, features: FloatArray) -> Float64Array:
        """Return logits (N, K); their largest is the predicted class."""
        logits: Float64Array = features @ self.weight.T + self.bias
        return logits

    def predict(self, features: FloatArray) -> Int64Array:
        """Return predicted classes (N,)."""
        predicted: Int64Array = self.scores(features).argmax(axis=1)
        return predicted


def solve_path(
    features: FloatArray,
    labels: Int64Array,
    num_classes: int,
    *,
    penalties: Sequence[float] = PENALTIES,
    class_weights: Float64Array | None = None,
    label_smoothing: float = 0.0,
    device: torch.device | str = "cpu",
    dtype: DTypeLike = np.float64,
    tolerance: float = 1e-6,
) -> Iterator[Probe]:
    """Solve multinomial logistic regression for each penalty in turn, each from the one before.

    Minimised is the mean cross-entropy plus penalty / 2 times the squared weights, on features
    (N, D) scaled to mean 0 and standard deviation 1; the biases are free. The method is L-BFGS (Liu
    and Nocedal 1989) until no element of the gradient exceeds ``tolerance``. ``class_weights`` (K,)
    weigh images in the mean, and not the smoothed labels within an image.
    """
    import torch

    mean = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64)
    # The mean of equal numbers is off by rounding, which must not be taken for a spread.
    scale = np.where(spread > 1e-12 * np.maximum(1, np.abs(mean)), spread, 1.0)
    scaled = (features - mean.astype(dtype)) / scale.astype(dtype)
    inputs = torch.as_tensor(scaled.astype(dtype, copy=False), device=device)
    smoothed = np.full((len(labels), num_classes), label_smoothing / num_classes)
    smoothed[np.arange(len(labels)), labels] += 1 - label_smoothing
    weights = np.ones(len(labels)) if class_weights is None else class_weights[labels]
    given = smoothed, (weights / weights.sum())[:, None]
    targets, shares = (torch.as_tensor(each.astype(dtype), device=device) for each in given)
    start = np.zeros(num_classes * (inputs.shape[1] + 1))
    for penalty in penalties:
        found = minimize(
            _loss_and_gradient,
            start,
            (penalty, inputs, targets, shares),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _MAX_ITERATIONS, "gtol": tolerance, "ftol": 0.0, "maxcor": 20},
        )
        start = found.x
        table = start.reshape(num_classes, -1)
        weight = table[:, :-1] / scale
        yield Probe(weight, table[:, -1] - weight @ mean, penalty, int(found.nit))


def _loss_and_gradient(
    flat: Float64Array, penalty: float, inputs: Tensor, targets: Tensor, shares: Tensor
) -> tuple[float, Float64Array]:
    """Penalised loss and its gradient at weights and biases, flat (K (D + 1),)."""
    import torch

    table = torch.as_tensor(flat, dtype=inputs.dtype, device=inputs.device)
    table = table.reshape(targets.shape[1], -1)
    weight, bias = table[:, :-1], table[:, -1]
    logs = (inputs @ weight.T + bias).log_softmax(dim=1)
    loss = -(shares * targets * logs).sum() + penalty / 2 * weight.square().sum()
    slope = shares * (logs.exp() - targets)  # d loss / d logits
    gradient = torch.cat([slope.T @ inputs + penalty * weight, slope.sum(dim=0)[:, None]], dim=1)
    return float(loss), gradient.reshape(-1).double().cpu().numpy()


def fit_probe(
    features: FloatArray, labels: Int64Array, *, num_classes: int, strength: float = 1.0
) -> Probe:
    """Fit scikit-learn's LogisticRegression, of ``C`` = strength, to features (N, D)."""
    present, codes = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        raise DataError(
            f"A probe needs images of at least two classes, got {len(labels)} images of "
            f"{len(present)}."
        )
    # With two classes, scikit-learn has one vector of weights, w, where here are two, w / 2 and
    # -w / 2, so that the same penalty counts half.
    penalty = (2.0 if len(present) == 2 else 1.0) / (strength * len(labels))
    dtype = np.float32 if features.dtype == np.float32 else np.float64
    (found,) = solve_path(
        features, codes, len(present), penalties=[penalty], dtype=dtype, tolerance=1e-5
    )
    weight = np.zeros((num_classes, features.shape[1]))
    bias = np.full(num_classes, -np.inf)
    weight[present], bias[present] = found.weight, found.bias
    return replace(found, weight=weight, bias=bias)
