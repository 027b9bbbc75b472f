"""Networks without memory, and the sizes they take."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision.models as tv
from torch import nn

from transferkit.backbones.skeleton import check_size, output_shape, skeleton
from transferkit.backbones.source import PooledEncoder, pool_to_vectors
from transferkit.backbones.stages import (
    copy_structure,
    count_parameters,
    intercept_calls,
    record_on_meta,
)
from transferkit.errors import ConfigError


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf", "swin_v2_t"])
def test_a_skeleton_has_the_shapes_and_none_of_the_numbers(name: str) -> None:
    state = torch.get_rng_state()
    bones = skeleton(lambda: tv.get_model(name, weights=None))
    assert torch.equal(torch.get_rng_state(), state)
    tensors = [*bones.parameters(), *bones.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert output_shape(bones, (3, 64, 64)) == (2, 1000)
    real = tv.get_model(name, weights=None)
    assert count_parameters(bones) == sum(p.numel() for p in real.parameters())


def test_what_a_network_raises_comes_through() -> None:
    def build() -> nn.Module:
        raise ValueError("its own reason")

    with pytest.raises(ValueError, match="its own reason"):
        skeleton(build)

    class Pair(nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images, images

    with pytest.raises(TypeError, match="tuple"):
        output_shape(skeleton(Pair), (3, 4, 4))


def test_leaf_calls_are_in_order_of_the_forward_pass() -> None:
    class Backward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(4, 2), nn.Conv2d(3, 4, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(images).mean((2, 3)))  # type: ignore[no-any-return]

    calls = record_on_meta(Backward(), (3, 8, 8)).leaves()
    assert [(call.name, call.reads_images) for call in calls] == [("first", True), ("last", False)]


def test_sizes_that_work_are_the_nearest() -> None:
    def attempt(size: tuple[int, int]) -> None:
        if size[0] % 32:
            raise AssertionError("not a multiple of 32")

    check_size("net", (64, 64), attempt)
    with pytest.raises(
        ConfigError, match=r"60 x 60.*multiple of 32\); sizes that work: 32, 64, 96"
    ):
        check_size("net", (60, 60), attempt)

    def never(size: tuple[int, int]) -> None:
        raise RuntimeError

    with pytest.raises(ConfigError, match=r"RuntimeError\); use its own size"):
        check_size("net", (60, 60), never)
    with pytest.raises(ConfigError, match="positive"):
        check_size("net", (0, 60), never)


def test_tokens_and_maps_become_vectors() -> None:
    identity = nn.Identity()
    assert pool_to_vectors(identity, (2, 5), name="net") is identity
    tokens, maps = torch.rand(2, 7, 5), torch.rand(2, 5, 3, 4)
    assert torch.equal(PooledEncoder(identity)(tokens), tokens.mean(1))
    assert torch.equal(PooledEncoder(identity)(maps), maps.mean((2, 3)))
    with pytest.raises(ConfigError, match=r"\(2, 1, 2, 3, 4\)"):
        pool_to_vectors(identity, (2, 1, 2, 3, 4), name="net")


class Cached(nn.Module):
    """Keeps a tensor of the autograd graph, as LeViT keeps its attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1))
        self.twin = self.layer
        self.kept = {"bias": [self.layer.weight.sum()]}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.twin(self.layer(images)[:, :3]) + self.kept["bias"][0]  # type: ignore[no-any-return]


def test_a_copied_structure_is_the_same_network_on_other_tensors() -> None:
    module = Cached()
    same = copy_structure(module, lambda tensor: tensor)
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(same(images), module(images))
    assert list(same.state_dict()) == list(module.state_dict())
    assert same.twin is same.layer
    assert same.layer is not module.layer
    ghost = copy_structure(module, lambda tensor: torch.empty_like(tensor, device="meta"))
    assert {p.device.type for p in ghost.parameters()} == {"meta"}
    assert {p.device.type for p in module.parameters()} == {"cpu"}


def test_calls_can_be_watched_and_replaced() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    seen = []

    def visit(name: str, args: tuple[object, ...], run: Callable[[], object]) -> object:
        seen.append((name, len(args)))
        return torch.zeros(1) if name == "1.0" else run()

    with intercept_calls(dict(module.named_modules()), visit):
        assert torch.equal(module(torch.ones(1, 2)), torch.zeros(1))
    assert seen == [("", 1), ("0", 1), ("1", 1), ("1.0", 1)]
    assert not any("forward" in vars(part) for part in module.modules())
