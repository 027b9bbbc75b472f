"""The first layer for another number of channels, without losing what it learned.

One channel takes the sum of the weights over red, green and blue, so a grey image gives what
the same image in three equal channels gave. N channels repeat the weights in turn, scaled by
3 / N, so that the layer's output keeps its size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transferkit.backbones.meta_forward import LeafCall
from transferkit.backbones.spec import InputSize
from transferkit.errors import ConfigError


class PooledEncoder(nn.Module):
    """An encoder whose tokens or maps are averaged into one vector an image.

    Args:
        encoder: A network that returns tokens (B, N, D) or maps (B, D, H, W).
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to features (B, D)."""
        output: Tensor = self.encoder(images)
        return output.mean(dim=(2, 3)) if output.ndim == 4 else output.mean(dim=1)


def pool_to_vectors(module: nn.Module, shape: tuple[int, ...], *, name: str) -> nn.Module:
    """Wrap a network that returns tokens or maps so that it returns one vector an image.

    Args:
        module: The network.
        shape: Shape of its output, the batch first.
        name: The backbone, for the message.

    Raises:
        ConfigError: Its output is neither vectors, tokens nor maps.
    """
    if len(shape) == 2:
        return module
    if len(shape) in (3, 4):
        return PooledEncoder(module)
    raise ConfigError(
        f"{name}: expected features (B, D), tokens (B, N, D) or maps (B, D, H, W), "
        f"got an output of shape {shape}"
    )


def replace_module(module: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new``, in place, where the module of the dotted ``name`` was."""
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, new)


RGB = 3


def adapt_statistics(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Turn a mean or deviation of three channels into one of ``channels``: averaged or repeated."""
    if channels == len(values):
        return values
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[i % len(values)] for i in range(channels))


def adapt_weight(weight: Tensor, channels: int, *, colour_last: bool = True) -> Tensor:
    """Give a first layer's weight for ``channels`` input channels.

    Args:
        weight: (O, I) or (O, I, H, W), where I is 3 in a plain stem and a multiple of 3 where
            pixels are gathered first: a space-to-depth stem, a linear layer over patches.
        channels: Channels of the images.
        colour_last: Whether the colour runs fastest among the I inputs, or slowest.

    Returns:
        (O, I / 3 * channels, ...), of the same type.
    """
    outputs, inputs, *rest = weight.shape
    if inputs % RGB:
        raise ConfigError(
            f"expected a first layer over 3 colours to adapt to {channels} channels, "
            f"got one over {inputs} inputs; use in_channels=3"
        )
    axis = 2 if colour_last else 1
    pixels = inputs // RGB
    colours = weight.reshape(outputs, *((pixels, RGB) if colour_last else (RGB, pixels)), *rest)
    if channels == 1:
        adapted = colours.sum(dim=axis, keepdim=True)
    else:
        turn = torch.arange(channels, device=weight.device) % RGB
        adapted = colours.index_select(axis, turn) * (RGB / channels)
    return adapted.reshape(outputs, pixels * channels, *rest).contiguous()


def widen(module: nn.Module, wide: nn.Module, input_size: InputSize) -> None:
    """Load ``wide``, the same network built for other channels, with the weights of ``module``.

    Args:
        module: A network over three channels, on the CPU.
        wide: The network to load; its first layers have other shapes, all else the same.
        input_size: Channels (3), height and width of an input of ``module``.

    Raises:
        ConfigError: No weight has another shape, or one that cannot be adapted.
    """
    own, target = module.state_dict(), wide.state_dict()
    changed = {key for key, value in own.items() if value.shape != target[key].shape}
    if not changed:
        raise ConfigError("expected a first layer that depends on the channels; use in_channels=3")
    for key in changed:
        inputs, width = own[key].shape[1], target[key].shape[1]
        layer = module.get_submodule(key.rpartition(".")[0])
        last = inputs == RGB or _colour_runs_fastest(module, layer, input_size)
        own[key] = adapt_weight(own[key], width * RGB // inputs, colour_last=last)
    wide.load_state_dict(own)


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
        replace_module(module, name, _convolution_like(layer, channels))


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


class _Seen(Exception):  # noqa: N818 - it stops a forward pass, nothing went wrong
    """The inputs of the layer that was waited for."""


def _colour_runs_fastest(module: nn.Module, layer: nn.Module, input_size: InputSize) -> bool:
    """Find how a first layer's inputs are ordered, by an image with one value a channel."""

    def stop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        raise _Seen(args[0])

    colours = torch.tensor([0.0, 0.5, 1.0]).view(1, RGB, 1, 1)
    handle = layer.register_forward_pre_hook(stop)
    try:
        with torch.no_grad():
            module(colours.expand(1, *input_size))
    except _Seen as seen:
        inputs: Tensor = seen.args[0]
    finally:
        handle.remove()
    row = inputs[0, :, 0, 0] if inputs.ndim == 4 else inputs.flatten(0, -2)[0]
    pattern = torch.tensor(sorted(set(row.tolist())))
    if len(pattern) != RGB:
        raise ConfigError("expected a first layer that reads plain colours; use in_channels=3")
    if torch.equal(row, pattern.repeat(len(row) // RGB)):
        return True
    if torch.equal(row, pattern.repeat_interleave(len(row) // RGB)):
        return False
    raise ConfigError(
        "expected a first layer whose inputs are ordered by colour; use in_channels=3"
    )
