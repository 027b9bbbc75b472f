"""Learning-rate schedules as pure functions of the optimizer step.

A schedule maps ``(step, total)`` to a multiplier of the base rate, where ``step`` counts the
optimizer steps already taken (0 before the first) and ``total`` is the length of the whole run in
steps. A schedule keeps no state: where a run stands follows from its step alone, so a resumed run
needs nothing more. Only :class:`Plateau` looks at results; it is a pure function of the figures so
far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from transferkit.errors import ConfigError, UnknownNameError

Schedule: TypeAlias = Callable[[int, int], float]
ScheduleName: TypeAlias = Literal[
    "constant", "cosine", "one_cycle", "step", "exponential", "plateau"
]


def constant(step: int, total: int) -> float:
    """Return 1 at every step."""
    return 1.0


@dataclass(frozen=True, slots=True)
class Cosine:
    """Half a cosine from 1 down to ``final`` (Loshchilov & Hutter 2017, SGDR, eq. 5, one cycle).

    Attributes:
        final: The multiplier at the end of the run.
    """

    final: float = 0.0

    def __call__(self, step: int, total: int) -> float:
        """Return the multiplier after ``step`` of ``total`` steps."""
        return self.final + (1 - self.final) * _half_cosine(step / max(total, 1))


@dataclass(frozen=True, slots=True)
class OneCycle:
    """Up to the base rate and down again, each along half a cosine (Smith & Topin 2018).

    The base rate is the peak. The momentum is left alone.

    Attributes:
        rise: The share of the run that the way up takes, in (0, 1).
        start: The multiplier at the first step.
        final: The multiplier at the last step.
    """

    rise: float = 0.3
    start: float = 1 / 25
    final: float = 1 / 25e4

    def __post_init__(self) -> None:
        if not 0 < self.rise < 1:
            raise ConfigError(f"OneCycle(rise=...) must lie between 0 and 1, got {self.rise}.")

    def __call__(self, step: int, total: int) -> float:
        """Return the multiplier after ``step`` of ``total`` steps."""
        peak = self.rise * total - 1
        if step < peak:
            return self.start + (1 - self.start) * (1 - _half_cosine(step / peak))
        way_down = max(total - 1 - peak, 1)
        return self.final + (1 - self.final) * _half_cosine((step - peak) / way_down)


@dataclass(frozen=True, slots=True)
class Step:
    """Multiply by ``gamma`` after every ``every``.

    Attributes:
        every: A share of the run where it is a float (1/3: twice in a run, at a third and at two
            thirds), a number of optimizer steps where it is an int.
        gamma: The factor.
    """

    every: float | int = 1 / 3
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.every <= 0:
            raise ConfigError(f"Step(every=...) must be positive, got {self.every}.")

    def __call__(self, step: int, total: int) -> float:
        """Return the multiplier after ``step`` of ``total`` steps."""
        if isinstance(self.every, int):
            return self.gamma ** (step // self.every)
        # the small number keeps a drop that falls on a whole step on that step
        return self.gamma ** math.floor(step / (self.every * max(total, 1)) + 1e-9)


@dataclass(frozen=True, slots=True)
class Exponential:
    """Decay by the same factor at every step, from 1 to ``final`` at the end of the run.

    Attributes:
        final: The multiplier at the end of the run.
    """

    final: float = 0.01

    def __post_init__(self) -> None:
        if self.final <= 0:
            raise ConfigError(f"Exponential(final=...) must be positive, got {self.final}.")

    def __call__(self, step: int, total: int) -> float:
        """Return the multiplier after ``step`` of ``total`` steps."""
        return float(self.final ** (step / max(total, 1)))


@dataclass(frozen=True, slots=True)
class Plateau:
    """Multiply by ``factor`` whenever the monitored figure has stopped improving.

    The rule of ``torch.optim.lr_scheduler.ReduceLROnPlateau`` with a relative threshold and no
    cooldown, replayed over all figures so far; figures come once an epoch.

    Attributes:
        factor: The factor, in (0, 1).
        patience: How many epochs without improvement are let pass before a reduction.
        threshold: The relative improvement that counts as one.
    """

    factor: float = 0.1
    patience: int = 3
    threshold: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ConfigError(f"Plateau(factor=...) must lie between 0 and 1, got {self.factor}.")

    def __call__(self, figures: Sequence[float], *, maximize: bool) -> float:
        """Return the multiplier after the epochs that gave ``figures``."""
        edge = 1 + self.threshold if maximize else 1 - self.threshold
        best, bad, reductions = (-math.inf if maximize else math.inf), 0, 0
        for figure in figures:
            improved = figure > best * edge if maximize else figure < best * edge
            best, bad = (figure, 0) if improved else (best, bad + 1)
            if bad > self.patience:
                reductions, bad = reductions + 1, 0
        return self.factor**reductions


_SCHEDULES: dict[ScheduleName, Schedule | Plateau] = {
    "constant": constant,
    "cosine": Cosine(),
    "one_cycle": OneCycle(),
    "step": Step(),
    "exponential": Exponential(),
    "plateau": Plateau(),
}


def schedule_named(name: ScheduleName | Schedule | Plateau) -> Schedule | Plateau:
    """Return the schedule that goes by ``name``; a schedule of the caller's own goes through.

    Raises:
        UnknownNameError: No schedule goes by the name.
        ConfigError: Neither a name nor a callable.
    """
    if isinstance(name, str):
        if name not in _SCHEDULES:
            raise UnknownNameError.among("scheduler", name, _SCHEDULES)
        return _SCHEDULES[name]
    if not callable(name):
        raise ConfigError(
            f"scheduler is a name or a function (step, total) -> float, got {name!r}."
        )
    return name


def warm_up_steps(warmup: float, total: int) -> int:
    """The number of warm-up steps: an int is steps, a float is a share of the run."""
    return warmup if isinstance(warmup, int) else round(warmup * total)


def multiplier(
    schedule: Schedule | Plateau,
    step: int,
    total: int,
    *,
    warmup: int = 0,
    figures: Sequence[float] = (),
    maximize: bool = False,
) -> float:
    """The multiplier of the base rate for the optimizer step that comes after ``step`` steps.

    During the first ``warmup`` steps it rises linearly, (step + 1) / warmup of the schedule's first
    value; the schedule then covers the steps that are left.

    Args:
        schedule: The schedule.
        step: Optimizer steps taken so far.
        total: Optimizer steps of the whole run, warm-up included.
        warmup: Optimizer steps of warm-up.
        figures: The monitored figure of every epoch so far; only :class:`Plateau` looks at it.
        maximize: Whether a higher figure is better.
    """
    past, rest = max(step - warmup, 0), total - warmup
    if isinstance(schedule, Plateau):
        value = schedule(figures, maximize=maximize)
    else:
        value = schedule(past, rest)
    return value * min((step + 1) / warmup, 1.0) if warmup else value


def _half_cosine(share: float) -> float:
    """From 1 at ``share`` 0 to 0 at ``share`` 1."""
    return (1 + math.cos(math.pi * min(share, 1.0))) / 2
