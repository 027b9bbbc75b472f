"""The options of a training run, checked before anything else happens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from transferkit.data.augment import Augment
from transferkit.errors import ConfigError, UnknownNameError
from transferkit.models.caching import Cache, Where, cache_named
from transferkit.training.history import Monitor
from transferkit.training.schedules import Plateau, Schedule, ScheduleName, schedule_named

OptimizerName: TypeAlias = Literal["adamw", "adam", "sgd"]
Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]
Augmentation: TypeAlias = Augment | Callable[[Tensor], Tensor]
ClassWeights: TypeAlias = Literal["balanced"] | Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to train; the fields are the keywords of :class:`~transferkit.Trainer`."""

    optimizer: OptimizerName = "adamw"
    lr: float = 1e-3
    weight_decay: float | None = None
    momentum: float = 0.9
    layer_decay: float = 1.0
    scheduler: ScheduleName | Schedule | Plateau = "cosine"
    warmup: float | int = 0.0
    batch_size: int = 32
    label_smoothing: float = 0.0
    class_weights: ClassWeights | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    precision: Precision = "auto"
    augment: Augmentation | None = None
    monitor: Monitor = "val_accuracy"
    patience: int | None = None
    restore_best: bool = True
    device: torch.device | str | None = None
    seed: int = 0
    progress: bool | None = None
    cache: Cache | Where | None = "auto"
    compiled: bool = False

    def __post_init__(self) -> None:
        _among("optimizer", self.optimizer, get_args(OptimizerName))
        _among("precision", self.precision, get_args(Precision))
        _among("monitor", self.monitor, get_args(Monitor))
        schedule_named(self.scheduler)
        cache_named(self.cache)
        _positive("lr", self.lr)
        _at_least("weight_decay", self.weight_decay, 0)
        _share("momentum", self.momentum)
        _positive("layer_decay", self.layer_decay)
        _check_warmup(self.warmup)
        _count("batch_size", self.batch_size)
        _share("label_smoothing", self.label_smoothing)
        _count("accumulate", self.accumulate)
        if self.clip_norm is not None:
            _positive("clip_norm", self.clip_norm)
        if self.patience is not None:
            _count("patience", self.patience)
        _count("seed", self.seed, least=0)
        _check_class_weights(self.class_weights)
        if self.augment is not None and not callable(self.augment):
            raise ConfigError(
                f"augment is an Augment or a function of images, got {self.augment!r}."
            )


def _among(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UnknownNameError.among(option, str(value), known)


def _positive(option: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{option} must be a positive number, got {value}.")


def _at_least(option: str, value: float | None, least: float) -> None:
    if value is not None and not (math.isfinite(value) and value >= least):
        raise ConfigError(f"{option} must be {least} or more, got {value}.")


def _share(option: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ConfigError(f"{option} must lie in [0, 1), got {value}.")


def _count(option: str, value: object, *, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{option} must be a whole number, {least} or more, got {value!r}.")


def _check_warmup(warmup: float | int) -> None:
    if isinstance(warmup, int):
        _count("warmup", warmup, least=0)
    else:
        _share("warmup (a float is a share of the run, an int a number of steps)", warmup)


def _check_class_weights(weights: object) -> None:
    if weights is None or (isinstance(weights, str) and weights == "balanced"):
        return
    values = weights if isinstance(weights, Iterable) and not isinstance(weights, str) else [-1]
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ConfigError(
            f"class_weights is 'balanced' or a number, 0 or more, for each class, got {weights!r}."
        )
