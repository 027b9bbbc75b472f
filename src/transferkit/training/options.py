"""The options of a training run: their types, their defaults, and the checks on their values."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from types import MethodType
from typing import Literal, TypeAlias, TypedDict, get_args

import torch
from torch import Tensor, nn

from transferkit._format import plain
from transferkit._typing import JSON
from transferkit._validation import check_among, check_number, check_whole, is_number, to_path
from transferkit.data.augment import Augment
from transferkit.errors import ConfigError, UnknownNameError
from transferkit.models.device import Precision, effective
from transferkit.models.prefix_cache import Cache, Where, cache_named
from transferkit.training.history import Monitor

OptimizerName: TypeAlias = Literal["adamw", "adam", "sgd"]
Schedule: TypeAlias = Callable[[int, int], float]
ScheduleName: TypeAlias = Literal[
    "constant", "cosine", "one_cycle", "step", "exponential", "plateau"
]
Augmentation: TypeAlias = Augment | Callable[[Tensor], Tensor]
ClassWeights: TypeAlias = Literal["balanced"] | Sequence[float]


class TrainOptions(TypedDict, total=False):
    """Options of training, each documented at :class:`~transferkit.Trainer`; all may be left out.

    The trainer and every strategy take them as keywords, :class:`~transferkit.Strategy` as a
    dictionary.

    Example:
        >>> import transferkit as tk
        >>> options: tk.TrainOptions = {"weight_decay": 0.05, "warmup": 0.1}
        >>> gentle = tk.Strategy("fine_tune", lr=1e-5, options=options)
    """

    optimizer: OptimizerName
    weight_decay: float | None
    momentum: float
    layer_decay: float
    scheduler: ScheduleName | Schedule
    warmup: float | int
    batch_size: int
    label_smoothing: float
    class_weights: ClassWeights | None
    clip_norm: float | None
    accumulate: int
    precision: Precision
    augment: Augmentation | None
    monitor: Monitor
    patience: int | None
    device: torch.device | str | None
    seed: int
    progress: bool | None
    cache: Cache | Where | None
    compiled: bool
    checkpoint: str | os.PathLike[str] | None


def check_option_names(
    names: Iterable[str],
    *,
    owner: str = "Trainer",
    beside: Sequence[str] = ("lr", "restore_best"),
) -> None:
    """See that ``names`` are options of training; ``owner`` takes them, and others ``beside``."""
    for name in names:
        if name in beside:
            raise ConfigError(f"{name} stands beside options: {owner}(..., {name}=...).")
        if name not in TrainOptions.__annotations__:
            known = (*beside, *TrainOptions.__annotations__)
            raise UnknownNameError.among(f"option of {owner}", str(name), known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one run, with their defaults, checked."""

    lr: float = 1e-3
    restore_best: bool = True
    optimizer: OptimizerName = "adamw"
    weight_decay: float | None = None
    momentum: float = 0.9
    layer_decay: float = 1.0
    scheduler: ScheduleName | Schedule = "cosine"
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
    device: torch.device | str | None = None
    seed: int = 0
    progress: bool | None = None
    cache: Cache | Where | None = "auto"
    compiled: bool = False
    checkpoint: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        named = {"optimizer": OptimizerName, "precision": Precision, "monitor": Monitor}
        if not callable(self.scheduler):
            named["scheduler"] = ScheduleName
        for option, names in named.items():
            if getattr(self, option) not in get_args(names):
                raise UnknownNameError.among(option, str(getattr(self, option)), get_args(names))
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
        if not isinstance(self.device, torch.device | str | None):
            raise ConfigError(f"device must be a name such as 'cuda', got {self.device!r}.")
        check_among("progress", self.progress, (True, False, None))
        check_among("restore_best", self.restore_best, (True, False))
        check_among("compiled", self.compiled, (True, False))
        if self.checkpoint is not None:
            to_path("checkpoint", self.checkpoint)
        _check_class_weights(self.class_weights)
        if self.augment is not None and not callable(self.augment):
            raise ConfigError(
                f"augment must be an Augment or a function of images, got {self.augment!r}."
            )

    @property
    def hide_bar(self) -> bool | None:
        """The ``disable`` of tqdm, which for None shows a bar on a terminal only."""
        return None if self.progress is None else not self.progress


def plain_option(value: object) -> JSON:
    """An option's value as plain data: a function is its module and name, an object its repr."""
    if isinstance(value, torch.device):
        return str(value)
    if callable(value) or is_dataclass(value):
        return _settings(value)
    return plain(value)


def _settings(value: object) -> str:
    """The text of a value in which two objects with other settings differ.

    A repr may leave settings out, as that of torchvision's RandomApply leaves out p, so the public
    attributes follow it.
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_settings, value))}]"
    if isinstance(value, MethodType):
        return f"{_settings(value.__self__)}.{value.__name__}"
    if not callable(value) or is_dataclass(value):
        return str(value)
    if isinstance(value, partial):
        keywords = sorted(value.keywords.items())
        return f"partial({', '.join(map(_settings, (value.func, *value.args, *keywords)))})"
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    own = {k: v for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")}
    if isinstance(value, nn.Module):
        del own["training"]  # no setting
        own |= dict(value.named_children())
    return f"{value!r} {', '.join(f'{k}={_settings(v)}' for k, v in own.items())}".strip()


def is_comparable(text: JSON) -> bool:
    """Whether an option of this text is the same in another run.

    All lambdas of a module have one name, and an address means nothing in another process.
    """
    return not (isinstance(text, str) and re.search("<lambda>|<locals>| at 0x", text))


_NUMBERS_DO_NOT_DEPEND_ON = (
    "restore_best",
    "patience",
    "device",
    "progress",
    "compiled",
    "cache",
    "checkpoint",
)


def plain_options(options: Options, device: torch.device) -> dict[str, JSON]:
    """The options that the numbers of a run on ``device`` depend on, as plain data."""
    names = [one.name for one in fields(options) if one.name not in _NUMBERS_DO_NOT_DEPEND_ON]
    facts = {name: plain_option(getattr(options, name)) for name in names}
    cache = cache_named(options.cache) or Cache()
    return facts | {
        "precision": effective(options.precision, device),
        "cache.precision": cache.precision,
        "cache.views": cache.views if options.augment else 0,
    }


def _check_warmup(warmup: float | int) -> None:
    if isinstance(warmup, int):
        check_whole("warmup", warmup)
    else:
        option = "warmup (a float is a share of the run, an int a number of steps)"
        check_number(option, warmup, least=0, below=1)


def _check_class_weights(weights: object) -> None:
    if weights is None or (isinstance(weights, str) and weights == "balanced"):
        return
    values = []
    if isinstance(weights, Iterable) and not isinstance(weights, str | Mapping | Set):
        values = list(weights)
    numbers = all(is_number(value) and value >= 0 for value in values)
    if not numbers or not any(value > 0 for value in values):
        raise ConfigError(
            "class_weights must be 'balanced', or a list of one number for each class, 0 or more "
            f"and not all 0, in the order of the classes, got {weights!r}."
        )
