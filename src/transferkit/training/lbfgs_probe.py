"""A linear head solved to the optimum, along a path of penalties, instead of stepped towards it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from transferkit._typing import Float64Array, FloatArray, Int64Array
from transferkit.data.image_data import Splits
from transferkit.errors import ConfigError
from transferkit.models.classifier import Classifier
from transferkit.models.device import device_of
from transferkit.models.features import Features, extract_features
from transferkit.training.history import EpochRecord, History
from transferkit.training.options import Options
from transferkit.training.train_epoch import class_weights
from transferkit.training.trainer import check_data

PENALTIES: tuple[float, ...] = tuple(float(10.0**power) for power in range(1, -7, -1))
"""The path, from strong to weak."""

_MAX_ITERATIONS = 1000
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """A solved linear head.

    Attributes:
        weight: (K, D), for the features as they are.
        bias: (K,).
        penalty: The penalty it was solved with.
        iterations: L-BFGS iterations it took from the solution before.
    """

    weight: Float64Array
    bias: Float64Array
    penalty: float
    iterations: int


def solve_path(
    features: FloatArray,
    labels: Int64Array,
    num_classes: int,
    *,
    penalties: Sequence[float] = PENALTIES,
    class_weights: Float64Array | None = None,
    label_smoothing: float = 0.0,
    device: torch.device | str = "cpu",
) -> Iterator[Solution]:
    """Solve multinomial logistic regression for each penalty in turn, each from the one before.

    What is minimised is the mean cross-entropy plus penalty / 2 times the squared weights, on
    features that are scaled to mean 0 and standard deviation 1; the bias is free. The method is
    L-BFGS in float64 (Liu & Nocedal 1989), which needs 8 N D bytes.

    Args:
        features: (N, D).
        labels: (N,), in [0, K).
        num_classes: K.
        penalties: The path.
        class_weights: Weight of each class (K,) in the mean.
        label_smoothing: Share of the target that is spread over all classes.
        device: Where the products are computed.

    Yields:
        One solution a penalty, in terms of the features as they came.
    """
    problem = _Problem.of(features, labels, num_classes, class_weights, label_smoothing, device)
    start = np.zeros(num_classes * (problem.inputs.shape[1] + 1))
    for penalty in penalties:
        found = minimize(
            problem.value_and_gradient,
            start,
            args=(penalty,),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _MAX_ITERATIONS, "gtol": _TOLERANCE, "ftol": 0.0, "maxcor": 20},
        )
        start = found.x
        weight, bias = problem.unscaled(found.x)
        yield Solution(weight, bias, penalty, int(found.nit))


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """The data of one regression: scaled features (N, D), targets (N, K), sample weights (N, 1)."""

    inputs: Tensor
    targets: Tensor
    shares: Tensor
    mean: Float64Array
    scale: Float64Array

    @classmethod
    def of(
        cls,
        features: FloatArray,
        labels: Int64Array,
        num_classes: int,
        class_weights: Float64Array | None,
        label_smoothing: float,
        device: torch.device | str,
    ) -> _Problem:
        """Scale the features and spread the labels."""
        mean = features.mean(axis=0, dtype=np.float64)
        spread = features.std(axis=0, dtype=np.float64)
        scale = np.where(spread > 0, spread, 1.0)
        targets = np.full((len(labels), num_classes), label_smoothing / num_classes)
        targets[np.arange(len(labels)), labels] += 1 - label_smoothing
        heavy = np.ones(num_classes) if class_weights is None else class_weights
        # with smoothing, each class's part of the loss has that class's weight, as in torch
        targets *= heavy
        shares = np.full((len(labels), 1), 1 / heavy[labels].sum())
        return cls(
            torch.as_tensor((features - mean) / scale, dtype=torch.float64, device=device),
            torch.as_tensor(targets, dtype=torch.float64, device=device),
            torch.as_tensor(shares, dtype=torch.float64, device=device),
            mean,
            scale,
        )

    def value_and_gradient(self, flat: Float64Array, penalty: float) -> tuple[float, Float64Array]:
        """The penalised loss and its gradient at (weights, biases), both flat."""
        table = torch.as_tensor(flat, device=self.inputs.device).reshape(self.targets.shape[1], -1)
        weight, bias = table[:, :-1], table[:, -1]
        logs = (self.inputs @ weight.T + bias).log_softmax(dim=1)
        value = -(self.shares * self.targets * logs).sum() + penalty / 2 * weight.square().sum()
        mass = self.targets.sum(dim=1, keepdim=True)
        slope = self.shares * (mass * logs.exp() - self.targets)
        gradient = torch.cat(
            [slope.T @ self.inputs + penalty * weight, slope.sum(dim=0)[:, None]], dim=1
        )
        return float(value), gradient.reshape(-1).cpu().numpy()

    def unscaled(self, flat: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Weights and biases for the features as they came."""
        table = flat.reshape(self.targets.shape[1], -1)
        weight = table[:, :-1] / self.scale
        return weight, table[:, -1] - weight @ self.mean


