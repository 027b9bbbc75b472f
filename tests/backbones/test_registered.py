"""A user's own network in the catalog."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import transferkit as tk
from transferkit.backbones import catalog
from transferkit.backbones.catalog import (
    build_network,
    get_backbone_spec,
    list_backbones,
    register_backbone,
    resolve,
)
from transferkit.errors import ConfigError, UnknownNameError, WeightsError


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    catalog._registered.clear()


class Tiny(nn.Module):
    def __init__(self, *, pooled: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.block1 = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU())
        self.pooled = pooled

    def forward(self, images: Tensor) -> Tensor:
        maps = self.block2(self.block1(self.stem(images)))
        return maps.mean((2, 3)) if self.pooled else maps  # type: ignore[no-any-return]


def test_a_registered_network_is_one_of_the_backbones() -> None:
    register_backbone("tiny", Tiny, feature_dim=16, input_size=(3, 32, 32))
    assert list_backbones("tiny") == ["user/tiny"]
    assert resolve("tiny").full_name == "user/tiny"
    spec = get_backbone_spec("tiny")
    assert (spec.feature_dim, spec.input_size) == (16, (3, 32, 32))
    assert spec.num_params == sum(p.numel() for p in Tiny().parameters())
    assert spec.weights == ()
    assert list_backbones(source="user", max_params=spec.num_params) == ["user/tiny"]
    assert list_backbones(source="user", pretrained=True) == []
    network = build_network("tiny")
    assert network.module(torch.randn(2, 3, 32, 32)).shape == (2, 16)


def test_a_prefix_of_ones_own() -> None:
    register_backbone("lab/tiny", Tiny, input_size=(3, 32, 32))
    register_backbone("lab/other", Tiny, input_size=(3, 32, 32))
    assert list_backbones(source="lab") == ["lab/tiny", "lab/other"]
    assert build_network("lab/tiny", image_size=(24, 40)).input_size == (3, 24, 40)


def test_maps_are_pooled_to_vectors() -> None:
    register_backbone("maps", lambda: Tiny(pooled=False), input_size=(3, 32, 32))
    network = build_network("user/maps")
    assert network.feature_dim == 16
    assert network.module(torch.randn(2, 3, 32, 32)).shape == (2, 16)


def test_default_weights_are_its_file_or_its_own(tmp_path: Path) -> None:
    trained = Tiny()
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    register_backbone("own", lambda: trained, input_size=(3, 32, 32))
    register_backbone("file", Tiny, input_size=(3, 32, 32), weights=tmp_path / "w.safetensors")
    assert build_network("own").module is trained
    loaded = build_network("file").module
    assert torch.equal(loaded.get_parameter("stem.weight"), trained.stem.weight)
    assert get_backbone_spec("file").default_weights == "file"
    random = build_network("file", weights=None).module
    assert not torch.equal(random.get_parameter("stem.weight"), trained.stem.weight)
    torch.save({"stem.weight": torch.ones(1)}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=r"stem\.weight"):
        build_network("file", weights=str(tmp_path / "bad.pth"))


def test_grey_images() -> None:
    torch.manual_seed(0)
    trained = Tiny()
    grey = torch.randn(2, 1, 32, 32)
    expected = trained(grey.expand(-1, 3, -1, -1))
    register_backbone("own", lambda: trained, input_size=(3, 32, 32))
    network = build_network("own", in_channels=1)
    torch.testing.assert_close(network.module(grey), expected)


@pytest.mark.parametrize("name", ["timm/x", "torchvision/x", "transferkit/x", "", "a b", "x/"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigError):
        register_backbone(name, Tiny)


def test_mistakes_are_named() -> None:
    register_backbone("tiny", Tiny, feature_dim=7, input_size=(3, 32, 32))
    with pytest.raises(ConfigError, match="feature_dim=7"):
        get_backbone_spec("tiny")
    with pytest.raises(ConfigError, match="replace=True"):
        register_backbone("tiny", Tiny)
    register_backbone("tiny", Tiny, input_size=(3, 32, 32), replace=True)
    assert get_backbone_spec("tiny").feature_dim == 16
    with pytest.raises(ConfigError, match="3 channels"):
        register_backbone("grey", Tiny, mean=(0.5,), std=(0.5,))
    with pytest.raises(ConfigError, match="images of 4 x 4"):
        build_network("tiny", image_size=4)
    with pytest.raises(UnknownNameError, match="tiny"):
        build_network("user/tine")


class WithHead(Tiny):
    """The same with a classifier, which can be taken off."""

    def __init__(self, *, classes: int = 5, named: str = "fc") -> None:
        super().__init__()
        self.named = named
        self.add_module(named, nn.Linear(16, classes) if classes else nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        return self.get_submodule(self.named)(super().forward(images))  # type: ignore[no-any-return]


def test_the_old_head_in_a_file_is_named_and_dropped_on_request(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    trained = WithHead()
    torch.save({"state_dict": trained.state_dict()}, path)
    register_backbone("net", Tiny, input_size=(3, 32, 32), weights=path)
    with pytest.raises(WeightsError, match=r"more than the network: fc\..*old_head=\['fc'\]"):
        build_network("net")
    for head in ("fc", ["fc"]):
        register_backbone(
            "net", Tiny, input_size=(3, 32, 32), weights=path, old_head=head, replace=True
        )
        assert torch.equal(
            build_network("net").module.get_parameter("stem.weight"), trained.stem.weight
        )


def test_a_file_of_another_network_is_no_matter_of_the_head(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    state = WithHead().state_dict()
    del state["stem.weight"]
    torch.save(state, path)
    register_backbone("net", Tiny, input_size=(3, 32, 32), weights=path, old_head="fc")
    with pytest.raises(WeightsError, match=r"1 missing: stem\.weight"):
        build_network("net")


@pytest.mark.parametrize("named", ["fc", "classifier", "head"])
def test_a_head_that_is_still_on_is_noticed(named: str) -> None:
    register_backbone("net", lambda: WithHead(named=named), input_size=(3, 32, 32))
    with pytest.warns(UserWarning, match=rf"'{named}' with 5 outputs.*model\.{named} = "):
        build_network("net")


def test_no_head_is_seen_where_there_is_none() -> None:
    for build, width in (
        (lambda: WithHead(classes=0), None),  # taken off
        (lambda: WithHead(named="projection"), None),  # a layer that is part of the network
        (lambda: WithHead(), 5),  # meant so
    ):
        register_backbone("net", build, input_size=(3, 32, 32), feature_dim=width, replace=True)
        build_network("net")  # pytest makes an error of any warning


def test_a_saved_classifier_brings_its_normalisation(tmp_path: Path) -> None:
    register_backbone("first", Tiny, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    file = tmp_path / "m.safetensors"
    tk.save_classifier(tk.create_classifier("user/first", 2), file)
    register_backbone("second", Tiny, weights=file)
    network = build_network("user/second")
    assert (network.mean, network.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    register_backbone("third", Tiny, weights=file, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert build_network("user/third").mean == (0.5,) * 3
