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
    Size,
    check_size,
    copy_structure,
    count_parameters,
    output_shape,
)
from transferkit.backbones.source import Anatomy, Weights, assemble, describe
from transferkit.backbones.spec import BackboneSpec, Network, WeightsSpec
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
        return describe(self, name, self.build(name, None, channels, None))

    def build(
        self, name: str, weights: Weights, in_channels: int, image_size: Size | None
    ) -> Network:
        """Build a registered network, with its weights file or what ``build`` returns."""
        entry, full = self._entry(name), f"{self.name}/{name}"
        size = image_size or entry.facts.input_size[1:]
        module = entry.module()
        anatomy = _anatomy(full, entry, module, size)
        if not (weights == "default" and entry.file is None):  # it may carry weights of its own
            chosen = choose_weights(weights, self.weights(name), name=full)
            path = entry.file if isinstance(chosen, WeightsSpec) else chosen
            if path is not None:
                load_weights(module, read_state_dict(path), name=full, origin=str(path))
        if in_channels != entry.facts.input_size[0]:
            adapt_first_layers(module, entry.facts.input_size, in_channels)
        return assemble(module, anatomy, entry.facts, name=full, in_channels=in_channels, size=size)

    def _entry(self, name: str) -> Registration:
        if name not in self.entries:
            raise UnknownNameError.among(f"{self.name} backbone", name, self.entries)
        return self.entries[name]


def _anatomy(full: str, entry: Registration, module: nn.Module, size: Size) -> Anatomy:
    """Measure a registered network at an image size."""
    channels = entry.facts.input_size[0]
    bones = copy_structure(module, lambda tensor: torch.empty_like(tensor, device="meta")).eval()
    check_size(full, size, lambda tried: output_shape(bones, (channels, *tried)))
    anatomy = Anatomy(count_parameters(module), output_shape(bones, (channels, *size)))
    if entry.feature_dim is not None and anatomy.feature_dim != entry.feature_dim:
        raise ConfigError(
            f"{full} was registered with feature_dim={entry.feature_dim}, got an output of shape "
            f"{anatomy.output}."
        )
    return anatomy
