"""A strategy: the whole recipe of training a backbone, as one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Literal, NamedTuple, NoReturn, TypeAlias, cast, get_args

from transferkit._format import plain
from transferkit._typing import JSON
from transferkit._validation import check_number, check_text, check_whole
from transferkit.errors import ConfigError, UnknownNameError
from transferkit.training.options import Options, TrainOptions, check_option_names, plain_option

Method: TypeAlias = Literal[
    "linear_probe", "fine_tune", "lp_ft", "gradual_unfreeze", "interpolate", "from_scratch"
]
Solver: TypeAlias = Literal["minibatch", "lbfgs"]


class _Defaults(NamedTuple):
    """Epochs and learning rate of a method, and the fields of a strategy that it uses."""

    epochs: int
    lr: float
    uses: tuple[str, ...] = ()


_METHODS: Mapping[Method, _Defaults] = {
    "linear_probe": _Defaults(30, 1e-2, ("solver",)),
    "fine_tune": _Defaults(10, 1e-4, ("upto",)),
    "lp_ft": _Defaults(10, 1e-4, ("upto", "probe_epochs", "probe_lr")),
    "gradual_unfreeze": _Defaults(12, 1e-3, ("steps",)),
    "interpolate": _Defaults(10, 1e-4, ("upto", "probe_epochs", "probe_lr")),
    "from_scratch": _Defaults(30, 1e-3),
}


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to train a backbone, as a value.

    Attributes:
        method: ``"linear_probe"`` (the head only), ``"fine_tune"``, ``"lp_ft"`` (linear probe,
            then fine-tuning from there), ``"gradual_unfreeze"`` (from the head backwards),
            ``"interpolate"`` (between the linear probe and the model fine-tuned from it) or
            ``"from_scratch"`` (all layers, from random weights).
        name: Name in tables. Default: the method.
        epochs: Epochs of the last phase. Default: 30 for linear_probe and from_scratch, 12 for
            gradual_unfreeze, 10 for the others.
        lr: Learning rate of the head in the last phase. Default: 0.01 for linear_probe, 0.001 for
            gradual_unfreeze and from_scratch, 0.0001 for the others.
        upto: First stage that is trained, by name or place, in fine_tune and in the last phase of
            lp_ft and interpolate. Default: all stages.
        steps: Of gradual_unfreeze: the number of steps from the head alone to the whole network,
            or the first trainable stage of each step. Default: 4.
        solver: Of linear_probe: ``"minibatch"``, or ``"lbfgs"`` to solve a linear head to the
            optimum. Default: minibatch.
        probe_epochs: Epochs of the probe that lp_ft and interpolate start with. Default: 10.
        probe_lr: Learning rate of that probe. Default: 0.01.
        dropout: Dropout of the head, in [0, 1). Default: 0.
        outputs: Outputs of the head, where more than the classes; the rest stay unused.
            Default: one for each class.
        options: Options of :class:`~transferkit.Trainer`, such as ``{"weight_decay": 0.05}``. In
            gradual_unfreeze ``layer_decay`` is 0.5 unless set here; the probe of lp_ft and
            interpolate has no warm-up.

    Raises:
        ConfigError: A field has a value that cannot work, or is not used by the method.
        UnknownNameError: There is no such method or option; the message gives the nearest ones.

    Example:
        >>> import transferkit as tk
        >>> gentle = tk.Strategy("fine_tune", lr=1e-5, options={"layer_decay": 0.7})
        >>> gentle.name, gentle.length  # the method has 10 epochs by default
        ('fine_tune', 10)
        >>> tk.Strategy("lp-ft")
        Traceback (most recent call last):
            ...
        transferkit.errors.UnknownNameError: Unknown strategy 'lp-ft'. ...
    """

    method: Method
    _: KW_ONLY
    name: str = ""
    epochs: int | None = None
    lr: float | None = None
    upto: str | int | None = None
    steps: int | Sequence[str | int] = 4
    solver: Solver = "minibatch"
    probe_epochs: int = 10
    probe_lr: float = 1e-2
    dropout: float = 0.0
    outputs: int | None = None
    options: TrainOptions = field(default_factory=TrainOptions, hash=False)

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise UnknownNameError.among("strategy", str(self.method), get_args(Method))
        object.__setattr__(self, "name", self.name or self.method)
        check_text("name", self.name)
        check_whole(f"epochs of {self.name!r}", self.length, least=1)
        check_number(f"lr of {self.name!r}", self.rate, above=0)
        check_whole(f"probe_epochs of {self.name!r}", self.probe_epochs, least=1)
        check_number(f"probe_lr of {self.name!r}", self.probe_lr, above=0)
        if self.outputs is not None:
            check_whole(f"outputs of {self.name!r}", self.outputs, least=1)
        check_number(f"dropout of {self.name!r}", self.dropout, least=0, below=1)
        self._check_options()
        object.__setattr__(self, "options", dict(self.options))
        for one in fields(self):
            if one.name in self._unused and getattr(self, one.name) != one.default:
                self._refuse(one.name, getattr(self, one.name))
        if self.solver not in get_args(Solver):
            raise UnknownNameError.among("solver", str(self.solver), get_args(Solver))
        if self.solver == "lbfgs" and self.options.get("augment") is not None:
            raise ConfigError(
                "solver='lbfgs' works on fixed features; augment needs solver='minibatch'."
            )
        if self.method == "gradual_unfreeze":
            object.__setattr__(self, "steps", _checked_steps(self.steps, self.length))

    @property
    def _unused(self) -> set[str]:
        """The fields that other methods use, and this one does not."""
        everywhere = {name for facts in _METHODS.values() for name in facts.uses}
        return everywhere - set(_METHODS[self.method].uses)

    def _check_options(self) -> None:
        options: object = self.options
        if not isinstance(options, Mapping):
            raise ConfigError(f"options must be a dictionary of training options, got {options!r}.")
        for name, value in options.items():
            if name in self._unused:
                self._refuse(name, value)
        beside = ("epochs", "lr", "dropout", "outputs", *_METHODS[self.method].uses)
        check_option_names(self.options, owner=self.method, beside=beside)
        Options(lr=self.rate, **self.options)

    def _refuse(self, name: str, value: object) -> NoReturn:
        users = (method for method, facts in _METHODS.items() if name in facts.uses)
        raise ConfigError(
            f"{self.method} does not use {name}, got {name}={value!r}; "
            f"{name} belongs to {', '.join(users)}."
        )

    @property
    def length(self) -> int:
        """Epochs of the last phase: ``epochs``, or those of the method."""
        return _METHODS[self.method].epochs if self.epochs is None else self.epochs

    @property
    def rate(self) -> float:
        """Learning rate of the head in the last phase: ``lr``, or that of the method."""
        return _METHODS[self.method].lr if self.lr is None else self.lr

    def to_dict(self) -> dict[str, JSON]:
        """All fields as plain data, epochs and learning rate filled in; the key of stored results.

        A function among the options is written as its module and name.
        """
        options = {name: plain_option(value) for name, value in sorted(self.options.items())}
        known = {"epochs": self.length, "lr": self.rate, "options": options}
        return {f.name: plain(known.get(f.name, getattr(self, f.name))) for f in fields(self)}


def strategy_named(strategy: str | Strategy) -> Strategy:
    """The strategy of a method's name; a Strategy is returned as it is."""
    return strategy if isinstance(strategy, Strategy) else Strategy(cast(Method, strategy))


def _checked_steps(steps: object, epochs: int) -> int | tuple[str | int, ...]:
    """The steps of gradual unfreezing: a number, or a tuple of stages."""
    if isinstance(steps, str) or not isinstance(steps, int | Sequence):
        raise ConfigError(f"steps must be a whole number or a list of stages, got {steps!r}.")
    if isinstance(steps, int):
        check_whole("steps", steps, least=2)
    count = min(steps, epochs) if isinstance(steps, int) else len(steps)
    if not 2 <= count <= epochs:
        raise ConfigError(
            f"Gradual unfreezing needs two steps or more and an epoch for each, got steps={steps} "
            f"and epochs={epochs}."
        )
    return steps if isinstance(steps, int) else tuple(steps)
