"""Strategies: the ways to train that a comparison sets side by side, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

from transferkit._options import check_number, check_whole
from transferkit._typing import JSON
from transferkit.data.augment import Augment
from transferkit.data.dataset import ImageData, Splits
from transferkit.errors import ConfigError, UnknownNameError
from transferkit.metrics._json import plain
from transferkit.training.options import OptimizerName
from transferkit.training.schedules import ScheduleName

Method: TypeAlias = Literal[
    "linear_probe", "fine_tune", "lp_ft", "gradual_unfreeze", "interpolate", "from_scratch"
]

DEFAULT_EPOCHS: Mapping[Method, int] = MappingProxyType(
    {
        "linear_probe": 30,
        "fine_tune": 10,
        "lp_ft": 10,
        "gradual_unfreeze": 12,
        "interpolate": 10,
        "from_scratch": 30,
    }
)
DEFAULT_LR: Mapping[Method, float] = MappingProxyType(
    {
        "linear_probe": 1e-2,
        "fine_tune": 1e-4,
        "lp_ft": 1e-4,
        "gradual_unfreeze": 1e-3,
        "interpolate": 1e-4,
        "from_scratch": 1e-3,
    }
)
LAYER_DECAY = 0.5
"""How the rate falls from stage to stage under gradual unfreezing, where not said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """One way to train a backbone.

    Attributes:
        name: What it is called in the tables.
        method: ``"linear_probe"``, ``"fine_tune"``, ``"lp_ft"``, ``"gradual_unfreeze"``,
            ``"interpolate"`` (between the probe and the model fine-tuned from it) or
            ``"from_scratch"`` (random weights, all layers).
        epochs: Of the last phase; by default those of the comparison, or what suits the method.
        lr: The base rate of the last phase; what suits the method by default.
        probe_epochs: Of the probe that ``lp_ft`` and ``interpolate`` start with.
        upto: The first stage that is fine-tuned; None fine-tunes everything.
        optimizer: See :class:`~transferkit.Trainer`.
        scheduler: Name of the schedule.
        layer_decay: The rate falls by this factor with every stage away from the head.
        dropout: Of the head, in [0, 1).
        outputs: Outputs of the head, where more than the classes: the rest stay unused.
        augment: Random augmentation of the training images.

    Example:
        >>> import transferkit as tk
        >>> gentle = tk.Strategy(name="gentle", method="fine_tune", lr=1e-5, layer_decay=0.7)
        >>> gentle.length, gentle.decay  # epochs that were not said are those that suit the method
        (10, 0.7)
        >>> tk.Strategy(name="quick", method="lp-ft")
        Traceback (most recent call last):
            ...
        transferkit.errors.UnknownNameError: Unknown strategy 'lp-ft'. ...
    """

    name: str
    method: Method
    epochs: int | None = None
    lr: float | None = None
    probe_epochs: int | None = None
    upto: str | int | None = None
    optimizer: OptimizerName = "adamw"
    scheduler: ScheduleName = "cosine"
    layer_decay: float | None = None
    dropout: float = 0.0
    outputs: int | None = None
    augment: Augment | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise UnknownNameError.among("strategy", str(self.method), get_args(Method))
        for option in ("epochs", "probe_epochs", "outputs"):
            if getattr(self, option) is not None:
                check_whole(f"{option} of {self.name!r}", getattr(self, option), least=1)
        for option in ("lr", "layer_decay"):
            if getattr(self, option) is not None:
                check_number(f"{option} of {self.name!r}", getattr(self, option), above=0)
        check_number(f"dropout of {self.name!r}", self.dropout, least=0, below=1)

    @property
    def length(self) -> int:
        """Epochs of the last phase."""
        return self.epochs or DEFAULT_EPOCHS[self.method]

    @property
    def probe_length(self) -> int:
        """Epochs of the probe that some methods start with."""
        return self.probe_epochs or self.length

    @property
    def rate(self) -> float:
        """Base rate of the last phase."""
        return self.lr or DEFAULT_LR[self.method]

    @property
    def decay(self) -> float:
        """Factor on the rate from stage to stage."""
        return self.layer_decay or (LAYER_DECAY if self.method == "gradual_unfreeze" else 1.0)

    def spelled_out(self, *, epochs: int | None) -> Strategy:
        """The same strategy with nothing left open; ``epochs`` is what the comparison says."""
        set_length = replace(self, epochs=self.epochs or epochs)
        return replace(
            set_length,
            epochs=set_length.length,
            lr=self.rate,
            probe_epochs=set_length.probe_length,
            layer_decay=self.decay,
        )

    def to_dict(self) -> dict[str, JSON]:
        """The fields as plain data."""
        return {key: plain(value) for key, value in asdict(self).items()}


def strategy_named(strategy: str | Strategy) -> Strategy:
    """The strategy that goes by a method's name; one of the caller's own goes through.

    Raises:
        UnknownNameError: No method goes by the name; the message lists them.
    """
    if isinstance(strategy, Strategy):
        return strategy
    for method in get_args(Method):
        if method == strategy:
            return Strategy(name=strategy, method=method)
    raise UnknownNameError.among("strategy", str(strategy), get_args(Method))


def with_outputs(splits: Splits, outputs: int | None) -> Splits:
    """The same images with more classes, of which the new ones have no image.

    Raises:
        ConfigError: Fewer outputs than classes.
    """
    if outputs is None or outputs == splits.num_classes:
        return splits
    if outputs < splits.num_classes:
        raise ConfigError(
            f"outputs must be {splits.num_classes} or more, one for each class, got {outputs}."
        )
    more = (f"unused {i + 1}" for i in range(outputs - splits.num_classes))
    classes = (*splits.classes, *more)
    return Splits({name: _renamed(data, classes) for name, data in splits.items()})


def _renamed(data: ImageData, classes: tuple[str, ...]) -> ImageData:
    return ImageData(
        data.images,
        data.labels,
        classes=classes,
        names=data.names,
        sizes=data.sizes,
        groups=data.groups,
    )
