"""The tree of module calls that one forward pass makes, recorded without doing its work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from transferkit.backbones.spec import InputSize
from transferkit.errors import ConfigError, TransferkitError

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


Size = tuple[int, int]
"""Height and width in pixels."""

_USUAL = (28, 32, 48, 56, 64, 70, 84, 96, 112, 128, 140, 160, 192, 224, 256, 288, 320, 336, 384)
_LARGE = (392, 448, 480, 512, 518, 576, 640, 672, 768, 896, 1024)
_TRIES = 12
_ENOUGH = 3

REFUSALS = (
    TransferkitError,
    RuntimeError,
    ValueError,
    TypeError,
    AssertionError,
    ArithmeticError,
    LookupError,
)
"""What networks raise when an image's size does not suit them."""


def check_size(name: str, size: Size, attempt: Callable[[Size], object]) -> None:
    """Refuse an image size that a network cannot take, naming sizes that it can.

    Args:
        name: The backbone, for the message.
        size: Height and width that were asked for.
        attempt: Builds and runs the network without memory at a size; raises where it cannot.

    Raises:
        ConfigError: The network cannot take the size.
    """
    if min(size) < 1:
        raise ConfigError(f"expected an image size of positive numbers, got {size}")
    try:
        attempt(size)
    except REFUSALS as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        working = _working_near(max(size), attempt)
        say = f"sizes that work: {', '.join(map(str, working))}" if working else "use its own size"
        raise ConfigError(
            f"{name} cannot take images of {size[0]} x {size[1]} pixels ({reason[:200]}); {say}"
        ) from error


def _working_near(wanted: int, attempt: Callable[[Size], object]) -> list[int]:
    """A few square sizes that work, the nearest to ``wanted`` first tried."""
    nearest = sorted((*_USUAL, *_LARGE), key=lambda side: abs(side - wanted))
    working: list[int] = []
    for side in [*nearest[:_TRIES], 224, 256, 384, 448]:
        if side not in working and len(working) < _ENOUGH and _works((side, side), attempt):
            working.append(side)
    return sorted(working)


def _works(size: Size, attempt: Callable[[Size], object]) -> bool:
    try:
        attempt(size)
    except REFUSALS:
        return False
    return True


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
