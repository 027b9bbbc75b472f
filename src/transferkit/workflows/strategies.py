"""Strategies: the ways to train that a comparison sets side by side, as plain values."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Literal, TypeAlias, TypedDict, get_args

import torch
from torch import Tensor, nn

from transferkit._format import plain
from transferkit._typing import JSON
from transferkit._validation import check_number, check_whole
from transferkit.data.augment import Augment
from transferkit.data.image_data import ImageData, Splits
from transferkit.errors import ConfigError, DataError, UnknownNameError
from transferkit.models.classifier import Classifier
from transferkit.models.freezing import freeze, stages, unfreeze
from transferkit.models.prefix_cache import Cache, Where
from transferkit.training.history import EpochRecord, History, Monitor
from transferkit.training.lbfgs_probe import solve_head
from transferkit.training.options import Augmentation, ClassWeights, OptimizerName
from transferkit.training.schedules import Plateau, Schedule, ScheduleName
from transferkit.training.trainer import Trainer
from transferkit.workflows.interpolate import interpolate
from transferkit.workflows.result import Result, checked_splits, classifier_for, judged

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


def gradual_unfreeze(
    model: Classifier | str,
    splits: Mapping[str, ImageData],
    *,
    steps: int | Sequence[str | int] = 4,
    epochs: int = 12,
    lr: float = 1e-3,
    layer_decay: float = 0.5,
    optimizer: OptimizerName = "adamw",
    weight_decay: float | None = None,
    scheduler: ScheduleName | Schedule | Plateau = "cosine",
    warmup: float | int = 0.0,
    batch_size: int = 32,
    label_smoothing: float = 0.0,
    class_weights: ClassWeights | None = None,
    augment: Augmentation | None = None,
    monitor: Monitor = "val_accuracy",
    patience: int | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool | None = None,
    cache: Cache | Where | None = "auto",
) -> Result:
    """Train the head first and unfreeze further back as the run goes on, with layer-wise rates.

    One run with one schedule: the epochs are shared out evenly among the steps, and the optimizer
    keeps what it has learnt. Source: J. Howard and S. Ruder, "Universal language model
    fine-tuning for text classification", ACL 2018, section 3.3, arXiv:1801.06146.

    Args:
        model: A classifier, trained in place, or the name of a backbone, which gets its default
            weights.
        splits: ``"train"`` and ``"val"``, and ``"test"`` if there is one.
        steps: How many steps there are from the head alone to the whole network, the stages being
            shared out evenly; or the first trainable stage of each step.
        epochs: Length of the whole run.
        lr: The base rate, at the head.
        layer_decay: The rate falls by this factor with every stage away from the head.
        optimizer: See :class:`~transferkit.Trainer`, as for all that follows.
        weight_decay: Of weight matrices and kernels.
        scheduler: A name, or a function of optimizer steps.
        warmup: Linear warm-up, as a share of the run or a number of steps.
        batch_size: Images a batch.
        label_smoothing: Share of the target that is spread over all classes.
        class_weights: ``"balanced"``, or one weight a class.
        augment: Random augmentation of the training images.
        monitor: The val figure that chooses the best epoch, among all steps.
        patience: Stop after this many epochs without a better one.
        device: Where to train; by default a GPU if there is one.
        seed: Of everything random.
        progress: True for a bar, False for nothing, None for what suits the terminal.
        cache: Where to keep what the frozen part makes of each image.

    Raises:
        DataError: A split is absent, empty, unlabelled, or has other classes than the model.
        ConfigError: Fewer epochs than steps, or an option that cannot work.
        UnknownNameError: No such stage, or no such backbone.
        TrainingError: The loss is not finite any more.
    """
    parts = checked_splits(splits)
    classifier = classifier_for(model, parts, seed=seed)
    if isinstance(steps, str) or not isinstance(steps, int | Sequence):
        raise ConfigError(f"steps must be a whole number or a list of stages, got {steps!r}.")
    plan = boundaries(stages(classifier), steps) if isinstance(steps, int) else list(steps)
    begins = starts(len(plan), epochs)
    for upto in reversed(plan):  # an unknown stage shows before training starts
        unfreeze(classifier, upto=upto)
    trainer = Trainer(
        classifier,
        lr=lr,
        optimizer=optimizer,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        scheduler=scheduler,
        warmup=warmup,
        batch_size=batch_size,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        augment=augment,
        monitor=monitor,
        patience=patience,
        device=device,
        seed=seed,
        progress=progress,
        cache=cache,
    )
    for record in trainer.epochs(parts["train"], parts["val"], epochs=epochs):
        if record.epoch in begins:
            unfreeze(classifier, upto=plan[begins.index(record.epoch)])
    return judged(classifier, trainer.history, parts)


def boundaries(names: Sequence[str], steps: int) -> list[str | int]:
    """The first trainable stage of each step: the head, then evenly back to the first stage.

    Args:
        names: Stages from input to output.
        steps: How many; no more than there are stages.

    Raises:
        ConfigError: Fewer than two steps.
    """
    if steps < 2:
        raise ConfigError(f"Gradual unfreezing needs two steps or more, got {steps}.")
    last = len(names) - 1
    count = min(steps, len(names))
    places = [round(last * (count - 1 - step) / (count - 1)) for step in range(count)]
    return [names[place] for place in places]


def starts(steps: int, epochs: int) -> list[int]:
    """After which epoch each step begins; the first begins after epoch 0.

    Raises:
        ConfigError: Fewer epochs than steps.
    """
    if not 1 <= steps <= epochs:
        raise ConfigError(
            f"Every step needs an epoch: {steps} steps in {epochs} epochs. Give more epochs, or "
            f"steps={max(epochs, 1)} or fewer."
        )
    return [step * epochs // steps for step in range(steps)]


@dataclass(frozen=True, slots=True, eq=False)
class Phase:
    """One finished phase of a run.

    Attributes:
        history: Its figures.
        weights: What the model was left with: a copy, by name.
    """

    history: History
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, history: History) -> Phase:
        """Copy what the model has now."""
        state: dict[str, Tensor] = model.state_dict()
        return cls(history, {name: tensor.detach().clone() for name, tensor in state.items()})


def finish(model: nn.Module, phases: Sequence[Phase]) -> History:
    """Leave ``model`` with the weights of the best epoch of all phases; join their histories.

    Raises:
        DataError: There is no phase.
    """
    history = joined([phase.history for phase in phases])
    ends = [sum(len(p.history) for p in phases[: i + 1]) for i in range(len(phases))]
    best = history.best_epoch or len(history)
    chosen = next(phase for phase, end in zip(phases, ends, strict=True) if best <= end)
    model.load_state_dict(chosen.weights)
    return history


def joined(histories: Sequence[History]) -> History:
    """Put one history behind the other: epochs and steps count on.

    Raises:
        DataError: There is none.
    """
    if not histories:
        raise DataError("There is no history to join.")
    records: list[EpochRecord] = []
    for history in histories:
        epoch, step = (records[-1].epoch, records[-1].step) if records else (0, 0)
        records += [
            replace(record, epoch=epoch + record.epoch, step=step + record.step)
            for record in history.records
        ]
    return History(tuple(records), histories[0].monitor)


def without_test(splits: Splits) -> Splits:
    """Train and val only, so that a phase cannot look at the test split."""
    return Splits({name: splits[name] for name in ("train", "val")})


Solver: TypeAlias = Literal["minibatch", "lbfgs"]


def linear_probe(
    model: Classifier | str,
    splits: Mapping[str, ImageData],
    *,
    solver: Solver = "minibatch",
    epochs: int = 30,
    lr: float = 1e-2,
    optimizer: OptimizerName = "adamw",
    weight_decay: float | None = None,
    scheduler: ScheduleName | Schedule | Plateau = "cosine",
    warmup: float | int = 0.0,
    batch_size: int = 32,
    label_smoothing: float = 0.0,
    class_weights: ClassWeights | None = None,
    augment: Augmentation | None = None,
    monitor: Monitor = "val_accuracy",
    patience: int | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool | None = None,
    cache: Cache | Where | None = "auto",
) -> Result:
    """Freeze the backbone, train the head, choose the epoch on val, and judge on test.

    Without augmentation the features are computed once, and every epoch runs on them.

    ``solver="lbfgs"`` solves a linear head to the optimum instead, for eight L2 penalties from 10
    down to 1e-6 on scaled features, and takes the one that is best on val. ``epochs``, ``lr`` and
    the other options of stepping then have no meaning; each record of the history is one penalty,
    which stands in its column ``lr``, and ``step`` counts L-BFGS iterations.

    Args:
        model: A classifier, trained in place, or the name of a backbone, which gets its default
            weights.
        splits: ``"train"`` and ``"val"``, and ``"test"`` if there is one.
        solver: ``"minibatch"`` or ``"lbfgs"``.
        epochs: Length of the run.
        lr: The base rate.
        optimizer: See :class:`~transferkit.Trainer`, as for all that follows.
        weight_decay: Of weight matrices and kernels.
        scheduler: A name, or a function of optimizer steps.
        warmup: Linear warm-up, as a share of the run or a number of steps.
        batch_size: Images a batch.
        label_smoothing: Share of the target that is spread over all classes.
        class_weights: ``"balanced"``, or one weight a class.
        augment: Random augmentation of the training images.
        monitor: The val figure that chooses the best epoch.
        patience: Stop after this many epochs without a better one.
        device: Where to train; by default a GPU if there is one.
        seed: Of everything random.
        progress: True for a bar, False for nothing, None for what suits the terminal.
        cache: Where to keep the features.

    Raises:
        DataError: A split is absent, empty, unlabelled, or has other classes than the model.
        ConfigError: An option that cannot work.
        UnknownNameError: No such backbone.
        TrainingError: The loss is not finite any more.

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
    if solver not in get_args(Solver):
        raise UnknownNameError.among("solver", str(solver), get_args(Solver))
    if solver == "lbfgs" and augment is not None:
        raise ConfigError("solver='lbfgs' works on fixed features; augment needs 'minibatch'.")
    parts = checked_splits(splits)
    classifier = classifier_for(model, parts, seed=seed)
    freeze(classifier)
    trainer = Trainer(
        classifier,
        lr=lr,
        optimizer=optimizer,
        weight_decay=weight_decay,
        scheduler=scheduler,
        warmup=warmup,
        batch_size=batch_size,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        augment=augment,
        monitor=monitor,
        patience=patience,
        device=device,
        seed=seed,
        progress=progress,
        cache=cache,
    )
    if solver == "lbfgs":
        history = solve_head(classifier, parts, trainer.options)
    else:
        history = trainer.fit(parts["train"], parts["val"], epochs=epochs)
    return judged(classifier, history, parts)


