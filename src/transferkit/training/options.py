"""The options of a training run, checked before anything else happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from transferkit._validation import check_number, check_whole, is_number
from transferkit.data.augment import Augment
from transferkit.errors import ConfigError, UnknownNameError
from transferkit.models.device import Precision
from transferkit.models.prefix_cache import Cache, Where, cache_named
from transferkit.training.history import Monitor
from transferkit.training.schedules import Plateau, Schedule, ScheduleName, schedule_named

OptimizerName: TypeAlias = Literal["adamw", "adam", "sgd"]
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
        check_number("lr", self.lr, above=0)
        if self.weight_decay is not None:
            check_number("weight_decay", self.weight_decay, least=0)
        check_number("momentum", self.momentum, least=0, below=1)
        check_number("layer_decay", self.layer_decay, above=0)
        _check_warmup(self.warmup)
        check_whole("batch_size", self.batch_size, least=1)
        check_number("label_smoothing", self.label_smoothing, least=0, below=1)
        check_whole("accumulate", self.accumulate, least=1)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, above=0)
        if self.patience is not None:
            check_whole("patience", self.patience, least=1)
        check_whole("seed", self.seed)
        _check_class_weights(self.class_weights)
        if self.augment is not None and not callable(self.augment):
            raise ConfigError(
                f"augment is an Augment or a function of images, got {self.augment!r}."
            )


def _among(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UnknownNameError.among(option, str(value), known)


def _check_warmup(warmup: float | int) -> None:
    if isinstance(warmup, int):
        check_whole("warmup", warmup)
    else:
        option = "warmup (a float is a share of the run, an int a number of steps)"
        check_number(option, warmup, least=0, below=1)


def _check_class_weights(weights: object) -> None:
    if weights is None or (isinstance(weights, str) and weights == "balanced"):
        return
    values = weights if isinstance(weights, Iterable) and not isinstance(weights, str) else [-1]
    if not all(is_number(value) and value >= 0 for value in values):
        raise ConfigError(
            f"class_weights is 'balanced' or a number, 0 or more, for each class, got {weights!r}."
        )
