"""Heads: from features (B, D) to logits (B, K)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import nn

from transferkit._validation import check_number
from transferkit.errors import ConfigError

HeadKind: TypeAlias = Literal["linear", "mlp"]
HeadBuilder: TypeAlias = Callable[[int, int], nn.Module]
"""From the width of the features and the number of classes to a module."""

KINDS: tuple[HeadKind, ...] = ("linear", "mlp")


def linear_head(in_features: int, num_classes: int, *, dropout: float = 0.0) -> nn.Module:
    """One linear layer, after dropout where any is asked for.

    Args:
        in_features: Width D of the features.
        num_classes: Number K of classes.
        dropout: Share of the features dropped in training, in [0, 1).
    """
    layer = nn.Linear(in_features, num_classes)
    return nn.Sequential(nn.Dropout(dropout), layer) if dropout else layer


def mlp_head(
    in_features: int, num_classes: int, *, dropout: float = 0.0, hidden: int = 512
) -> nn.Module:
    """One hidden layer with a ReLU, and dropout before both linear layers.

    Args:
        in_features: Width D of the features.
        num_classes: Number K of classes.
        dropout: Share dropped in training, of the features and of the hidden units, in [0, 1).
        hidden: Width of the hidden layer.
    """
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(in_features, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, num_classes),
    )


def build_head(
    head: HeadKind | HeadBuilder, in_features: int, num_classes: int, *, dropout: float
) -> nn.Module:
    """Build a head by name or by a callable.

    Raises:
        ConfigError: An unknown name, a dropout outside [0, 1) or with a callable, or a callable
            whose module does not turn (B, D) into (B, K).
    """
    check_number("dropout", dropout, least=0, below=1)
    if callable(head):
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
    if head == "linear":
        return linear_head(in_features, num_classes, dropout=dropout)
    if head == "mlp":
        return mlp_head(in_features, num_classes, dropout=dropout)
    raise ConfigError(f"Expected head 'linear', 'mlp' or a callable, got {head!r}.")


def _check(head: object, in_features: int, num_classes: int) -> None:
    """Run a head once, in eval mode, and look at the shape that comes."""
    if not isinstance(head, nn.Module):
        raise ConfigError(f"Expected the head to be an nn.Module, got {type(head).__name__}.")
    modes = [(module, module.training) for module in head.modules()]
    head.eval()
    try:
        with torch.no_grad():
            shape = tuple(head(torch.zeros(2, in_features)).shape)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"The head cannot take features (2, {in_features}): {error}") from error
    finally:
        for module, mode in modes:
            module.training = mode
    if shape != (2, num_classes):
        raise ConfigError(
            f"Expected the head to turn features (2, {in_features}) into logits "
            f"(2, {num_classes}), got {shape}."
        )
