"""The first layer for another number of channels, without losing what it learned.

One channel takes the sum of the weights over red, green and blue, so a grey image gives what
the same image in three equal channels gave. N channels repeat the weights in turn, scaled by
3 / N, so that the layer's output keeps its size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import NoReturn

import torch
from torch import Tensor, nn

from transferkit._validation import check_number
from transferkit.backbones.spec import InputSize
from transferkit.backbones.stages import has_parameters, intercept_calls, record_calls
from transferkit.errors import ConfigError

RGB = 3


def check_statistics(mean: object, std: object, channels: int, *, shared: bool) -> None:
    """Refuse what is not one number for each channel, or, if ``shared``, one for all."""
    counts = (1, channels) if shared else (channels,)
    for option, values, above in (("mean", mean, None), ("std", std, 0)):
        if not isinstance(values, list | tuple) or len(values) not in counts:
            raise ConfigError(
                f"{option} must hold a number for each of {channels} channels"
                f"{', or one for all' if shared else ''}, got {values!r}."
            )
        for value in values:
            check_number(f"Each of {option}", value, above=above)


def adapt_statistics(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Turn a mean or deviation of three channels into one of ``channels``: averaged or repeated."""
    if channels == len(values):
        return values
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[i % len(values)] for i in range(channels))


def adapt_weight(weight: Tensor, channels: int, *, colour_last: bool = True) -> Tensor:
    """Give a first layer's weight (O, I, ...) for ``channels`` input channels."""
    # I is 3 in a plain stem, and a multiple of 3 where pixels are gathered first: a space-to-depth
    # stem, a linear layer over patches. The colour runs fastest among the I inputs, or slowest.
    outputs, inputs, *rest = weight.shape
    if inputs % RGB:
        raise ConfigError(
            f"The first layer must be over 3 colours to be adapted to {channels} channels, got "
            f"one over {inputs} inputs. Use in_channels=3."
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
    """Load ``wide``, the same network built for other channels, with the weights of ``module``."""
    own, target = module.state_dict(), wide.state_dict()
    changed = {key for key, value in own.items() if value.shape != target[key].shape}
    if not changed:
        raise ConfigError("No layer depends on the number of channels. Use in_channels=3.")
    for key in changed:
        inputs, width = own[key].shape[1], target[key].shape[1]
        layer = module.get_submodule(key.rpartition(".")[0])
        last = inputs == RGB or _colour_runs_fastest(module, layer, input_size)
        own[key] = adapt_weight(own[key], width * RGB // inputs, colour_last=last)
    wide.load_state_dict(own)


def is_adapted(state: Mapping[str, Tensor], module: nn.Module, channels: int) -> bool:
    """Whether a state dict has first layers for so many channels where the module has others."""
    own = module.state_dict()
    differing = [key for key in own if key in state and own[key].shape != state[key].shape]
    return any(state[key].ndim > 1 and state[key].shape[1] == channels for key in differing)


def adapt_first_layers(module: nn.Module, input_size: InputSize, channels: int) -> None:
    """Replace, in place, the convolutions that read the image by ones over ``channels``."""
    leaves = record_calls(module, input_size).leaves()
    layers = [leaf for leaf in leaves if has_parameters(module.get_submodule(leaf.name))]
    # The first layer, though the network may have changed the image before it; and all that read
    # the image as it is, for some stems have two branches.
    names = dict.fromkeys([layers[0].name, *(call.name for call in layers if call.reads_images)])
    for name in names:
        layer = module.get_submodule(name)
        if not isinstance(layer, nn.Conv2d) or layer.in_channels != RGB or layer.groups != 1:
            raise ConfigError(
                "The first layer must be a 2-d convolution over 3 channels to be adapted, got "
                f"{name!r}, {layer}. Use in_channels=3."
            )
        module.set_submodule(name, _convolution_like(layer, channels))


def _convolution_like(layer: nn.Conv2d, channels: int) -> nn.Conv2d:
    adapted = deepcopy(layer)
    adapted.in_channels = channels
    adapted.weight = nn.Parameter(adapt_weight(layer.weight.detach(), channels))
    return adapted


class _Inputs(Exception):  # noqa: N818 - it stops a forward pass, nothing went wrong
    """The inputs of the layer that was waited for."""


def _colour_runs_fastest(module: nn.Module, layer: nn.Module, input_size: InputSize) -> bool:
    """Find how a first layer's inputs are ordered."""

    def stop(_: str, args: tuple[object, ...], __: Callable[[], object]) -> NoReturn:
        raise _Inputs(args[0])

    # In an image of one value for each colour, the order of the values is that of the colours.
    colours = torch.tensor([0.0, 0.5, 1.0]).view(1, RGB, 1, 1)
    try:
        with torch.no_grad(), intercept_calls({"first": layer}, stop):
            module(colours.expand(1, *input_size))
    except _Inputs as stopped:
        inputs: Tensor = stopped.args[0]
    row = inputs[0, :, 0, 0] if inputs.ndim == 4 else inputs.flatten(0, -2)[0]
    pattern = torch.tensor(sorted(set(row.tolist())))
    if len(pattern) == RGB:
        if torch.equal(row, pattern.repeat(len(row) // RGB)):
            return True
        if torch.equal(row, pattern.repeat_interleave(len(row) // RGB)):
            return False
    raise ConfigError(
        "The first layer must read plain colours in order to be adapted. Use in_channels=3."
    )
