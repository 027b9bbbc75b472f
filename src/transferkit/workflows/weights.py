"""Which weights a backbone takes where several are at work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

from transferkit.errors import ConfigError, UnknownNameError

Weights: TypeAlias = str | Path | None
"""``"default"``, a tag, a file, or None for random ones."""


def weights_of(name: str, weights: Weights | Mapping[str, Weights]) -> Weights:
    """The weights of one backbone: the same for all, or by name with the default for the rest."""
    return weights.get(name, "default") if isinstance(weights, Mapping) else weights


def check_names(option: str, names: object) -> None:
    """See that an option is a list of names of backbones.

    Raises:
        ConfigError: It is not.
    """
    many = not isinstance(names, str) and isinstance(names, Sequence) and len(names) > 0
    if not many or not all(isinstance(name, str) for name in cast(Sequence[object], names)):
        raise ConfigError(
            f'{option} must be a list of names of backbones, such as ["resnet18"], got {names!r}.'
        )


def check_weights(names: Sequence[str], weights: Weights | Mapping[str, Weights]) -> None:
    """See that a mapping gives weights only to backbones that are at work.

    Raises:
        UnknownNameError: It names another.
    """
    for name in weights if isinstance(weights, Mapping) else ():
        if name not in names:
            raise UnknownNameError.among("backbone in weights", name, names)
