"""A small network and small pictures, on which every workflow runs in a second."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from transferkit.backbones.catalog import register_backbone
from transferkit.data.image_data import ImageData
from transferkit.data.splits import Splits
from transferkit.models.classifier import Classifier, create_classifier


class Three(nn.Module):
    """Three blocks, so that there is something to unfreeze between the head and the input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU())
        self.drop = nn.Dropout(0.1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.last(self.body(self.stem(images)))
        features: torch.Tensor = self.drop(maps.mean(dim=(2, 3)))
        return features


def broken() -> nn.Module:
    raise RuntimeError("no such luck")


@pytest.fixture(scope="session", autouse=True)
def networks() -> None:
    register_backbone("test-three", Three, input_size=(3, 16, 16))
    register_backbone("test-broken", broken, feature_dim=4, input_size=(3, 16, 16))


def stripes(count: int, seed: int) -> ImageData:
    """Noise, with a bright stripe in one class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(0, 160, (count, 16, 16, 3))
    images[labels == 1, 4:8] += 60
    return ImageData(images.astype(np.uint8), labels, classes=("dark", "striped"))


@pytest.fixture(scope="session")
def pictures() -> Splits:
    return Splits({"train": stripes(48, 0), "val": stripes(24, 1), "test": stripes(24, 2)})


@pytest.fixture
def network() -> Callable[[], Classifier]:
    def build() -> Classifier:
        return create_classifier("test-three", 2, weights=None, seed=0)

    return build
