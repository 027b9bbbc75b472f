"""Strategies: linear probe, fine-tuning, LP-FT, gradual unfreezing, interpolation, from scratch.

A :class:`Strategy` is the whole recipe as one value, and :func:`run` carries it out; each of
``tk.linear_probe``, ``tk.fine_tune``, ``tk.lp_ft`` and ``tk.gradual_unfreeze`` is ``run`` with one
method.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, NoReturn, TypeAlias, Unpack, get_args

from torch import nn

from transferkit._format import plain
from transferkit._typing import JSON
from transferkit._validation import check_number, check_text, check_whole
from transferkit.data.image_data import ImageData, Splits
from transferkit.errors import ConfigError, UnknownNameError
from transferkit.models.classifier import Classifier, create_classifier
from transferkit.models.freezing import freeze, stages, unfreeze
from transferkit.training.history import History
from transferkit.training.lbfgs_probe import solve_head
from transferkit.training.options import (
    Options,
    TrainOptions,
    check_option_names,
    plain_option,
)
from transferkit.training.trainer import Trainer
from transferkit.workflows.interpolate import interpolate
from transferkit.workflows.result import Result, checked_splits, classifier_for, judged

Method: TypeAlias = Literal[
    "linear_probe", "fine_tune", "lp_ft", "gradual_unfreeze", "interpolate", "from_scratch"
]
Solver: TypeAlias = Literal["minibatch", "lbfgs"]


class _Defaults(NamedTuple):
    """Epochs and learning rate of a method, and the fields of a strategy that it uses."""

    epochs: int
    lr: float
    uses: tuple[str, ...] = ()


_METHODS: Mapping[Method, _Defaults] = MappingProxyType(
    {
        "linear_probe": _Defaults(30, 1e-2, ("solver",)),
        "fine_tune": _Defaults(10, 1e-4, ("upto",)),
        "lp_ft": _Defaults(10, 1e-4, ("upto", "probe_epochs", "probe_lr")),
        "gradual_unfreeze": _Defaults(12, 1e-3, ("steps",)),
        "interpolate": _Defaults(10, 1e-4, ("upto", "probe_epochs", "probe_lr")),
        "from_scratch": _Defaults(30, 1e-3),
    }
)
_SOME_METHODS_ONLY = ("upto", "steps", "solver", "probe_epochs", "probe_lr")
GRADUAL_LAYER_DECAY = 0.5


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
        >>> gentle.name, gentle.length  # epochs are those of the method unless given
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
        self._check_used_fields()
        if self.solver not in get_args(Solver):
            raise UnknownNameError.among("solver", str(self.solver), get_args(Solver))
        if self.solver == "lbfgs" and self.options.get("augment") is not None:
            raise ConfigError(
                "solver='lbfgs' works on fixed features; augment needs solver='minibatch'."
            )
        if self.method == "gradual_unfreeze":
            object.__setattr__(self, "steps", _checked_steps(self.steps, self.length))

    def _check_options(self) -> None:
        uses = _METHODS[self.method].uses
        given: object = self.options
        if not isinstance(given, Mapping):
            raise ConfigError(f"options must be a dictionary of training options, got {given!r}.")
        for name, value in given.items():
            if name in _SOME_METHODS_ONLY and name not in uses:
                self._refuse(name, value)
        beside = ("epochs", "lr", "dropout", "outputs", *uses)
        check_option_names(self.options, owner=self.method, beside=beside)
        Options(lr=self.rate, **self.options)

    def _check_used_fields(self) -> None:
        defaults = {one.name: one.default for one in fields(self)}
        uses = _METHODS[self.method].uses
        for name in _SOME_METHODS_ONLY:
            if name not in uses and getattr(self, name) != defaults[name]:
                self._refuse(name, getattr(self, name))

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

        A function among the options stands there by its module and name.
        """
        said: dict[str, object] = {one.name: getattr(self, one.name) for one in fields(self)}
        options = {name: plain_option(value) for name, value in sorted(self.options.items())}
        said |= {"epochs": self.length, "lr": self.rate, "options": options}
        return {name: plain(value) for name, value in said.items()}


def strategy_named(strategy: str | Strategy) -> Strategy:
    """The strategy of a method's name; a Strategy is returned as it is."""
    if isinstance(strategy, Strategy):
        return strategy
    for method in get_args(Method):
        if method == strategy:
            return Strategy(method)
    raise UnknownNameError.among("strategy", str(strategy), get_args(Method))


