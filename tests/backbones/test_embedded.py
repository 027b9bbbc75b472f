"""The embedded backbone: its file, sizes and channels, and that its weights are worth having."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional

from transferkit.backbones.catalog import build_network, get_backbone_spec, list_backbones
from transferkit.backbones.embedded import NAME, SOURCE, PooledResNet, pretraining_network
from transferkit.errors import ConfigError, UnknownNameError, WeightsError

LARGEST_FILE = 4_000_000


@pytest.fixture(scope="module")
def weights_file() -> Path:
    path = files("transferkit.backbones") / f"{NAME}.safetensors"
    assert isinstance(path, Path)
    return path


def build(
    weights: str | Path | None = "default", channels: int = 1, size: int = 64
) -> torch.nn.Module:
    network = SOURCE.build(NAME, weights=weights, in_channels=channels, image_size=(size, size))
    return network.module.eval()


def grey_batch(size: int, count: int = 2) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(size))


@torch.inference_mode()
def features(module: torch.nn.Module, images: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    views = functional.interpolate(
        torch.from_numpy(images)[:, None] / 255, size=side, mode="bilinear", antialias=True
    )
    parts = [module((part - 0.5) / 0.25) for part in views.split(200)]
    return torch.cat(parts).numpy()


def logistic() -> object:
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=500))


def test_the_file_is_small_and_half_precision(weights_file: Path) -> None:
    assert weights_file.stat().st_size <= LARGEST_FILE
    with safe_open(weights_file, "pt") as file:
        kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 (no mapping)
        assert file.metadata()["license"] == "Apache-2.0"
    assert kinds == {"F16"}


def test_the_catalog_lists_it() -> None:
    assert list_backbones(source="transferkit") == [f"transferkit/{NAME}"]
    assert get_backbone_spec(f"transferkit/{NAME}").default_weights == "FORMULA_V1"
    assert build_network(NAME, image_size=28).input_size == (3, 28, 28)


def test_the_spec_states_what_is_built() -> None:
    spec = SOURCE.spec(NAME)
    network = SOURCE.build(NAME, weights="default", in_channels=3, image_size=None)
    assert spec.num_params == sum(p.numel() for p in network.module.parameters())
    assert spec.feature_dim == network.feature_dim == 384
    assert spec.stages == ("conv1", "layer1", "layer2", "layer3")
    assert network.input_size == spec.input_size == spec.weights[0].input_size
    assert spec.weights[0].license == "apache-2.0"
    assert spec.weights[0].non_commercial is False


def test_features_are_pooled_maps_of_timms_resnet() -> None:
    whole = pretraining_network().eval()
    assert isinstance(whole, timm.models.ResNet)
    images = grey_batch(64).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        output = PooledResNet(whole).eval()(images)
        maps = whole.forward_intermediates(images, indices=[2, 3], intermediates_only=True)
    pooled = [pool for one in maps for pool in (one.mean((2, 3)), one.flatten(2).max(2).values)]
    torch.testing.assert_close(output, torch.cat(pooled, 1))


@pytest.mark.parametrize("size", [28, 31, 64, 100, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_gives_finite_features(size: int, channels: int) -> None:
    images = grey_batch(size).expand(-1, channels, -1, -1)
    with torch.inference_mode():
        output = build(channels=channels, size=size)(images)
    assert output.shape == (2, 384)
    assert output.isfinite().all()
    assert output.std() > 0.1


def test_grey_and_the_same_image_in_colour_agree() -> None:
    images = grey_batch(64)
    with torch.inference_mode():
        grey = build(channels=1)(images)
        colour = build(channels=3)(images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(grey, colour, rtol=1e-4, atol=1e-5)


def test_two_builds_are_equal() -> None:
    one, other = build().state_dict(), build().state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_without_weights_it_is_random() -> None:
    torch.manual_seed(0)
    one = build(weights=None)
    other = build(weights=None)
    key = "layer1.0.conv1.weight"
    assert not torch.equal(one.get_parameter(key), other.get_parameter(key))


def test_weights_from_a_file_of_the_whole_network(tmp_path: Path) -> None:
    source = pretraining_network(num_classes=7)
    save_file(source.state_dict(), tmp_path / "own.safetensors")
    network = SOURCE.build(
        NAME, weights=tmp_path / "own.safetensors", in_channels=3, image_size=(28, 28)
    )
    key = "layer3.1.conv2.weight"
    assert torch.equal(network.module.get_parameter(key), source.get_parameter(key))
    assert network.classifier == ""


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=NAME):
        get_backbone_spec("transferkit/formula_resnet")
    with pytest.raises(UnknownNameError, match="FORMULA_V1"):
        build(weights="FORMULA_V9")
    with pytest.raises(ConfigError, match="positive"):
        build(size=0)
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError, match="does not fit"):
        build(weights=tmp_path / "bad.safetensors", channels=3)


def test_digits_are_told_apart_better_than_with_random_weights() -> None:
    digits = load_digits()
    images = (digits.images[:600] * 15.9375).astype(np.uint8)
    torch.manual_seed(0)
    pretrained, random = (
        cross_val_score(logistic(), features(module, images, 32), digits.target[:600], cv=3).mean()
        for module in (build(), build(weights=None))
    )
    assert pretrained > 0.88
    assert pretrained > random + 0.05


def test_few_radiographs_are_told_apart_better_than_with_random_weights(shared_path: Path) -> None:
    with np.load(shared_path / "data" / "pneumoniamnist.npz") as file:
        images, labels = file["train_images"][:200], file["train_labels"][:200].ravel()
        val, val_labels = file["val_images"], file["val_labels"].ravel()
    scores = []
    torch.manual_seed(0)
    for module in (build(), build(weights=None)):
        train = features(module, images, 64)
        scores.append(logistic().fit(train, labels).score(features(module, val, 64), val_labels))
    pretrained, random = scores
    assert pretrained > 0.85
    assert pretrained > random + 0.02
