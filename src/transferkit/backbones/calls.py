"""The tree of module calls that one forward pass makes, recorded without doing its work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from transferkit.errors import ConfigError

_BATCH = 2


@dataclass(slots=True)
class Call:
    """One call of a module, with the calls made inside it.

    Attributes:
        name: Dotted name of the module; empty for the network itself.
        inner: The calls made inside, in order.
    """

    name: str
    inner: list[Call] = field(default_factory=list)

    def names(self) -> set[str]:
        """Names of every module called here or inside."""
        return {self.name}.union(*(call.names() for call in self.inner))

    def leaves(self) -> list[Call]:
        """The innermost calls, in order."""
        return [leaf for call in self.inner for leaf in call.leaves()] if self.inner else [self]


def record_calls(
    module: nn.Module, input_size: tuple[int, int, int], *, training: bool = False
) -> Call:
    """Run one forward pass on the meta device and record which module calls which.

    Nothing of the module changes. Where the meta device cannot follow (a value is read back,
    a tensor that is neither parameter nor buffer), a real pass on zeros takes its place.

    Args:
        module: The network, on any device.
        input_size: Channels, height and width of its input.
        training: Record the pass of train mode, on the meta device only.

    Raises:
        ConfigError: The network cannot take such an input.
    """
    with _modes(module, training=training), torch.no_grad():
        try:
            return _on_meta(module, input_size)
        except Exception as error:
            if training:
                raise ConfigError(_refusal(module, input_size, error)) from error
        try:
            return _on_zeros(module, input_size)
        except Exception as error:
            raise ConfigError(_refusal(module, input_size, error)) from error


def _refusal(module: nn.Module, input_size: tuple[int, int, int], error: Exception) -> str:
    size = " x ".join(map(str, input_size))
    return (
        f"{type(module).__name__} cannot take images of {size} (channels x height x width): "
        f"{type(error).__name__}: {error}"
    )


def _on_meta(module: nn.Module, input_size: tuple[int, int, int]) -> Call:
    images = torch.empty(_BATCH, *input_size, device="meta", dtype=_input_dtype(module))
    with _recording(module) as root, _ghosts(module), torch.device("meta"):
        module(images)
    return root.inner[0]


@contextmanager
def _ghosts(module: nn.Module) -> Iterator[None]:
    """Let every parameter and buffer be a tensor without memory; put the real ones back after.

    (``torch.func.functional_call`` does not put back modules that are shared under two names.)
    """
    made: dict[int, Tensor] = {}
    before = [(part, dict(part._parameters), dict(part._buffers)) for part in module.modules()]
    try:
        for part, parameters, buffers in before:
            for name, parameter in parameters.items():
                if parameter is not None:
                    ghost = made.setdefault(id(parameter), _ghost(parameter))
                    part._parameters[name] = nn.Parameter(ghost, requires_grad=False)
            for name, buffer in buffers.items():
                if buffer is not None:
                    part._buffers[name] = made.setdefault(id(buffer), _ghost(buffer))
        yield
    finally:
        for part, parameters, buffers in before:
            part._parameters.update(parameters)
            part._buffers.update(buffers)


def _ghost(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta", requires_grad=False)


def _on_zeros(module: nn.Module, input_size: tuple[int, int, int]) -> Call:
    reference = next(module.parameters(), torch.empty(0))
    images = torch.zeros(_BATCH, *input_size, device=reference.device, dtype=_input_dtype(module))
    with _recording(module) as root:
        module(images)
    return root.inner[0]


def _input_dtype(module: nn.Module) -> torch.dtype:
    floats = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(floats, torch.get_default_dtype())


@contextmanager
def _recording(module: nn.Module) -> Iterator[Call]:
    """Record every call below the yielded root; leaves no hook behind."""
    root = Call("")
    stack = [root]
    names = {child: name for name, child in module.named_modules()}

    def enter(child: nn.Module, _: tuple[object, ...]) -> None:
        call = Call(names[child])
        stack[-1].inner.append(call)
        stack.append(call)

    def leave(_: nn.Module, __: tuple[object, ...], ___: Tensor) -> None:
        stack.pop()

    handles = [child.register_forward_pre_hook(enter, prepend=True) for child in names]
    handles += [child.register_forward_hook(leave) for child in names]
    try:
        yield root
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _modes(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Set every module's mode by its flag, past any override of ``train``; put it back after."""
    before = [(child, child.training) for child in module.modules()]
    for child, _ in before:
        child.training = training
    try:
        yield
    finally:
        for child, mode in before:
            child.training = mode