def run(
    strategy: Strategy | str, model: Classifier | str, splits: Mapping[str, ImageData]
) -> Result:
    """Train ``model`` by ``strategy``; choose the epoch on val, and evaluate once on test.

    Args:
        strategy: How to train: a :class:`~transferkit.Strategy`, or a method's name.
        model: A classifier, which is trained in place, or the name of a backbone, which gets its
            default weights; ``from_scratch`` gives it random ones, and needs random ones in a
            classifier.
        splits: ``"train"`` and ``"val"``, and ``"test"`` if there is one.

    Raises:
        DataError: A split is absent, empty or unlabelled, or has other classes than the model.
        ConfigError: An option has a value that cannot work.
        UnknownNameError: There is no such stage, backbone, strategy or option.
        WeightsError: The backbone's default weights cannot be had.
        TrainingError: The loss became NaN or infinite.

    Example:
        >>> import transferkit as tk
        >>> splits = tk.phantom_splits(sizes=(60, 30, 30), image_size=32, seed=0)
        >>> top = tk.Strategy("fine_tune", upto="layer3", epochs=2, options={"batch_size": 16})
        >>> result = tk.run(top, "transferkit/formula_resnet18", splits)
        >>> len(result.history), result.test.n
        (2, 30)
    """
    strategy = strategy_named(strategy)
    data = with_outputs(checked_splits(splits), strategy.outputs)
    classifier = _classifier(strategy, model, data)
    if strategy.upto is not None:  # an unknown stage shows before a probe is trained
        unfreeze(classifier, upto=strategy.upto)
    if strategy.method == "interpolate":
        return _interpolated(classifier, data, strategy)
    return judged(classifier, _PHASES[strategy.method](classifier, data, strategy), data)


def linear_probe(
    model: Classifier | str,
    splits: Mapping[str, ImageData],
    *,
    epochs: int = 30,
    lr: float = 1e-2,
    solver: Solver = "minibatch",
    **options: Unpack[TrainOptions],
) -> Result:
    """Freeze the backbone and train the head.

    Without augmentation the features are computed once, and every epoch runs on them.

    ``solver="lbfgs"`` solves a linear head to the optimum instead, for eight L2 penalties from 10
    down to 1e-6 on standardised features, and takes the one that is best on val. ``epochs``,
    ``lr`` and the other options of stepping then have no meaning; each record of the history is
    one penalty, which stands in its column ``lr``, and ``step`` counts L-BFGS iterations.

    Args:
        model: See :func:`~transferkit.run`, also for what is raised.
        splits: See :func:`~transferkit.run`.
        epochs: Epochs.
        lr: Learning rate.
        solver: ``"minibatch"`` or ``"lbfgs"``.
        **options: See :class:`~transferkit.Trainer`.

    Example:
        >>> import transferkit as tk
        >>> splits = tk.phantom_splits(sizes=(120, 60, 60), image_size=32, opacity=2.0, seed=0)
        >>> model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, seed=0)
        >>> result = tk.linear_probe(model, splits, solver="lbfgs")
        >>> result.val.accuracy > 0.9
        True
        >>> tk.summary(result.classifier).trainable
        770
    """
    strategy = Strategy("linear_probe", epochs=epochs, lr=lr, solver=solver, options=options)
    return run(_all_said(strategy), model, splits)


def fine_tune(
    model: Classifier | str,
    splits: Mapping[str, ImageData],
    *,
    upto: str | int | None = None,
    epochs: int = 10,
    lr: float = 1e-4,
    **options: Unpack[TrainOptions],
) -> Result:
    """Train the stages from ``upto`` to the head.

    Args:
        model: See :func:`~transferkit.run`, also for what is raised.
        splits: See :func:`~transferkit.run`.
        upto: First stage that is trained, by name or place; everything nearer to the input is
            frozen. None trains everything.
        epochs: Epochs.
        lr: Learning rate of the head.
        **options: See :class:`~transferkit.Trainer`.

    Example:
        >>> import transferkit as tk
        >>> splits = tk.phantom_splits(sizes=(60, 30, 30), image_size=32, seed=0)
        >>> model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, seed=0)
        >>> result = tk.fine_tune(model, splits, upto="layer3", epochs=2, lr=1e-3)
        >>> [stage.name for stage in tk.summary(model).stages if stage.state == "trainable"]
        ['layer3', 'head']
        >>> len(result.history), result.test.n
        (2, 30)
    """
    strategy = Strategy("fine_tune", upto=upto, epochs=epochs, lr=lr, options=options)
    return run(_all_said(strategy), model, splits)