def solve_head(model: Classifier, splits: Splits, options: Options) -> History:
    """Solve the head of ``model`` on the train split, and keep the penalty that is best on val.

    Args:
        model: A classifier with a linear head; the head is written to.
        splits: Train and val.
        options: Class weights, label smoothing, monitor and cache are taken from here.

    Returns:
        One record a penalty, from strong to weak.

    Raises:
        ConfigError: The head is not a single linear layer.
        DataError: The data cannot train this model.
    """
    head = linear_layer(model.head)
    check_data(model, splits["train"], splits["val"])
    start, device = time.perf_counter(), device_of(model)
    train, val = (
        Labelled.of(extract_features(model, splits[name], cache=options.cache), device)
        for name in ("train", "val")
    )
    labels = train.labels.cpu().numpy()
    path = solve_path(
        train.features.cpu().numpy(),
        labels,
        model.num_classes,
        class_weights=class_weights(options.class_weights, labels, model.num_classes),
        label_smoothing=options.label_smoothing,
        device=device,
    )
    history, best = History(monitor=options.monitor), None
    for solution in path:
        step = history.records[-1].step if history.records else 0
        figures = (*train.judge(solution), *val.judge(solution))
        seconds, start = time.perf_counter() - start, time.perf_counter()
        record = EpochRecord(
            len(history) + 1, step + solution.iterations, solution.penalty, *figures, seconds
        )
        history = History((*history.records, record), history.monitor)
        if history.best_epoch == record.epoch:
            best = solution
    assert best is not None  # the path is not empty, and val was judged at each point
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(best.weight))
        head.bias.copy_(torch.from_numpy(best.bias))
    model.eval()
    return history


def linear_layer(head: nn.Module) -> nn.Linear:
    """The head, which must be one linear layer with a bias.

    Raises:
        ConfigError: It is not.
    """
    if isinstance(head, nn.Linear) and head.bias is not None:
        return head
    raise ConfigError(
        f"solver='lbfgs' solves a head of one linear layer, got {type(head).__name__}. Build the "
        "classifier with head='linear' and dropout=0, or take solver='minibatch'."
    )


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Features (N, D) and labels (N,) on the device."""

    features: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, features: Features, device: torch.device) -> Labelled:
        """Move the features of a labelled split to ``device``."""
        return cls(
            torch.from_numpy(features.features).to(device),
            torch.as_tensor(features.labels, device=device),
        )

    def judge(self, solution: Solution) -> tuple[float, float]:
        """Mean cross-entropy and accuracy of a solution."""
        weight = torch.as_tensor(solution.weight, dtype=torch.float32, device=self.features.device)
        bias = torch.as_tensor(solution.bias, dtype=torch.float32, device=self.features.device)
        logits = self.features @ weight.T + bias
        accuracy = (logits.argmax(dim=1) == self.labels).double().mean()
        return cross_entropy(logits, self.labels).item(), accuracy.item()
