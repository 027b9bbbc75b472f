"""Keeps the weights of the last whole epoch and of the best one."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

from transferkit.models.marks import changing

Weights: TypeAlias = dict[str, Tensor]


class Keeper:
    """Copies of what training changes: trainable parameters, and buffers of modules that train.

    Frozen weights cannot change, so they are not copied.

    Attributes:
        last: The weights after the last whole epoch (before the first: those it started from).
        best: The weights of the best epoch; empty while there is none.
    """

    def __init__(self, model: nn.Module) -> None:
        """Look at ``model``, which must be in train mode, and copy what it starts from."""
        self._live: Weights = changing(model)
        self.last: Weights = _copy(self._live)
        self.best: Weights = {}

    def follow(self, model: nn.Module) -> None:
        """Take in what has been unfrozen since; it has not changed since the best epoch."""
        fresh = {k: v for k, v in changing(model).items() if k not in self._live}
        copies = _copy(fresh)
        self._live |= fresh
        self.last |= copies
        if self.best:
            self.best |= copies

    def keep(self, *, best: bool) -> None:
        """Copy the weights at the end of an epoch; they are also the best so far if ``best``."""
        self.last = _copy(self._live)
        if best:
            self.best = dict(self.last)

    def put_back(self, weights: Weights) -> None:
        """Write ``weights`` into the model."""
        with torch.no_grad():
            for name, value in weights.items():
                self._live[name].copy_(value)


def _copy(weights: Weights) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}
