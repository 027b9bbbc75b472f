"""The user's own networks: a source that a call fills, never an import."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from transferkit._validation import check_number, check_whole
from transferkit.backbones.channels import adapt_first_layers, adapt_statistics, pool_to_vectors
from transferkit.backbones.meta_forward import (
    REFUSALS,
    check_size,
    count_parameters,
    leaf_calls,
    output_shape,
)
from transferkit.backbones.spec import BackboneSpec, InputSize, Network, WeightsSpec
from transferkit.backbones.stages import trace_stages
from transferkit.backbones.weights import choose_weights, load_weights, read_state_dict
from transferkit.errors import ConfigError, UnknownNameError

FILE_TAG = "file"
"""The tag of the weights file that a network was registered with."""


@dataclass(frozen=True, slots=True)
class Registration:
    """One network that the user registered: how to build it and what its images look like."""

    build: Callable[[], nn.Module]
    feature_dim: int | None
    input_size: InputSize
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    weights: Path | None

    def made(self) -> nn.Module:
        """Build the network.

        Raises:
            ConfigError: What ``build`` returns is none.
        """
        module: object = self.build()
        if isinstance(module, nn.Module):
            return module
        raise ConfigError(f"build must return a torch module, got a {type(module).__name__}.")


def check_registration(build: object, input_size: object, mean: object, std: object) -> None:
    """See that a network can be registered so.

    Raises:
        ConfigError: It cannot.
    """
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
                f"expected a mean and a std for each of {sides[0]} channels, got {option}="
                f"{values!r}."
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
        if entry.weights is None:
            return ()
        return (
            WeightsSpec(
                tag=FILE_TAG,
                input_size=entry.input_size,
                mean=entry.mean,
                std=entry.std,
                interpolation=entry.interpolation,
                num_classes=0,
            ),
        )

    def spec(self, name: str) -> BackboneSpec:
        """Measure a registered network, built without memory."""
        entry = self._entry(name)
        module = entry.made()
        shape = self._shape(name, module, None)
        module = pool_to_vectors(module, shape, name=f"{self.name}/{name}")
        return BackboneSpec(
            name=f"{self.name}/{name}",
            source=self.name,
            num_params=count_parameters(module),
            feature_dim=_width(shape),
            stages=tuple(stage.name for stage in trace_stages(module, entry.input_size)),
            input_size=entry.input_size,
            mean=entry.mean,
            std=entry.std,
            weights=self.weights(name),
            default_weights=FILE_TAG if entry.weights is not None else None,
        )

    def build(
        self,
        name: str,
        *,
        weights: str | Path | None,
        in_channels: int = 3,
        image_size: tuple[int, int] | None = None,
    ) -> Network:
        """Build a registered network, with its weights file or random weights.

        ``weights="default"`` takes the registered file, and random weights where there is none:
        what ``build`` returns may carry its own.

        Raises:
            ConfigError: The network cannot take ``image_size`` or ``in_channels``.
            WeightsError: The weights cannot be read or fitted.
        """
        entry, full = self._entry(name), f"{self.name}/{name}"
        module = entry.made()
        shape = self._shape(name, module, image_size)
        self._load(module, name, weights)
        if in_channels != entry.input_size[0]:
            calls = leaf_calls(_without_memory(module), entry.input_size)
            adapt_first_layers(module, calls, in_channels)
        return Network(
            module=pool_to_vectors(module, shape, name=full),
            feature_dim=_width(shape),
            input_size=(in_channels, *(image_size or entry.input_size[1:])),
            mean=adapt_statistics(entry.mean, in_channels),
            std=adapt_statistics(entry.std, in_channels),
            interpolation=entry.interpolation,
            classifier="",
        )

    def _entry(self, name: str) -> Registration:
        if name not in self.entries:
            raise UnknownNameError.among(f"{self.name} backbone", name, self.entries)
        return self.entries[name]

    def _shape(
        self, name: str, module: nn.Module, image_size: tuple[int, int] | None
    ) -> tuple[int, ...]:
        """Shape of the network's output for two images of a size, the registered width checked."""
        entry, full = self._entry(name), f"{self.name}/{name}"
        channels, *own = entry.input_size
        bones = _without_memory(module)
        if image_size is not None:
            check_size(full, image_size, lambda size: output_shape(bones, (channels, *size)))
        shape = self._output_shape(full, bones, (channels, *(image_size or own)))
        if entry.feature_dim is not None and _width(shape) != entry.feature_dim:
            raise ConfigError(
                f"{full} was registered with feature_dim={entry.feature_dim}, "
                f"but its output has shape {shape}"
            )
        return shape

    def _output_shape(self, full: str, bones: nn.Module, size: InputSize) -> tuple[int, ...]:
        try:
            return output_shape(bones, size)
        except REFUSALS as error:
            raise ConfigError(
                f"{full} cannot take images of {' x '.join(map(str, size))} (channels x height x "
                f"width): {str(error).partition(chr(10))[0]}. Register it with the input_size that "
                "it is made for."
            ) from error

    def _load(self, module: nn.Module, name: str, weights: str | Path | None) -> None:
        full, entry = f"{self.name}/{name}", self._entry(name)
        if weights == "default" and entry.weights is None:
            return
        chosen = choose_weights(weights, self.weights(name), name=full)
        path = entry.weights if isinstance(chosen, WeightsSpec) else chosen
        if path is not None:
            load_weights(module, read_state_dict(path), name=full, origin=str(path))


def _width(shape: tuple[int, ...]) -> int:
    """Width of the features: maps (B, D, H, W) hold it second, tokens and vectors last."""
    return shape[1] if len(shape) == 4 else shape[-1]


def _without_memory(module: nn.Module) -> nn.Module:
    """A copy to measure, in eval mode."""
    return deepcopy(module).to("meta").eval()
