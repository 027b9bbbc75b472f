"""Learning-rate schedules as pure functions of the optimizer step.

A schedule maps ``(step, total)`` to a factor on the base rate, where ``step`` counts the optimizer
steps already taken (0 before the first) and ``total`` is the length of the whole run in steps. A
schedule keeps no state: where a run stands follows from its step alone, so a resumed run needs
nothing more. :class:`Plateau` alone looks at results, at all of them from the start of the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from transferkit._validation import check_number
from transferkit.errors import ConfigError, UnknownNameError

Schedule: TypeAlias = Callable[[int, int], float]
ScheduleName: TypeAlias = Literal[
    "constant", "cosine", "one_cycle", "step", "exponential", "plateau"
]


def constant(step: int, total: int) -> float:
    """Return 1 at every step."""
    return 1.0


def cosine(step: int, total: int, *, final: float = 0.0) -> float:
    """Half a cosine from 1 to ``final`` (Loshchilov & Hutter 2017, SGDR, eq. 5, one cycle)."""
    return final + (1 - final) * _half_cosine(step / max(total, 1))


def one_cycle(step: int, total: int) -> float:
    """Up to 1 in 30 % of the run and down again, each half a cosine (Smith & Topin 2018).

    The momentum stays as it is.
    """
    start, final, peak = 1 / 25, 1 / 25e4, 0.3 * total - 1
    if step < peak:
        return start + (1 - start) * (1 - _half_cosine(step / peak))
    return final + (1 - final) * _half_cosine((step - peak) / max(total - 1 - peak, 1))


def step_decay(step: int, total: int) -> float:
    """A tenth after each third of the run."""
    # the small number keeps a drop that falls on a whole step on that step
    return float(0.1 ** math.floor(step / (1 / 3 * max(total, 1)) + 1e-9))


def exponential(step: int, total: int) -> float:
    """Decay by the same factor at every step, from 1 to 0.01 at the end of the run."""
    return float(0.01 ** (step / max(total, 1)))


@dataclass(frozen=True, slots=True)
class Plateau:
    """Multiply by ``factor`` after ``patience`` epochs without a relative gain of ``threshold``.

    The rule of ``torch.optim.lr_scheduler.ReduceLROnPlateau`` without a cooldown, replayed over all
    figures so far; figures come once per epoch.
    """

    factor: float = 0.1
    patience: int = 3
    threshold: float = 1e-4

    def __post_init__(self) -> None:
        check_number("Plateau(factor=...)", self.factor, above=0, below=1)

    def __call__(self, figures: Sequence[float], *, maximize: bool) -> float:
        """Return the factor after the epochs that gave ``figures``."""
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
    "cosine": cosine,
    "one_cycle": one_cycle,
    "step": step_decay,
    "exponential": exponential,
    "plateau": Plateau(),
}


def schedule_named(name: ScheduleName | Schedule | Plateau) -> Schedule | Plateau:
    """The schedule of that name; a schedule of the user's own is returned as it is."""
    if isinstance(name, str):
        if name not in _SCHEDULES:
            raise UnknownNameError.among("scheduler", name, _SCHEDULES)
        return _SCHEDULES[name]
    if not callable(name):
        raise ConfigError(
            f"scheduler must be a name or a function (step, total) -> factor, got {name!r}."
        )
    return name


def warm_up_steps(warmup: float, total: int) -> int:
    """The number of warm-up steps: an int is steps, a float is a share of the run."""
    return warmup if isinstance(warmup, int) else round(warmup * total)


def rate_factor(
    schedule: Schedule | Plateau,
    step: int,
    total: int,
    *,
    warmup: int = 0,
    figures: Sequence[float] = (),
    maximize: bool = False,
) -> float:
    """The factor on the base rate for the optimizer step that comes after ``step`` steps.

    In the first ``warmup`` steps it rises linearly, (step + 1) / warmup of the schedule's first
    value; the schedule then covers the steps that are left of ``total``. Only a plateau looks at
    ``figures``, the monitored figure of every epoch so far.
    """
    if isinstance(schedule, Plateau):
        value = schedule(figures, maximize=maximize)
    else:
        value = schedule(max(step - warmup, 0), total - warmup)
    return value * min((step + 1) / warmup, 1.0) if warmup else value


def _half_cosine(share: float) -> float:
    """From 1 at ``share`` 0 to 0 at ``share`` 1."""
    return (1 + math.cos(math.pi * min(share, 1.0))) / 2
