"""The first layer for other channels, against what summing and repeating mean."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d

from transferkit.backbones.channels import adapt_first_layers, adapt_statistics, adapt_weight, widen
from transferkit.errors import ConfigError


@given(channels=st.integers(1, 13), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_equal_channels_give_the_same_output_as_three(channels: int, seed: int) -> None:
    if channels % 3 and channels != 1:
        return  # other counts give each colour unequal weight
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 3, 3, 3, generator=generator)
    grey = torch.randn(2, 1, 8, 8, generator=generator)
    adapted = adapt_weight(weight, channels)
    expected = conv2d(grey.expand(-1, 3, -1, -1), weight)
    result = conv2d(grey.expand(-1, channels, -1, -1), adapted)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_one_channel_sums_and_four_repeat_in_turn() -> None:
    weight = torch.randn(5, 3, 7, 7)
    assert torch.equal(adapt_weight(weight, 1), weight.sum(dim=1, keepdim=True))
    repeated = torch.stack([weight[:, 0], weight[:, 1], weight[:, 2], weight[:, 0]], dim=1)
    torch.testing.assert_close(adapt_weight(weight, 4), repeated * 0.75)
    torch.testing.assert_close(adapt_weight(weight, 3), weight)


@pytest.mark.parametrize("colour_last", [True, False])
def test_patches_in_either_order(colour_last: bool) -> None:
    weight = torch.randn(6, 12)
    pixels = torch.randn(4)
    three = pixels.repeat_interleave(3) if colour_last else pixels.repeat(3)
    expected = weight @ three
    torch.testing.assert_close(adapt_weight(weight, 1, colour_last=colour_last) @ pixels, expected)


def test_statistics_are_averaged_or_repeated() -> None:
    assert adapt_statistics((0.2, 0.4, 0.9), 1) == pytest.approx((0.5,))
    assert adapt_statistics((0.2, 0.4, 0.9), 4) == (0.2, 0.4, 0.9, 0.2)
    assert adapt_statistics((0.2, 0.4, 0.9), 3) == (0.2, 0.4, 0.9)


class TwoStems(nn.Module):
    """Two convolutions that read the image, as some timm stems have."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding="same", bias=False)
        self.right = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.left(images) + self.right(images)).mean((2, 3))


def test_every_layer_that_reads_the_image_is_adapted() -> None:
    module = TwoStems()
    grey = torch.randn(2, 1, 8, 8)
    expected = module(grey.expand(-1, 3, -1, -1))
    adapt_first_layers(module, (3, 8, 8), 1)
    torch.testing.assert_close(module(grey), expected)
    assert all(p.requires_grad for p in module.parameters())


def test_a_first_layer_that_cannot_be_adapted_is_refused() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 2))

    with pytest.raises(ConfigError, match="in_channels=3"):
        adapt_first_layers(build(), (3, 4, 4), 1)
    with pytest.raises(ConfigError, match="in_channels=3"):
        adapt_weight(torch.randn(2, 4), 1)


@pytest.mark.parametrize("colour_last", [True, False])
def test_widening_finds_the_order_of_the_patches(colour_last: bool) -> None:
    class Patches(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.proj = nn.Linear(channels * 4, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            order = (0, 2, 4, 3, 5, 1) if colour_last else (0, 2, 4, 1, 3, 5)
            grid = images.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
            return self.proj(grid.permute(order).flatten(3).flatten(1, 2)).mean(1)  # type: ignore[no-any-return]

    three, one = Patches(3), Patches(1)
    widen(three, one, (3, 4, 4))
    grey = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(one(grey), three(grey.expand(-1, 3, -1, -1)))


def test_widening_a_network_that_ignores_the_channels_is_refused() -> None:
    with pytest.raises(ConfigError, match="in_channels=3"):
        widen(nn.Linear(3, 2), nn.Linear(3, 2), (3, 4, 4))
