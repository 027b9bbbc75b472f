"""Strategies: linear probe, fine-tuning, LP-FT, gradual unfreezing, interpolation, from scratch.

:func:`run` carries out a :class:`~transferkit.Strategy`; each of ``tk.linear_probe``,
``tk.fine_tune``, ``tk.lp_ft`` and ``tk.gradual_unfreeze`` is ``run`` with one method.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from torch import nn

from transferkit._validation import check_number, check_whole
from transferkit.data.image_data import ImageData
from transferkit.data.splits import Splits
from transferkit.errors import ConfigError
from transferkit.models.classifier import (
    Classifier,
    create_classifier,
    require_classifier,
    take_classes,
)
from transferkit.models.freezing import freeze, stages, unfreeze
from transferkit.training.history import History
from transferkit.training.lbfgs_probe import solve_head
from transferkit.training.options import TrainOptions
from transferkit.training.trainer import Trainer, check_data, labelled_splits
from transferkit.workflows.interpolate import interpolate
from transferkit.workflows.result import Result, evaluated
from transferkit.workflows.strategy import Method, Solver, Strategy, strategy_named


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
    data = with_outputs(labelled_splits(splits), strategy.outputs)
    classifier = _classifier(strategy, model, data)
    data = data.with_classes(classifier.classes)
    if strategy.upto is not None:  # refuses an unknown stage before a probe is trained
        unfreeze(classifier, upto=strategy.upto)
    if strategy.method == "interpolate":
        return _interpolated(classifier, data, strategy)
    return evaluated(classifier, _PHASES[strategy.method](classifier, data, strategy), data)


def linear_probe(
    model: Classifier | str,
    splits: Mapping[str, ImageData],
    *,
    epochs: int = 30,
    lr: float = 1e-2,
    solver: Solver = "minibatch",
    **options: Unpack[TrainOptions],
) -> Result:
    """Freeze the backbone and train the head: :func:`~transferkit.run` with one method.

    Without augmentation the features are computed once, and every epoch runs on them. See ``run``
    for the other arguments and the errors, and :class:`~transferkit.Trainer` for ``options``.

    ``solver="lbfgs"`` solves a linear head to the optimum instead, for eight L2 penalties from 10
    down to 1e-6 on standardised features, and takes the one that is best on val. ``epochs``,
    ``lr`` and the other options of stepping then have no meaning; each record of the history is
    one penalty, which stands in its column ``lr``, and ``step`` counts L-BFGS iterations.

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
    return _run_explicit(strategy, model, splits)


def fine_tune(
    model: Classifier | str,
    splits: Mapping[str, ImageData],
    *,
    upto: str | int | None = None,
    epochs: int = 10,
    lr: float = 1e-4,
    **options: Unpack[TrainOptions],
) -> Result:
    """Train the stages from ``upto`` (a name or place) to the head, or all for None.

    See :func:`~transferkit.run` for the other arguments and the errors, and
    :class:`~transferkit.Trainer` for ``options``.

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
    return _run_explicit(strategy, model, splits)


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

    ``options`` apply to both phases, each with its own run of the schedule, but ``warmup`` to
    fine-tuning only. The history is that of both phases. See :func:`~transferkit.run` for the
    other arguments and the errors, and :class:`~transferkit.Trainer` for ``options``.
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
    return _run_explicit(strategy, model, splits)


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

    ``steps`` is how many steps there are from the head alone to the whole network (no more than
    epochs and stages), or the first trainable stage of each step. ``layer_decay`` is 0.5 by
    default. See :func:`~transferkit.run` for the other arguments and the errors, and
    :class:`~transferkit.Trainer` for ``options``.
    """
    strategy = Strategy("gradual_unfreeze", steps=steps, epochs=epochs, lr=lr, options=options)
    return _run_explicit(strategy, model, splits)


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
    return splits.with_classes((*splits.classes, *more))


def _run_explicit(
    strategy: Strategy, model: Classifier | str, splits: Mapping[str, ImageData]
) -> Result:
    """Run a strategy whose ``epochs`` and ``lr`` must be numbers, not None."""
    check_whole("epochs", strategy.epochs, least=1)
    check_number("lr", strategy.lr, above=0)
    return run(strategy, model, splits)