def lp_ft(
    model: Classifier | str,
    splits: Mapping[str, ImageData],
    *,
    upto: str | int | None = None,
    probe_epochs: int = 10,
    probe_lr: float = 1e-2,
    epochs: int = 10,
    lr: float = 1e-4,
    **options: Unpack[TrainOptions],
) -> Result:
    """Train the head on frozen features (a linear probe), then fine-tune from there.

    A new head sends large, random gradients into the backbone and distorts features that were
    good; a head that fits already does not (A. Kumar et al., "Fine-tuning can distort pretrained
    features and underperform out-of-distribution", ICLR 2022, arXiv:2202.10054). The epoch is
    chosen on val over both phases: where fine-tuning never beats the probe there, the probe stays.

    Args:
        model: See :func:`~transferkit.run`, also for what is raised.
        splits: See :func:`~transferkit.run`.
        upto: First stage that is fine-tuned; None fine-tunes everything.
        probe_epochs: Epochs of the probe.
        probe_lr: Learning rate of the probe.
        epochs: Epochs of fine-tuning.
        lr: Learning rate of the head in fine-tuning.
        **options: See :class:`~transferkit.Trainer`; they apply to both phases, each with its own
            run of the schedule, but ``warmup`` to fine-tuning only.

    Returns:
        The classifier, and the history of both phases as one.
    """
    strategy = Strategy(
        "lp_ft",
        upto=upto,
        probe_epochs=probe_epochs,
        probe_lr=probe_lr,
        epochs=epochs,
        lr=lr,
        options=options,
    )
    return run(_all_said(strategy), model, splits)


def gradual_unfreeze(
    model: Classifier | str,
    splits: Mapping[str, ImageData],
    *,
    steps: int | Sequence[str | int] = 4,
    epochs: int = 12,
    lr: float = 1e-3,
    **options: Unpack[TrainOptions],
) -> Result:
    """Train the head first and unfreeze further back as the run goes on, with layer-wise rates.

    One run with one schedule: the epochs are shared out evenly among the steps, and the optimizer
    keeps the moments of the layers it trains already. Source: J. Howard and S. Ruder, "Universal
    language model fine-tuning for text classification", ACL 2018, section 3.3, arXiv:1801.06146.

    Args:
        model: See :func:`~transferkit.run`, also for what is raised.
        splits: See :func:`~transferkit.run`.
        steps: How many steps there are from the head alone to the whole network (no more than
            epochs and stages), the stages being shared out evenly; or the first trainable stage
            of each step.
        epochs: Epochs of the whole run.
        lr: Learning rate of the head.
        **options: See :class:`~transferkit.Trainer`; ``layer_decay`` is 0.5 unless given.
    """
    strategy = Strategy("gradual_unfreeze", steps=steps, epochs=epochs, lr=lr, options=options)
    return run(_all_said(strategy), model, splits)


def new_classifier(
    strategy: Strategy,
    backbone: str,
    splits: Splits,
    *,
    weights: str | Path | None = "default",
    image_size: int | tuple[int, int] | None = None,
) -> Classifier:
    """The untrained classifier that a strategy starts from; ``from_scratch`` takes no weights."""
    splits = with_outputs(splits, strategy.outputs)
    return create_classifier(
        backbone,
        splits.num_classes,
        weights=None if strategy.method == "from_scratch" else weights,
        dropout=strategy.dropout,
        image_size=image_size,
        classes=splits.classes,
        seed=strategy.options.get("seed", 0),
    )


def with_outputs(splits: Splits, outputs: int | None) -> Splits:
    """The same images with more classes, of which the new ones have no image."""
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


def _all_said(strategy: Strategy) -> Strategy:
    """The strategy of a function, whose ``epochs`` and ``lr`` must be numbers, not None."""
    check_whole("epochs", strategy.epochs, least=1)
    check_number("lr", strategy.lr, above=0)
    return strategy


