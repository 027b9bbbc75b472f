"""The interface of a source of backbones, and the steps that all sources share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from transferkit.backbones.channels import RGB, adapt_first_layers, adapt_statistics, is_adapted
from transferkit.backbones.skeleton import Size, skeleton
from transferkit.backbones.spec import BackboneSpec, InputSize, Network, WeightsSpec
from transferkit.backbones.stages import trace_stages
from transferkit.backbones.weights import StateDict, load_weights
from transferkit.errors import ConfigError

Weights = str | Path | None
"""``"default"``, a tag, a file in the source's key layout, or None for random ones."""


class Source(Protocol):
    """A library of backbones. Bare names only: the catalog puts the source's name before them."""

    @property
    def name(self) -> str:
        """The source's own name, the part of a full name before the slash."""

    def names(self) -> tuple[str, ...]:
        """Every backbone of the source, in the order to list them."""

    def weights(self, name: str) -> tuple[WeightsSpec, ...]:
        """The pretrained weights of a backbone, the default first; cheap, builds nothing."""

    def spec(self, name: str) -> BackboneSpec:
        """The facts of a backbone, measured on a network without memory."""

    def build(
        self, name: str, weights: Weights, in_channels: int, image_size: Size | None
    ) -> Network:
        """Build a backbone without its classifier, as ``build_network`` says."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What one forward pass of a network without memory shows."""

    num_params: int  # with its own classifier
    output: tuple[int, ...]  # shape for two images, its classifier removed
    classifier: str = ""  # dotted name; empty where there is none
    removed: tuple[str, ...] = ()  # dotted names of all modules that leave with the classifier
    img_size: Size | None = None  # the option to build it with (timm), or None to leave it out

    @property
    def feature_dim(self) -> int:
        """Width of the features: maps (B, D, H, W) hold it second, tokens and vectors last."""
        return self.output[1] if len(self.output) == 4 else self.output[-1]


def fill(
    module: nn.Module,
    state: StateDict | None,
    input_size: InputSize,
    in_channels: int,
    *,
    name: str,
    origin: str,
    dropped: Sequence[str] = (),
) -> None:
    """Load weights into a network and adapt its first layers to so many channels."""
    other = in_channels != input_size[0]
    early = other and state is not None and is_adapted(state, module, in_channels)
    if early:  # the weights were saved from a network with those channels
        adapt_first_layers(module, input_size, in_channels)
    if state is not None:
        load_weights(module, state, name=name, origin=origin, dropped=dropped)
    if other and not early:
        adapt_first_layers(module, input_size, in_channels)


def assemble(
    module: nn.Module,
    anatomy: Anatomy,
    facts: WeightsSpec,
    *,
    name: str,
    in_channels: int,
    size: Size,
) -> Network:
    """Pool a network that is built to vectors, and note the normalisation of its weights."""
    return Network(
        module=pool_to_vectors(module, anatomy.output, name=name),
        num_params=anatomy.num_params,
        feature_dim=anatomy.feature_dim,
        input_size=(in_channels, *size),
        mean=adapt_statistics(facts.mean, in_channels),
        std=adapt_statistics(facts.std, in_channels),
        interpolation=facts.interpolation,
        classifier=anatomy.classifier,
    )


def describe_without_memory(source: Source, name: str, licence: str) -> BackboneSpec:
    """The spec of a network, built on the meta device."""
    made: list[Network] = []

    def module() -> nn.Module:
        made.append(source.build(name, None, RGB, None))
        return made[-1].module

    skeleton(module)
    return describe(source, name, made[-1], licence)


def describe(source: Source, name: str, network: Network, licence: str | None) -> BackboneSpec:
    """The spec of a network that its source has built for the default input."""
    weights = source.weights(name)
    heads = (network.classifier, *network.aux)
    stages = trace_stages(network.module, network.input_size, head=heads)
    return BackboneSpec(
        name=f"{source.name}/{name}",
        source=source.name,
        num_params=network.num_params,
        feature_dim=network.feature_dim,
        stages=tuple(stage.name for stage in stages if stage.name not in heads),
        input_size=network.input_size,
        mean=network.mean,
        std=network.std,
        weights=weights,
        license=licence,
        default_weights=weights[0].tag if weights else None,
    )


class PooledEncoder(nn.Module):
    """An encoder whose tokens (B, N, D) or maps (B, D, H, W) are averaged to features (B, D)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to features (B, D)."""
        output: Tensor = self.encoder(images)
        return output.mean(dim=(2, 3)) if output.ndim == 4 else output.mean(dim=1)


def pool_to_vectors(module: nn.Module, shape: tuple[int, ...], *, name: str) -> nn.Module:
    """Make a network with an output of this ``shape``, the batch first, return vectors."""
    if len(shape) == 2:
        return module
    if len(shape) in (3, 4):
        return PooledEncoder(module)
    raise ConfigError(
        f"{name} must return features (B, D), tokens (B, N, D) or maps (B, D, H, W), "
        f"got an output of shape {shape}."
    )
