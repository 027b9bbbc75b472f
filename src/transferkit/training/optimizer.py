"""The optimizer: built from the trainable parameters, and kept to exactly those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from transferkit.errors import TrainingError
from transferkit.models.freezing import ParamGroup, param_groups
from transferkit.training.options import OptimizerName, Options

Moments: TypeAlias = dict[str, dict[str, Tensor]]
"""The optimizer's state: by kind, such as ``exp_avg``, and by the parameter's name."""

_WEIGHT_DECAY: dict[OptimizerName, float] = {"adamw": 1e-2, "adam": 0.0, "sgd": 0.0}
_FUSED = ("cpu", "cuda")


def build_optimizer(model: nn.Module, options: Options) -> Optimizer:
    """Build the optimizer over the parameters of ``model`` that are trainable now."""
    decay = options.weight_decay
    if decay is None:
        decay = _WEIGHT_DECAY[options.optimizer]
    parts = param_groups(model, options.lr, decay=options.layer_decay, weight_decay=decay)
    if not parts:
        raise TrainingError("Every parameter is frozen; unfreeze(model) or a stage of it first.")
    groups = _merged(parts)
    fused = all(p.device.type in _FUSED for group in parts for p in group["params"])
    if options.optimizer == "sgd":
        return SGD(groups, lr=options.lr, momentum=options.momentum, fused=fused)
    if options.optimizer == "adam":
        return Adam(groups, lr=options.lr, fused=fused)
    return AdamW(groups, lr=options.lr, fused=fused)


def _merged(parts: Sequence[ParamGroup]) -> list[dict[str, object]]:
    """Groups of equal rate and decay as one, because each group costs a call per step."""
    merged: dict[tuple[float, float], list[nn.Parameter]] = {}
    for part in parts:
        merged.setdefault((part["lr"], part["weight_decay"]), []).extend(part["params"])
    return [
        {"params": params, "lr": lr, "base_lr": lr, "weight_decay": decay}
        for (lr, decay), params in merged.items()
    ]


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