def _classifier(strategy: Strategy, model: Classifier | str, data: Splits) -> Classifier:
    """The classifier to train: built on a backbone's name, or the caller's, which must fit."""
    if isinstance(model, str):
        return new_classifier(strategy, model, data)
    classifier = classifier_for(model, data)
    shares = {module.p for module in classifier.head.modules() if isinstance(module, nn.Dropout)}
    if strategy.dropout and strategy.dropout not in shares:
        raise ConfigError(
            f"The strategy has dropout={strategy.dropout} and the classifier's head has not; "
            f"build it with create_classifier(..., dropout={strategy.dropout})."
        )
    if strategy.method == "from_scratch" and classifier.recipe.weights is not None:
        raise ConfigError(
            f"from_scratch starts from random weights, and this classifier from "
            f"{classifier.recipe.weights!r}; build it with create_classifier(..., weights=None)."
        )
    return classifier


def _probe(model: Classifier, data: Splits, strategy: Strategy) -> History:
    freeze(model)
    trainer = Trainer(model, lr=strategy.rate, **strategy.options)
    if strategy.solver == "lbfgs":
        return solve_head(model, data, trainer.options)
    return trainer.fit(data["train"], data["val"], epochs=strategy.length)


def _fine_tune(model: Classifier, data: Splits, strategy: Strategy) -> History:
    unfreeze(model, upto=strategy.upto)
    trainer = Trainer(model, lr=strategy.rate, **strategy.options)
    return trainer.fit(data["train"], data["val"], epochs=strategy.length)


def _lp_ft(model: Classifier, data: Splits, strategy: Strategy) -> History:
    probe, probed, history = _probe_then_fine_tune(model, data, strategy)
    if history.best_epoch is not None and history.best_epoch <= len(probed):
        model.load_state_dict(probe.state_dict())  # fine-tuning never beat the probe
    return history


def _interpolated(model: Classifier, data: Splits, strategy: Strategy) -> Result:
    probe, _, history = _probe_then_fine_tune(model, data, strategy)
    batch_size = strategy.options.get("batch_size", 32)
    between = interpolate(probe, model, data, batch_size=batch_size)
    return Result(between.classifier, history, between.val, between.test)


def _probe_then_fine_tune(
    model: Classifier, data: Splits, strategy: Strategy
) -> tuple[Classifier, History, History]:
    """Train both phases; return a copy of the probe, its history, and the history of both."""
    options = strategy.options.copy()
    options.pop("warmup", None)
    first = Strategy(
        "linear_probe", epochs=strategy.probe_epochs, lr=strategy.probe_lr, options=options
    )
    probed = _probe(model, data, first)
    probe = copy.deepcopy(model)
    tuned = _fine_tune(model, data, strategy)
    return probe, probed, joined(probed, tuned)


def joined(first: History, second: History) -> History:
    """One history behind the other; epochs and steps count on."""
    epoch, step = first.records[-1].epoch, first.records[-1].step
    later = (replace(r, epoch=epoch + r.epoch, step=step + r.step) for r in second.records)
    return History((*first.records, *later), first.monitor)


def _gradual(model: Classifier, data: Splits, strategy: Strategy) -> History:
    plan = boundaries(stages(model), strategy.steps, strategy.length)
    begins = {step * strategy.length // len(plan): upto for step, upto in enumerate(plan)}
    for upto in reversed(plan):  # an unknown stage shows before training starts
        unfreeze(model, upto=upto)
    options = strategy.options.copy()
    options.setdefault("layer_decay", GRADUAL_LAYER_DECAY)
    trainer = Trainer(model, lr=strategy.rate, **options)
    for record in trainer.epochs(data["train"], data["val"], epochs=strategy.length):
        if record.epoch in begins:
            unfreeze(model, upto=begins[record.epoch])
    return trainer.history


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


def boundaries(
    names: Sequence[str], steps: int | Sequence[str | int], epochs: int
) -> Sequence[str | int]:
    """The first trainable stage of each step: the head, then evenly back to the first stage.

    A number of steps is cut to the number of epochs and of stages.
    """
    if not isinstance(steps, int):
        return steps
    last, count = len(names) - 1, min(steps, epochs, len(names))
    return [names[round(last * (count - 1 - step) / (count - 1))] for step in range(count)]


_PHASES: Mapping[Method, Callable[[Classifier, Splits, Strategy], History]] = MappingProxyType(
    {
        "linear_probe": _probe,
        "fine_tune": _fine_tune,
        "lp_ft": _lp_ft,
        "gradual_unfreeze": _gradual,
        "from_scratch": _fine_tune,
    }
)
