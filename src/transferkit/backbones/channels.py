"""The first layer for another number of channels, without losing what it learned.

One channel takes the sum of the weights over red, green and blue, so a grey image gives what
the same image in three equal channels gave. N channels repeat the weights in turn, scaled by
3 / N, so that the layer's output keeps its size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transferkit.backbones.skeleton import LeafCall
from transferkit.errors import ConfigError

RGB = 3


def adapt_statistics(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Turn a mean or deviation of three channels into one of ``channels``: averaged or repeated."""
    if channels == len(values):
        return values
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[i % len(values)] for i in range(channels))


def adapt_weight(weight: Tensor, channels: int) -> Tensor:
    """Give a first layer's weight for ``channels`` input channels.

    Args:
        weight: (O, I) or (O, I, H, W), where I is a multiple of 3 with the colour running
            fastest, as in a plain stem (I = 3), a space-to-depth stem and a linear layer over
            flattened patches of (H, W, C).
        channels: Channels of the images.

    Returns:
        (O, I / 3 * channels, ...), of the same type.
    """
    outputs, inputs, *rest = weight.shape
    if inputs % RGB:
        raise ConfigError(
            f"expected a first layer over 3 colours to adapt to {channels} channels, "
            f"got one over {inputs} inputs; use in_channels=3"
        )
    colours = weight.reshape(outputs, inputs // RGB, RGB, *rest)
    if channels == 1:
        adapted = colours.sum(dim=2, keepdim=True)
    else:
        turn = torch.arange(channels, device=weight.device) % RGB
        adapted = colours.index_select(2, turn) * (RGB / channels)
    return adapted.reshape(outputs, inputs // RGB * channels, *rest).contiguous()


def adapt_first_layers(module: nn.Module, calls: tuple[LeafCall, ...], channels: int) -> None:
    """Replace, in place, the convolutions that read the image by ones over ``channels``.

    Args:
        module: A network over three channels.
        calls: Its leaf calls, from a skeleton of it.
        channels: Channels of the images.

    Raises:
        ConfigError: The first layer is not a plain 2-d convolution over three channels.
    """
    names = dict.fromkeys([calls[0].name, *(call.name for call in calls if call.reads_input)])
    for name in names:
        layer = module.get_submodule(name)
        if not isinstance(layer, nn.Conv2d) or layer.in_channels != RGB or layer.groups != 1:
            raise ConfigError(
                f"expected a first layer that is a 2-d convolution over 3 channels, got {name!r}, "
                f"{layer}; use in_channels=3"
            )
        module.set_submodule(name, _convolution_like(layer, channels))


def _convolution_like(layer: nn.Conv2d, channels: int) -> nn.Conv2d:
    """A convolution with the same options and adapted weights."""
    with torch.device("meta"):
        adapted = nn.Conv2d(
            channels,
            layer.out_channels,
            kernel_size=(layer.kernel_size[0], layer.kernel_size[1]),
            stride=(layer.stride[0], layer.stride[1]),
            padding=_padding(layer),
            dilation=(layer.dilation[0], layer.dilation[1]),
            bias=layer.bias is not None,
            padding_mode=layer.padding_mode,
        )
    adapted.weight = nn.Parameter(adapt_weight(layer.weight.detach(), channels))
    adapted.bias = layer.bias
    return adapted.train(layer.training)


def _padding(layer: nn.Conv2d) -> str | tuple[int, int]:
    if isinstance(layer.padding, str):
        return layer.padding
    return int(layer.padding[0]), int(layer.padding[1])
