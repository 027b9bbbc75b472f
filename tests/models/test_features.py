from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from transferkit.backbones.catalog import register_backbone
from transferkit.data.image_data import ImageData
from transferkit.errors import DataError
from transferkit.models.classifier import Classifier, create_classifier
from transferkit.models.features import extract_features


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.body(images).mean(dim=(2, 3))
        return features


@pytest.fixture(scope="module")
def model() -> Classifier:
    register_backbone("test-pooled", Pooled, input_size=(3, 12, 12))
    return create_classifier("test-pooled", 2, weights=None, seed=0)


@pytest.fixture
def data() -> ImageData:
    images = np.random.default_rng(0).integers(0, 256, (11, 12, 12, 3)).astype(np.uint8)
    return ImageData(images, np.arange(11) % 2, classes=("a", "b"))


def test_features_are_those_of_the_model(model, data):
    model.train()
    extracted = extract_features(model, data, batch_size=4)
    assert model.training
    model.eval()
    with torch.no_grad():
        expected = model.features(data.batch(np.arange(11))).numpy()
    assert extracted.features.dtype == np.float32
    assert extracted.features.shape == (11, model.feature_dim)
    np.testing.assert_allclose(extracted.features, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(extracted.labels, data.labels)
    assert len(extracted) == 11
    assert extracted.classes == ("a", "b")
    assert extracted.names == data.names


def test_labels_are_not_needed(model, data):
    assert extract_features(model, ImageData(data.images, classes=("a", "b"))).labels is None


def test_no_images(model, data):
    with pytest.raises(DataError, match="no images"):
        extract_features(model, data.subset([]))