def fine_tune(
    model: Classifier | str,
    splits: Mapping[str, ImageData],
    *,
    upto: str | int | None = None,
    epochs: int = 10,
    lr: float = 1e-4,
    optimizer: OptimizerName = "adamw",
    weight_decay: float | None = None,
    layer_decay: float = 1.0,
    scheduler: ScheduleName | Schedule | Plateau = "cosine",
    warmup: float | int = 0.0,
    batch_size: int = 32,
    label_smoothing: float = 0.0,
    class_weights: ClassWeights | None = None,
    augment: Augmentation | None = None,
    monitor: Monitor = "val_accuracy",
    patience: int | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool | None = None,
    cache: Cache | Where | None = "auto",
) -> Result:
    """Train from the stage ``upto`` to the head, choose the epoch on val, and judge on test.

    Args:
        model: A classifier, trained in place, or the name of a backbone, which gets its default
            weights.
        splits: ``"train"`` and ``"val"``, and ``"test"`` if there is one.
        upto: The first stage that is trained, by name or place; everything before it is frozen.
            None trains everything.
        epochs: Length of the run.
        lr: The base rate, at the head.
        optimizer: See :class:`~transferkit.Trainer`, as for all that follows.
        weight_decay: Of weight matrices and kernels.
        layer_decay: The rate falls by this factor with every stage away from the head.
        scheduler: A name, or a function of optimizer steps.
        warmup: Linear warm-up, as a share of the run or a number of steps.
        batch_size: Images a batch.
        label_smoothing: Share of the target that is spread over all classes.
        class_weights: ``"balanced"``, or one weight a class.
        augment: Random augmentation of the training images.
        monitor: The val figure that chooses the best epoch.
        patience: Stop after this many epochs without a better one.
        device: Where to train; by default a GPU if there is one.
        seed: Of everything random.
        progress: True for a bar, False for nothing, None for what suits the terminal.
        cache: Where to keep what the frozen part makes of each image.

    Raises:
        DataError: A split is absent, empty, unlabelled, or has other classes than the model.
        ConfigError: An option that cannot work.
        UnknownNameError: No such stage, or no such backbone.
        TrainingError: The loss is not finite any more.

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
    parts = checked_splits(splits)
    classifier = classifier_for(model, parts, seed=seed)
    unfreeze(classifier, upto=upto)
    trainer = Trainer(
        classifier,
        lr=lr,
        optimizer=optimizer,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        scheduler=scheduler,
        warmup=warmup,
        batch_size=batch_size,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        augment=augment,
        monitor=monitor,
        patience=patience,
        device=device,
        seed=seed,
        progress=progress,
        cache=cache,
    )
    history = trainer.fit(parts["train"], parts["val"], epochs=epochs)
    return judged(classifier, history, parts)


class _Shared(TypedDict):
    """The options that both phases take as they are."""

    optimizer: OptimizerName
    weight_decay: float | None
    scheduler: ScheduleName | Schedule | Plateau
    batch_size: int
    label_smoothing: float
    class_weights: ClassWeights | None
    augment: Augmentation | None
    monitor: Monitor
    patience: int | None
    device: torch.device | str | None
    seed: int
    progress: bool | None
    cache: Cache | Where | None


def lp_ft(
    model: Classifier | str,
    splits: Mapping[str, ImageData],
    *,
    upto: str | int | None = None,
    probe_epochs: int = 10,
    probe_lr: float = 1e-2,
    epochs: int = 10,
    lr: float = 1e-4,
    optimizer: OptimizerName = "adamw",
    weight_decay: float | None = None,
    layer_decay: float = 1.0,
    scheduler: ScheduleName | Schedule | Plateau = "cosine",
    warmup: float | int = 0.0,
    batch_size: int = 32,
    label_smoothing: float = 0.0,
    class_weights: ClassWeights | None = None,
    augment: Augmentation | None = None,
    monitor: Monitor = "val_accuracy",
    patience: int | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool | None = None,
    cache: Cache | Where | None = "auto",
) -> Result:
    """Train the head on frozen features, then fine-tune from there, and judge on test once.

    A new head sends large, random gradients into the backbone and distorts features that were
    good; a head that fits already does not (A. Kumar et al., "Fine-tuning can distort pretrained
    features and underperform out-of-distribution", ICLR 2022, arXiv:2202.10054). The epoch is
    chosen on val over both phases: where fine-tuning never beats the probe there, the probe stays.

    Args:
        model: A classifier, trained in place, or the name of a backbone, which gets its default
            weights.
        splits: ``"train"`` and ``"val"``, and ``"test"`` if there is one.
        upto: The first stage that is fine-tuned; None fine-tunes everything.
        probe_epochs: Length of the first phase.
        probe_lr: The base rate of the first phase.
        epochs: Length of the second phase.
        lr: The base rate of the second phase, at the head.
        optimizer: See :class:`~transferkit.Trainer`, as for all that follows.
        weight_decay: Of weight matrices and kernels.
        layer_decay: In the second phase the rate falls by this factor with every stage away from
            the head.
        scheduler: A name, or a function of optimizer steps; each phase has its own run of it.
        warmup: Linear warm-up of the second phase, as a share of it or a number of steps.
        batch_size: Images a batch.
        label_smoothing: Share of the target that is spread over all classes.
        class_weights: ``"balanced"``, or one weight a class.
        augment: Random augmentation of the training images.
        monitor: The val figure that chooses the best epoch.
        patience: End a phase after this many epochs without a better one.
        device: Where to train; by default a GPU if there is one.
        seed: Of everything random.
        progress: True for a bar, False for nothing, None for what suits the terminal.
        cache: Where to keep what the frozen part makes of each image.

    Returns:
        The classifier, and the history of both phases as one.

    Raises:
        DataError: A split is absent, empty, unlabelled, or has other classes than the model.
        ConfigError: An option that cannot work.
        UnknownNameError: No such stage, or no such backbone.
        TrainingError: The loss is not finite any more.
    """
    parts = checked_splits(splits)
    classifier = classifier_for(model, parts, seed=seed)
    blind = without_test(parts)
    shared = _Shared(
        optimizer=optimizer,
        weight_decay=weight_decay,
        scheduler=scheduler,
        batch_size=batch_size,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        augment=augment,
        monitor=monitor,
        patience=patience,
        device=device,
        seed=seed,
        progress=progress,
        cache=cache,
    )
    probe = linear_probe(
        classifier,
        blind,
        epochs=probe_epochs,
        lr=probe_lr,
        **shared,
    )
    first = Phase.of(classifier, probe.history)
    tuned = fine_tune(
        classifier,
        blind,
        upto=upto,
        epochs=epochs,
        lr=lr,
        layer_decay=layer_decay,
        warmup=warmup,
        **shared,
    )
    history = finish(classifier, [first, Phase.of(classifier, tuned.history)])
    return judged(classifier, history, parts)


GRADUAL_STEPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the strategies of one comparison share.

    Attributes:
        batch_size: Images a batch.
        device: Where to train.
        seed: Of everything random.
        cache: Where to keep what frozen parts make of each image.
    """

    batch_size: int
    device: str | None
    seed: int
    cache: Cache | None


Runner: TypeAlias = Callable[[Classifier, Splits, Strategy, Setting], Result]


def run(model: Classifier, splits: Splits, strategy: Strategy, setting: Setting) -> Result:
    """Train ``model`` by ``strategy``, choose the epoch on val, and judge on test once."""
    return RUNNERS[strategy.method](model, splits, strategy, setting)


class _RunnerOptions(TypedDict):
    """The options that every workflow takes from the strategy and the setting."""

    optimizer: OptimizerName
    scheduler: ScheduleName
    augment: Augment | None
    batch_size: int
    device: str | None
    seed: int
    progress: bool
    cache: Cache | None


def _shared(strategy: Strategy, setting: Setting) -> _RunnerOptions:
    return _RunnerOptions(
        optimizer=strategy.optimizer,
        scheduler=strategy.scheduler,
        augment=strategy.augment,
        batch_size=setting.batch_size,
        device=setting.device,
        seed=setting.seed,
        progress=False,
        cache=setting.cache,
    )


def _probe(model: Classifier, splits: Splits, strategy: Strategy, setting: Setting) -> Result:
    return linear_probe(
        model,
        splits,
        epochs=strategy.length,
        lr=strategy.rate,
        **_shared(strategy, setting),
    )


def _tune(model: Classifier, splits: Splits, strategy: Strategy, setting: Setting) -> Result:
    return fine_tune(
        model,
        splits,
        upto=strategy.upto,
        epochs=strategy.length,
        lr=strategy.rate,
        layer_decay=strategy.decay,
        **_shared(strategy, setting),
    )


def _lp_ft(model: Classifier, splits: Splits, strategy: Strategy, setting: Setting) -> Result:
    return lp_ft(
        model,
        splits,
        upto=strategy.upto,
        probe_epochs=strategy.probe_length,
        epochs=strategy.length,
        lr=strategy.rate,
        layer_decay=strategy.decay,
        **_shared(strategy, setting),
    )


def _gradual(model: Classifier, splits: Splits, strategy: Strategy, setting: Setting) -> Result:
    count = max(2, min(GRADUAL_STEPS, strategy.length))
    steps = boundaries(stages(model), count)[: strategy.length]
    return gradual_unfreeze(
        model,
        splits,
        steps=steps,
        epochs=strategy.length,
        lr=strategy.rate,
        layer_decay=strategy.decay,
        **_shared(strategy, setting),
    )


def _interpolated(
    model: Classifier, splits: Splits, strategy: Strategy, setting: Setting
) -> Result:
    """Probe, fine-tune from it, and choose between the two on val."""
    blind = without_test(splits)
    probe = linear_probe(
        model,
        blind,
        epochs=strategy.probe_length,
        **_shared(strategy, setting),
    )
    first = copy.deepcopy(model)
    tuned = _tune(model, blind, strategy, setting)
    between = interpolate(first, model, splits, batch_size=setting.batch_size)
    return Result(
        classifier=between.classifier,
        history=joined([probe.history, tuned.history]),
        val=between.val,
        test=between.test,
    )


RUNNERS: Mapping[Method, Runner] = MappingProxyType(
    {
        "linear_probe": _probe,
        "fine_tune": _tune,
        "lp_ft": _lp_ft,
        "gradual_unfreeze": _gradual,
        "interpolate": _interpolated,
        "from_scratch": _tune,
    }
)
