"""Networks without memory: built on the meta device, to measure what a forward pass does.

A skeleton has every module and shape of the real network and none of its numbers, so a
network of seven thousand million parameters is measured in about a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from transferkit.backbones.spec import InputSize

_FILLERS = frozenset(
    {
        Tensor.clamp_,
        Tensor.erfinv_,
        Tensor.fill_,
        Tensor.normal_,
        Tensor.uniform_,
        Tensor.zero_,
    }
)
_FACTORIES = frozenset({torch.empty, torch.zeros, torch.ones, torch.full})


class _NothingToFill(TorchFunctionMode):
    """Leave out what fills a tensor that has no numbers.

    Drawing initial values would take most of the time of building: on the meta device it runs
    in Python.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _FILLERS and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


class _ParametersOnMeta(TorchFunctionMode):
    """Put on the meta device only what parameters and buffers are made with.

    Some networks compute their layout with small tensors and read the numbers back, which
    the meta device cannot do (torchvision's regnets); those tensors stay real.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in _FACTORIES and options.get("device") is None:
            options["device"] = "meta"
        return func(*args, **options)


def skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """Call ``build`` so that what it makes takes no memory; the result is in eval mode.

    Raises:
        Whatever ``build`` raises, where it fails for another reason than the meta device.
    """
    try:
        with torch.device("meta"), _NothingToFill():
            module = build()
    except (NotImplementedError, RuntimeError):
        with _ParametersOnMeta(), _NothingToFill():
            module = build()
    return module.to("meta").eval()


@dataclass(frozen=True, slots=True)
class LeafCall:
    """One call of a module that has parameters of its own and no children.

    Attributes:
        name: Dotted name of the module.
        reads_input: Whether the module was given the network's own input tensor.
    """

    name: str
    reads_input: bool


def forward_skeleton(module: nn.Module, input_size: InputSize) -> object:
    """Run two images through a skeleton; what returns has shapes only."""
    with torch.no_grad():
        return module(torch.empty(2, *input_size, device="meta"))


def leaf_calls(module: nn.Module, input_size: InputSize) -> tuple[LeafCall, ...]:
    """The leaf modules with parameters that a forward pass of a skeleton calls, in order."""
    calls: list[LeafCall] = []
    images = torch.empty(2, *input_size, device="meta")

    def record(name: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
        return lambda _, args: calls.append(LeafCall(name, bool(args) and args[0] is images))

    handles = [
        child.register_forward_pre_hook(record(name))
        for name, child in module.named_modules()
        if next(child.children(), None) is None and next(child.parameters(), None) is not None
    ]
    try:
        with torch.no_grad():
            module(images)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(calls)


def output_shape(module: nn.Module, input_size: InputSize) -> tuple[int, ...]:
    """Shape of what a skeleton returns for two images.

    Raises:
        TypeError: It returns something else than a tensor.
    """
    output = forward_skeleton(module, input_size)
    if not isinstance(output, Tensor):
        raise TypeError(f"the network returns a {type(output).__name__}, not a tensor")
    return tuple(output.shape)


def count_parameters(module: nn.Module) -> int:
    """Parameters of a module, each counted once."""
    return sum(parameter.numel() for parameter in module.parameters())