def _classifier(strategy: Strategy, model: Classifier | str, data: Splits) -> Classifier:
    """The classifier to train: built on a backbone's name, or the caller's, which must fit."""
    if isinstance(model, str):
        return new_classifier(strategy, model, data)
    classifier = require_classifier(model)
    check_data(classifier, data["train"], data["val"])
    take_classes(classifier, data)
    shares = {module.p for module in classifier.head.modules() if isinstance(module, nn.Dropout)}
    if strategy.dropout and strategy.dropout not in shares:
        raise ConfigError(
            f"The strategy has dropout={strategy.dropout} and the classifier's head has not; "
            f"build it with create_classifier(..., dropout={strategy.dropout})."
        )
    if strategy.method == "from_scratch" and classifier.recipe.weights is not None:
        raise ConfigError(
            f"Training from_scratch starts from random weights, and this classifier has "
            f"{classifier.recipe.weights!r}; build it with create_classifier(..., weights=None)."
        )
    return classifier


def _probe(model: Classifier, data: Splits, strategy: Strategy) -> History:
    freeze(model)
    return _fit(model, data, strategy)


def _fine_tune(model: Classifier, data: Splits, strategy: Strategy) -> History:
    unfreeze(model, upto=strategy.upto)
    return _fit(model, data, strategy)


def _fit(model: Classifier, data: Splits, strategy: Strategy) -> History:
    trainer = Trainer(model, lr=strategy.rate, **strategy.options)
    if strategy.solver == "lbfgs":  # of a probe
        return solve_head(model, data, trainer.options)
    return trainer.fit(data["train"], data["val"], epochs=strategy.length)


def _lp_ft(model: Classifier, data: Splits, strategy: Strategy) -> History:
    probe, history = _probe_then_fine_tune(model, data, strategy)
    if history.best_epoch is not None and history.best_epoch <= history.probe_epochs:
        model.load_state_dict(probe.state_dict())  # fine-tuning never beat the probe
    return history


def _interpolated(model: Classifier, data: Splits, strategy: Strategy) -> Result:
    probe, history = _probe_then_fine_tune(model, data, strategy)
    batch_size = strategy.options.get("batch_size", 32)
    between = interpolate(probe, model, data, batch_size=batch_size)
    return Result(between.classifier, history, between.val, between.test)


def _probe_then_fine_tune(
    model: Classifier, data: Splits, strategy: Strategy
) -> tuple[Classifier, History]:
    """Train both phases; return a copy of the probe, and the history of both."""
    options = strategy.options.copy()
    options.pop("warmup", None)
    folder = options.get("checkpoint")
    if folder is not None:  # each phase is a run of its own
        options["checkpoint"] = Path(folder) / "probe"
    first = Strategy(
        "linear_probe", epochs=strategy.probe_epochs, lr=strategy.probe_lr, options=options
    )
    probed = _probe(model, data, first)
    probe = copy.deepcopy(model)
    tuned = _fine_tune(model, data, strategy)
    return probe, joined(probed, tuned)


def joined(first: History, second: History) -> History:
    """One history behind the other; epochs and steps count on."""
    epoch, step = first.records[-1].epoch, first.records[-1].step
    later = (replace(r, epoch=epoch + r.epoch, step=step + r.step) for r in second.records)
    return History((*first.records, *later), first.monitor, len(first))


def _gradual(model: Classifier, data: Splits, strategy: Strategy) -> History:
    plan = boundaries(stages(model), strategy.steps, strategy.length)
    begins = {step * strategy.length // len(plan): upto for step, upto in enumerate(plan)}
    for upto in reversed(plan):  # refuses an unknown stage before training starts
        unfreeze(model, upto=upto)
    options = strategy.options.copy()
    options.setdefault("layer_decay", 0.5)
    trainer = Trainer(model, lr=strategy.rate, **options)
    run = trainer.epochs(data["train"], data["val"], epochs=strategy.length)
    for epoch, upto in begins.items():
        if epoch <= len(trainer.history):  # more than 0 where it goes on from a checkpoint
            unfreeze(model, upto=upto)
    for record in run:
        if record.epoch in begins:
            unfreeze(model, upto=begins[record.epoch])
    return trainer.history


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


_PHASES: Mapping[Method, Callable[[Classifier, Splits, Strategy], History]] = {
    "linear_probe": _probe,
    "fine_tune": _fine_tune,
    "lp_ft": _lp_ft,
    "gradual_unfreeze": _gradual,
    "from_scratch": _fine_tune,
}
