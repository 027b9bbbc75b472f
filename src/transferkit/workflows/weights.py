"""Which weights a backbone takes where several are at work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

Weights: TypeAlias = str | Path | None
"""``"default"``, a tag, a file, or None for random ones."""


def weights_of(name: str, weights: Weights | Mapping[str, Weights]) -> Weights:
    """The weights of one backbone: the same for all, or by name with the default for the rest."""
    return weights.get(name, "default") if isinstance(weights, Mapping) else weights
