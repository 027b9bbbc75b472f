"""The backbone in the package: pretrained on images made by formula, its weights included.

Nothing is downloaded, and neither a photograph nor a patient is in the training data: the images
are fractals, noise, leaves, contours, strokes and radiograph-like drawings (Kataoka et al. 2020,
"Pre-training without Natural Images"; Anderson and Farrell 2021, "Improving Fractal
Pre-training"; Baradad et al. 2021, "Learning to See by Looking at Noise").

The network is timm's ResNet-18, half as wide, without the stage that the pretraining task is
solved in: the features before it transfer better (Bordes et al. 2023, "Guillotine
Regularization").
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from transferkit.backbones.channels import RGB
from transferkit.backbones.skeleton import Size, check_size, output_shape, skeleton
from transferkit.backbones.source import Anatomy, Weights, assemble, describe, fill, without_memory
from transferkit.backbones.spec import BackboneSpec, Network, WeightsSpec
from transferkit.backbones.stages import count_parameters
from transferkit.backbones.weights import StateDict, choose_weights, own_layout, read_state_dict

NAME = "formula_resnet18"
_FILE = f"{NAME}.safetensors"
_LICENCE = "apache-2.0"
_DROPPED = ("layer4", "fc")  # of the pretraining network
_SIDE = 64
_WEIGHTS = WeightsSpec(
    tag="FORMULA_V1",
    input_size=(RGB, _SIDE, _SIDE),
    mean=(0.5,) * RGB,
    std=(0.25,) * RGB,
    interpolation="bilinear",
    num_classes=0,
    license=_LICENCE,
    non_commercial=False,
)


class EmbeddedSource:
    """The source named ``transferkit``: one backbone, with its weights in the package."""

    name = "transferkit"

    def names(self) -> tuple[str, ...]:
        """The embedded backbone's name."""
        return (NAME,)

    def weights(self, name: str) -> tuple[WeightsSpec, ...]:
        """The packaged weights."""
        return (_WEIGHTS,)

    def spec(self, name: str) -> BackboneSpec:
        """Measure the backbone."""
        network = without_memory(lambda: self.build(name, None, RGB, None))
        return describe(self, name, network, licence=_LICENCE)

    def build(
        self, name: str, weights: Weights, in_channels: int, image_size: Size | None
    ) -> Network:
        """Build the backbone."""
        full, size = f"{self.name}/{name}", image_size or (_SIDE, _SIDE)
        chosen = choose_weights(weights, self.weights(name), name=full)
        check_size(full, size, _anatomy)
        module = create_network()
        state = None if chosen is None else own_layout(_read(chosen), module)
        origin = str(chosen) if isinstance(chosen, Path) else f"the weights {_WEIGHTS.tag!r}"
        images = (RGB, *size)
        fill(module, state, images, in_channels, name=full, origin=origin, dropped=_DROPPED)
        return assemble(
            module, _anatomy(size), _WEIGHTS, name=full, in_channels=in_channels, size=size
        )


SOURCE = EmbeddedSource()


class PooledResNet(nn.Module):
    """The first three stages of timm's ResNet; features are the second's and third's, pooled."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name in ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3"):
            self.add_module(name, network.get_submodule(name))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to features (B, D): means and maxima over the maps' places."""
        maps, kept = images, []
        for name, part in self.named_children():
            maps = part(maps)
            if name in ("layer2", "layer3"):
                kept.append(maps)
        # Pooled only now: in another order, gradients would be summed to other last digits.
        pooled = [pool for maps in kept for pool in (maps.mean((2, 3)), maps.amax((2, 3)))]
        return torch.cat(pooled, dim=1)


def create_network() -> PooledResNet:
    """Make the backbone with random weights."""
    return PooledResNet(pretraining_network())


def pretraining_network(*, num_classes: int = 0, in_channels: int = RGB) -> nn.Module:
    """Make the whole ResNet that the backbone is cut from, with random weights."""
    network: nn.Module = timm.create_model(
        "resnet18",
        num_classes=num_classes,
        in_chans=in_channels,
        channels=(32, 64, 128, 192),
        stem_type="deep",
        stem_width=16,
        global_pool="catavgmax",
    )
    return network


@lru_cache(maxsize=64)
def _anatomy(size: Size) -> Anatomy:
    """Measure the backbone at an image size; fails where it cannot take the size."""
    module = skeleton(create_network)
    return Anatomy(count_parameters(module), output_shape(module, (RGB, *size)))


def _read(chosen: WeightsSpec | Path) -> StateDict:
    if isinstance(chosen, Path):
        return read_state_dict(chosen)
    with as_file(files("transferkit.backbones") / _FILE) as path:
        return read_state_dict(path)
