"""Where a model is."""

from __future__ import annotations

import torch
from torch import nn

from transferkit.errors import ConfigError


def device_of(model: nn.Module) -> torch.device:
    """The device of the first parameter or buffer of ``model``; the CPU if it has neither."""
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


def has_room(device: torch.device, needed: int) -> bool:
    """Whether ``needed`` bytes may stay on ``device``: on a GPU, a quarter of what is free."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return needed <= free // 4


def place(model: nn.Module, device: torch.device | str | None) -> torch.device:
    """Move ``model`` to ``device`` if one is given; return where it is.

    Raises:
        ConfigError: There is no such device on this machine.
    """
    if device is None:
        return device_of(model)
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={str(device)!r} cannot be used here: {error}") from error
    return device_of(model)
