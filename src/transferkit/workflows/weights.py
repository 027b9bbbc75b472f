"""Which weights a backbone takes where several are at work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from transferkit.errors import UnknownNameError

Weights: TypeAlias = str | Path | None
"""``"default"``, a tag, a file, or None for random ones."""


def weights_of(name: str, weights: Weights | Mapping[str, Weights]) -> Weights:
    """The weights of one backbone: the same for all, or by name with the default for the rest."""
    return weights.get(name, "default") if isinstance(weights, Mapping) else weights


def check_weights(names: Sequence[str], weights: Weights | Mapping[str, Weights]) -> None:
    """See that a mapping gives weights only to backbones that are at work.

    Raises:
        UnknownNameError: It names another.
    """
    for name in weights if isinstance(weights, Mapping) else ():
        if name not in names:
            raise UnknownNameError.among("backbone in weights", name, names)
