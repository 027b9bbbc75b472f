"""The user's own networks: a source that a call fills, never an import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from transferkit._validation import check_number, check_whole
from transferkit.backbones.channels import adapt_first_layers
from transferkit.backbones.meta_forward import (
    REFUSALS,
    Size,
    check_size,
    copy_structure,
    count_parameters,
    output_shape,
)
from transferkit.backbones.source import Anatomy, assemble, describe
from transferkit.backbones.spec import BackboneSpec, InputSize, Network, WeightsSpec
from transferkit.backbones.weights import choose_weights, load_weights, read_state_dict
from transferkit.errors import ConfigError, UnknownNameError


@dataclass(frozen=True, slots=True)
class Registration:
    """One network that the user registered: how to build it, and the images it is made for."""

    build: Callable[[], nn.Module]
    feature_dim: int | None
    facts: WeightsSpec
    file: Path | None

    def module(self) -> nn.Module:
        """Build the network."""
        module: object = self.build()
        if isinstance(module, nn.Module):
            return module
        raise ConfigError(f"build must return a torch module, got a {type(module).__name__}.")


def check_registration(build: object, input_size: object, mean: object, std: object) -> None:
    """Refuse what cannot be registered."""
    if not callable(build):
        raise ConfigError(f"build must be a function that makes the network, got {build!r}.")
    sides = input_size if isinstance(input_size, list | tuple) else ()
    if len(sides) != 3:
        raise ConfigError(f"input_size must be (channels, height, width), got {input_size!r}.")
    for side in sides:
        check_whole("Each of input_size", side, least=1)
    for option, values in (("mean", mean), ("std", std)):
        if not isinstance(values, list | tuple) or len(values) != sides[0]:
            raise ConfigError(
                f"{option} must hold a number for each of {sides[0]} channels, got {values!r}."
            )
        for value in values:
            check_number(f"Each of {option}", value)


@dataclass(slots=True)
class RegisteredSource:
    """A source of the user's own networks, all under one prefix."""

    name: str
    entries: dict[str, Registration] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        """The registered names, in the order they came."""
        return tuple(self.entries)

    def weights(self, name: str) -> tuple[WeightsSpec, ...]:
        """The registered weights file, under the tag ``"file"``; empty where there is none."""
        entry = self._entry(name)
        return () if entry.file is None else (entry.facts,)

    def spec(self, name: str) -> BackboneSpec:
        """Measure a registered network, built with random weights."""
        channels = self._entry(name).facts.input_size[0]
        return describe(self, name, self.build(name, weights=None, in_channels=channels))

    def build(
        self,
        name: str,
        *,
        weights: str | Path | None,
        in_channels: int = 3,
        image_size: Size | None = None,
    ) -> Network:
        """Build a registered network, with its weights file or what ``build`` returns."""
        entry, full = self._entry(name), f"{self.name}/{name}"
        channels, *own = entry.facts.input_size
        module = entry.module()
        anatomy = _anatomy(full, entry, module, image_size)
        if not (weights == "default" and entry.file is None):  # it may carry weights of its own
            chosen = choose_weights(weights, self.weights(name), name=full)
            path = entry.file if isinstance(chosen, WeightsSpec) else chosen
            if path is not None:
                load_weights(module, read_state_dict(path), name=full, origin=str(path))
        if in_channels != channels:
            adapt_first_layers(module, entry.facts.input_size, in_channels)
        size = image_size or (own[0], own[1])
        return assemble(module, anatomy, entry.facts, name=full, in_channels=in_channels, size=size)

    def _entry(self, name: str) -> Registration:
        if name not in self.entries:
            raise UnknownNameError.among(f"{self.name} backbone", name, self.entries)
        return self.entries[name]


def _anatomy(full: str, entry: Registration, module: nn.Module, image_size: Size | None) -> Anatomy:
    """Measure a registered network at an image size, None for its own."""
    channels = entry.facts.input_size[0]
    bones = copy_structure(module, lambda tensor: torch.empty_like(tensor, device="meta")).eval()
    if image_size is not None:
        check_size(full, image_size, lambda size: output_shape(bones, (channels, *size)))
    size = entry.facts.input_size if image_size is None else (channels, *image_size)
    anatomy = Anatomy(count_parameters(module), _output_shape(full, bones, size))
    if entry.feature_dim is not None and anatomy.feature_dim != entry.feature_dim:
        raise ConfigError(
            f"{full} was registered with feature_dim={entry.feature_dim}, got an output of shape "
            f"{anatomy.output}."
        )
    return anatomy


def _output_shape(full: str, bones: nn.Module, size: InputSize) -> tuple[int, ...]:
    try:
        return output_shape(bones, size)
    except REFUSALS as error:
        raise ConfigError(
            f"{full} cannot take images of {' x '.join(map(str, size))} (channels x height x "
            f"width): {str(error).partition(chr(10))[0]}. Register it with the input_size that "
            "it is made for."
        ) from error
