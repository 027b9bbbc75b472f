"""What each strategy does: one short function a method, over the workflows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias, TypedDict

from transferkit.data.augment import Augment
from transferkit.data.dataset import Splits
from transferkit.models.caching import Cache
from transferkit.models.classifier import Classifier
from transferkit.models.freezing import stages
from transferkit.training.options import OptimizerName
from transferkit.training.schedules import ScheduleName
from transferkit.workflows.gradual import boundaries, gradual_unfreeze
from transferkit.workflows.interpolate import interpolate
from transferkit.workflows.lp_ft import lp_ft
from transferkit.workflows.phases import joined, without_test
from transferkit.workflows.probe import linear_probe
from transferkit.workflows.result import Result
from transferkit.workflows.strategy import Method, Strategy
from transferkit.workflows.tune import fine_tune

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


class _Shared(TypedDict):
    """The options that every workflow takes from the strategy and the setting."""

    optimizer: OptimizerName
    scheduler: ScheduleName
    augment: Augment | None
    batch_size: int
    device: str | None
    seed: int
    progress: bool
    cache: Cache | None


def _shared(strategy: Strategy, setting: Setting) -> _Shared:
    return _Shared(
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
