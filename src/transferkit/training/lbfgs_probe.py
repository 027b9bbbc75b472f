"""A linear head solved to the optimum by L-BFGS, for a path of L2 penalties."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from transferkit.data.splits import Splits
from transferkit.errors import ConfigError
from transferkit.metrics.logistic_regression import Probe, solve_path
from transferkit.models.classifier import Classifier
from transferkit.models.device import CPU, device_of, plain_context
from transferkit.models.features import Features, extract_features
from transferkit.training.history import EpochRecord, History
from transferkit.training.options import Options
from transferkit.training.train_epoch import class_weights, monitored
from transferkit.training.trainer import check_data, note_reading


def solve_head(model: Classifier, splits: Splits, options: Options) -> History:
    """Solve the head on train, from strong to weak penalties, and keep the best on val."""
    head = model.head
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise ConfigError(
            f"solver='lbfgs' solves a head of one linear layer, got {type(head).__name__}. Build "
            "the classifier with head='linear' and dropout=0, or take solver='minibatch'."
        )
    check_data(model, splits["train"], splits["val"])
    note_reading(model, splits["train"])
    with plain_context(device_of(model)):
        history, best = _best_of_path(model, splits, options)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(best.weight))
            head.bias.copy_(torch.from_numpy(best.bias))
    model.eval()
    return history


def _best_of_path(model: Classifier, splits: Splits, options: Options) -> tuple[History, Probe]:
    start, device = time.perf_counter(), device_of(model)
    if device.type == "mps":  # has no float64
        device = CPU
    train = extract_features(model, splits["train"], cache=options.cache)
    val = extract_features(model, splits["val"], cache=options.cache)
    labels, val_labels = (splits[n].require_labels("Training") for n in ("train", "val"))
    path = solve_path(
        train.features,
        labels,
        model.num_classes,
        class_weights=class_weights(options.class_weights, labels, model.num_classes),
        label_smoothing=options.label_smoothing,
        device=device,
    )
    history, best = History(monitor=options.monitor), None
    for solution in path:
        step = history.records[-1].step if history.records else 0
        logits = _logits(solution, val, device)
        figures = (*_scores(_logits(solution, train, device), train), *_scores(logits, val))
        seconds, start = time.perf_counter() - start, time.perf_counter()
        record = EpochRecord(
            len(history) + 1,
            step + solution.iterations,
            solution.penalty,
            *figures,
            seconds,
            **monitored(options.monitor, [logits], val_labels),
        )
        history = History((*history.records, record), history.monitor)
        if history.best_epoch == record.epoch:
            best = solution
    assert best is not None  # the path is not empty, and val is scored at each point
    return history, best


def _logits(solution: Probe, data: Features, device: torch.device) -> Tensor:
    """The logits (N, K) of a solution."""
    features = torch.as_tensor(data.features, device=device)
    weight = torch.as_tensor(solution.weight, dtype=torch.float32, device=device)
    bias = torch.as_tensor(solution.bias, dtype=torch.float32, device=device)
    return features @ weight.T + bias


def _scores(logits: Tensor, data: Features) -> tuple[float, float]:
    """Mean cross-entropy and accuracy."""
    labels = torch.as_tensor(data.labels, device=logits.device)
    accuracy = (logits.argmax(dim=1) == labels).double().mean()
    return cross_entropy(logits, labels).item(), accuracy.item()
