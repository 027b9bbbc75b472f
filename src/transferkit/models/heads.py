"""Heads: from features (B, D) to logits (B, K)."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Literal, TypeAlias

import torch
from torch import nn

from transferkit._validation import check_number
from transferkit.errors import ConfigError

HeadKind: TypeAlias = Literal["linear", "mlp"]
HeadBuilder: TypeAlias = Callable[[int, int], nn.Module]
"""From the width of the features and the number of classes to a module."""


_HIDDEN = 512


def build_head(
    head: HeadKind | HeadBuilder, in_features: int, num_classes: int, *, dropout: float
) -> nn.Module:
    """Build a head by name or by a callable; dropout comes before each linear layer."""
    check_number("dropout", dropout, least=0, below=1)
    if head == "linear":
        layer = nn.Linear(in_features, num_classes)
        return nn.Sequential(nn.Dropout(dropout), layer) if dropout else layer
    if head == "mlp":
        hidden = (nn.Dropout(dropout), nn.Linear(in_features, _HIDDEN), nn.ReLU())
        return nn.Sequential(*hidden, nn.Dropout(dropout), nn.Linear(_HIDDEN, num_classes))
    if not callable(head):
        raise ConfigError(f"head must be 'linear', 'mlp' or a callable, got {head!r}.")
    if dropout:
        raise ConfigError("A head of your own brings its own dropout; leave dropout at 0.")
    try:
        built = head(in_features, num_classes)
    except TypeError as error:
        raise ConfigError(
            f"The head must be a callable of (in_features, num_classes): {error}."
        ) from error
    _check(built, in_features, num_classes)
    return built


def _check(head: object, in_features: int, num_classes: int) -> None:
    """Run a copy of the head in eval mode on two samples, to see that it gives (2, K)."""
    if not isinstance(head, nn.Module):
        raise ConfigError(f"The head must be an nn.Module, got {type(head).__name__}.")
    try:
        with torch.no_grad():
            shape = tuple(deepcopy(head).eval()(torch.zeros(2, in_features)).shape)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"The head cannot take features (2, {in_features}): {error}") from error
    if shape != (2, num_classes):
        raise ConfigError(
            f"The head must turn features (2, {in_features}) into logits (2, {num_classes}), "
            f"got {shape}."
        )
