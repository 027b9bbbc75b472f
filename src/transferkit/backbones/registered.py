"""Sources of single networks: the user's own, by ``register_backbone``, and the package's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from transferkit._validation import check_whole
from transferkit.backbones.channels import check_statistics
from transferkit.backbones.skeleton import Size, check_size, output_shape
from transferkit.backbones.source import Anatomy, Weights, assemble, describe, fill
from transferkit.backbones.spec import BackboneSpec, InputSize, Network, WeightsSpec
from transferkit.backbones.stages import (
    copy_structure,
    count_parameters,
    has_parameters,
    record_on_meta,
)
from transferkit.backbones.weights import choose_weights, own_layout, read_state_dict
from transferkit.errors import ConfigError, WeightsError

_HEADS = frozenset({"classifier", "fc", "head", "heads", "last_linear", "logits", "output"})


@dataclass(frozen=True, slots=True)
class Registration:
    """One network: how to build it, and the images it is made for."""

    build: Callable[[], nn.Module]
    feature_dim: int | None
    facts: WeightsSpec
    file: Path | None
    old_head: tuple[str, ...]

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
    check_statistics(mean, std, sides[0], shared=False)


@dataclass(slots=True)
class RegisteredSource:
    """A source of single networks, all under one prefix."""

    name: str
    entries: dict[str, Registration] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        """The registered names, in the order they came."""
        return tuple(self.entries)

    def weights(self, name: str) -> tuple[WeightsSpec, ...]:
        """The registered weights file; empty where there is none."""
        entry = self.entries[name]
        return () if entry.file is None else (entry.facts,)

    def spec(self, name: str) -> BackboneSpec:
        """Measure a registered network, built with random weights."""
        facts = self.entries[name].facts
        network = self.build(name, None, facts.input_size[0], None)
        return describe(self, name, network, facts.license)

    def build(
        self, name: str, weights: Weights, in_channels: int, image_size: Size | None
    ) -> Network:
        """Build a registered network, with its weights file or what ``build`` returns."""
        entry, full = self.entries[name], f"{self.name}/{name}"
        size = image_size or entry.facts.input_size[1:]
        module = entry.module()
        anatomy = _anatomy(full, entry, module, size)
        path = self._file(name, weights)
        state = None if path is None else own_layout(read_state_dict(path), module)
        if state is not None:
            _check_extra(state.keys(), module, entry, full)
        fill(
            module,
            state,
            entry.facts.input_size,
            in_channels,
            name=full,
            origin=str(path),
            dropped=entry.old_head,
        )
        return assemble(module, anatomy, entry.facts, name=full, in_channels=in_channels, size=size)

    def _file(self, name: str, weights: Weights) -> Path | None:
        """The weights file to load; None to keep what ``build`` returned."""
        file = self.entries[name].file
        if weights == "default" and file is None:
            return None  # the network may carry weights of its own
        chosen = choose_weights(weights, self.weights(name), name=f"{self.name}/{name}")
        return file if isinstance(chosen, WeightsSpec) else chosen


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
    if entry.feature_dim is None:
        _warn_of_head(full, bones, (channels, *size), anatomy.feature_dim)
    return anatomy


def _warn_of_head(full: str, bones: nn.Module, input_size: InputSize, width: int) -> None:
    """Warn where the features seem to be the outputs of the network's own classifier."""
    leaves = record_on_meta(bones, input_size).leaves()
    named = (leaf.name for leaf in reversed(leaves))
    last = next((name for name in named if has_parameters(bones.get_submodule(name))), "")
    layer = bones.get_submodule(last)
    if not isinstance(layer, nn.Linear) or layer.out_features != width:
        return
    if _HEADS.intersection(last.split(".")):
        warnings.warn(
            f"{full} ends in the linear layer {last!r} with {width} outputs, which seems to be its "
            "own classifier. Build it without, so that the features come before it, as with "
            f"model.{last} = torch.nn.Identity(); or register it with feature_dim={width} if they "
            "are meant to come after it.",
            UserWarning,
            stacklevel=2,
        )


def _check_extra(keys: Collection[str], module: nn.Module, entry: Registration, full: str) -> None:
    """Name the modules of an old classifier, if the file holds all of the network and more."""
    own = module.state_dict().keys()
    extra = dict.fromkeys(key.rpartition(".")[0] or key for key in keys if key not in own)
    dropped = tuple(f"{head}." for head in entry.old_head)
    heads = [name for name in extra if not f"{name}.".startswith(dropped)]
    if heads and own <= set(keys):
        raise WeightsError(
            f"The weights of {full} hold more than the network: {', '.join(heads)}. If that was "
            f"its old classifier, leave it out: register_backbone(..., old_head={heads!r})."
        )
