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

from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from transferkit.backbones.channels import RGB
from transferkit.backbones.registered import RegisteredSource, Registration
from transferkit.backbones.spec import WeightsSpec

NAME = "formula_resnet18"
_WEIGHTS = WeightsSpec(
    tag="FORMULA_V1",
    input_size=(RGB, 64, 64),
    mean=(0.5,) * RGB,
    std=(0.25,) * RGB,
    interpolation="bilinear",
    num_classes=0,
    license="apache-2.0",
    non_commercial=False,
)


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


_ENTRY = Registration(
    create_network,
    feature_dim=384,
    facts=_WEIGHTS,
    file=Path(__file__).with_name(f"{NAME}.safetensors"),
    old_head=("layer4", "fc"),  # of the pretraining network
)
SOURCE = RegisteredSource("transferkit", {NAME: _ENTRY})
