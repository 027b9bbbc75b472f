"""The optimizer of the trainable parameters, its learning rate at each step, and its state.

A schedule maps ``(step, total)`` to a factor on the base rate, where ``step`` counts the optimizer
steps already taken (0 before the first) and ``total`` is the length of the whole run in steps. It
keeps no state: where a run stands follows from its step alone, so a resumed run needs nothing more.
Only a plateau looks at results, at all of them from the start of the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from transferkit.errors import TrainingError
from transferkit.models.freezing import param_groups
from transferkit.training.options import OptimizerName, Options, Schedule, ScheduleName

Moments: TypeAlias = dict[str, dict[str, Tensor]]
"""The optimizer's state: by kind, such as ``exp_avg``, and by the parameter's name."""

_WEIGHT_DECAY: dict[OptimizerName, float] = {"adamw": 1e-2, "adam": 0.0, "sgd": 0.0}


def build_optimizer(model: nn.Module, options: Options) -> Optimizer:
    """Build the optimizer over the parameters of ``model`` that are trainable now."""
    decay = options.weight_decay
    if decay is None:
        decay = _WEIGHT_DECAY[options.optimizer]
    parts = param_groups(model, options.lr, decay=options.layer_decay, weight_decay=decay)
    if not parts:
        raise TrainingError("Every parameter is frozen; unfreeze(model) or a stage of it first.")
    # groups of equal rate and decay become one, because each group costs a call per step
    merged: dict[tuple[float, float], list[nn.Parameter]] = {}
    for part in parts:
        merged.setdefault((part["lr"], part["weight_decay"]), []).extend(part["params"])
    groups = [
        {"params": params, "lr": lr, "base_lr": lr, "weight_decay": decay}
        for (lr, decay), params in merged.items()
    ]
    fused = all(p.device.type in ("cpu", "cuda") for params in merged.values() for p in params)
    if options.optimizer == "sgd":
        return SGD(groups, lr=options.lr, momentum=options.momentum, fused=fused)
    if options.optimizer == "adam":
        return Adam(groups, lr=options.lr, fused=fused)
    return AdamW(groups, lr=options.lr, fused=fused)


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """The parameters of the optimizer, always in the same order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def moments(optimizer: Optimizer, model: nn.Module) -> Moments:
    """Copy the optimizer's state of the parameters of ``model``."""
    found: Moments = {}
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state.get(parameter, {}).items():
            found.setdefault(kind, {})[name] = value.detach().clone()
    return found


def load_moments(optimizer: Optimizer, model: nn.Module, saved: Moments) -> None:
    """Set the optimizer's state of the parameters that it holds; others are left out."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    held = [names[parameter] for parameter in parameters_of(optimizer)]
    states = [
        {kind: named[name].clone() for kind, named in saved.items() if name in named}
        for name in held
    ]
    packed = optimizer.state_dict()
    packed["state"] = {place: state for place, state in enumerate(states) if state}
    optimizer.load_state_dict(packed)


def scale_rates(optimizer: Optimizer, multiplier: float) -> float:
    """Set each group's rate to ``multiplier`` times its base rate; return the highest."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * multiplier
    return float(max(group["lr"] for group in optimizer.param_groups))


def rate_factor(
    schedule: ScheduleName | Schedule,
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
    if schedule == "plateau":
        value = plateau(figures, maximize=maximize)
    else:
        curve = _CURVES[schedule] if isinstance(schedule, str) else schedule
        value = curve(max(step - warmup, 0), total - warmup)
    return value * min((step + 1) / warmup, 1.0) if warmup else value


def warm_up_steps(warmup: float, total: int) -> int:
    """The number of warm-up steps: an int is steps, a float is a share of the run."""
    return warmup if isinstance(warmup, int) else round(warmup * total)


def cosine(step: int, total: int) -> float:
    """Half a cosine from 1 to 0 (Loshchilov & Hutter 2017, SGDR, eq. 5, one cycle)."""
    return _half_cosine(step / max(total, 1))


def one_cycle(step: int, total: int) -> float:
    """Up to 1 in 30 % of the run and down again, each half a cosine (Smith & Topin 2018).

    The momentum stays as it is.
    """
    start, final, peak = 1 / 25, 1 / 25e4, 0.3 * total - 1
    if step < peak:
        return start + (1 - start) * (1 - _half_cosine(step / peak))
    return final + (1 - final) * _half_cosine((step - peak) / max(total - 1 - peak, 1))


def _half_cosine(share: float) -> float:
    """From 1 at ``share`` 0 to 0 at ``share`` 1."""
    return (1 + math.cos(math.pi * min(share, 1.0))) / 2


def step_decay(step: int, total: int) -> float:
    """A tenth after each third of the run."""
    # the small number keeps a drop that falls on a whole step on that step
    return float(0.1 ** math.floor(step / (1 / 3 * max(total, 1)) + 1e-9))


def exponential(step: int, total: int) -> float:
    """Decay by the same factor at every step, from 1 to 0.01 at the end of the run."""
    return float(0.01 ** (step / max(total, 1)))


_CURVES: dict[str, Schedule] = {
    "constant": lambda step, total: 1.0,
    "cosine": cosine,
    "one_cycle": one_cycle,
    "step": step_decay,
    "exponential": exponential,
}


def plateau(figures: Sequence[float], *, maximize: bool, patience: int = 3) -> float:
    """A tenth for each time that more than ``patience`` epochs brought no gain of 0.01 %.

    The rule of ``torch.optim.lr_scheduler.ReduceLROnPlateau`` without a cooldown, replayed over all
    figures so far, one an epoch.
    """
    edge = 1 + 1e-4 if maximize else 1 - 1e-4
    best, bad, reductions = (-math.inf if maximize else math.inf), 0, 0
    for figure in figures:
        improved = figure > best * edge if maximize else figure < best * edge
        best, bad = (figure, 0) if improved else (best, bad + 1)
        if bad > patience:
            reductions, bad = reductions + 1, 0
    return float(0.1**reductions)
