"""Small data and small classifiers that train in a blink."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from transferkit.backbones.catalog import register_backbone
from transferkit.data.image_data import ImageData
from transferkit.models.classifier import Classifier, create_classifier


class Small(nn.Module):
    """Two convolutions with batch norm and dropout: all that a training loop can get wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU())
        self.drop = nn.Dropout(0.2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.drop(self.body(self.stem(images)).mean(dim=(2, 3)))
        return features


class Plain(nn.Module):
    """One convolution without norm or dropout: the same in train and eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.body(images).mean(dim=(2, 3))
        return features


@pytest.fixture(scope="session", autouse=True)
def backbones() -> None:
    register_backbone("test-small", Small, input_size=(3, 16, 16))
    register_backbone("test-plain", Plain, input_size=(3, 16, 16))


@pytest.fixture
def small() -> Callable[..., Classifier]:
    def build(num_classes: int = 2, seed: int = 0) -> Classifier:
        return create_classifier("test-small", num_classes, weights=None, seed=seed)

    return build


@pytest.fixture
def plain() -> Callable[..., Classifier]:
    def build(num_classes: int = 2, seed: int = 0) -> Classifier:
        return create_classifier("test-plain", num_classes, weights=None, seed=seed)

    return build


def spots(count: int, *, num_classes: int = 2, seed: int = 0) -> ImageData:
    """Noise, with a bright spot at a place that tells the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % num_classes
    images = rng.integers(0, 120, (count, 16, 16, 3))
    for i, label in enumerate(labels):
        images[i, 4 * label : 4 * label + 4, :, label % 3] += 130
    return ImageData(images.astype(np.uint8), labels, classes=[f"c{k}" for k in range(num_classes)])


@pytest.fixture(scope="session")
def train() -> ImageData:
    return spots(50, seed=1)


@pytest.fixture(scope="session")
def val() -> ImageData:
    return spots(30, seed=2)
