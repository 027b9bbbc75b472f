"""Networks without memory: the modules that a forward pass calls, and the image sizes it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from transferkit.backbones.spec import InputSize
from transferkit.errors import ConfigError

_BATCH = 2

Visit = Callable[[str, tuple[object, ...], Callable[[], object]], object]
"""Takes a module's name, its positional arguments and what runs it; returns the call's result."""


@dataclass(slots=True)
class Call:
    """One call of a module, by its dotted name, with the calls made inside it in order."""

    name: str
    reads_images: bool = False  # its first argument is the network's own input
    inner: list[Call] = field(default_factory=list)

    def names(self) -> set[str]:
        """Names of every module called here or inside."""
        return {self.name}.union(*(call.names() for call in self.inner))

    def leaves(self) -> list[Call]:
        """The innermost calls, in order."""
        return [leaf for call in self.inner for leaf in call.leaves()] if self.inner else [self]


@contextmanager
def intercept_calls(modules: Mapping[str, nn.Module], visit: Visit) -> Iterator[None]:
    """Send every call of the named modules through ``visit``, those inside another call too."""
    # An instance's own ``forward`` stands before its class's. Hooks would do to watch a call, but
    # could not replace it.
    before = {name: module.__dict__.get("forward") for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.__dict__["forward"] = partial(_visit_call, visit, name, module.forward)
        yield
    finally:
        for name, module in modules.items():
            module.__dict__.pop("forward", None)
            if before[name] is not None:
                module.__dict__["forward"] = before[name]


def _visit_call(
    visit: Visit, name: str, forward: Callable[..., object], /, *args: object, **kwargs: object
) -> object:
    return visit(name, args, partial(forward, *args, **kwargs))


def copy_structure(module: nn.Module, stand_in: Callable[[Tensor], Tensor]) -> nn.Module:
    """Copy a module and all inside it; ``stand_in`` gives the copy's parameters and buffers."""
    # deepcopy takes from the memo what it has met before, so each tensor that is put there first
    # is never copied, and one that is shared stays shared. Those in plain attributes and their
    # lists and dictionaries are put there too (the weight of weight_norm, the caches of LeViT):
    # they may not be leaves of the autograd graph, which deepcopy refuses.
    memo: dict[int, object] = {}
    for part in module.modules():
        for tensor in tree_leaves(vars(part)):
            if isinstance(tensor, Tensor) and id(tensor) not in memo:
                memo[id(tensor)] = _as_parameter(tensor, stand_in(tensor))
        for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values()):
            memo[id(hook)] = hook  # may hold anything: a logger, a lock
    copied: nn.Module = deepcopy(module, memo)
    return copied


def _as_parameter(original: Tensor, stand_in: Tensor) -> Tensor:
    if isinstance(original, nn.Parameter) and not isinstance(stand_in, nn.Parameter):
        return nn.Parameter(stand_in, requires_grad=False)
    return stand_in


def record_calls(module: nn.Module, input_size: InputSize, *, training: bool = False) -> Call:
    """Record which module calls which in one forward pass; ConfigError where that fails."""
    try:
        return record_on_meta(module, input_size, training=training)
    except Exception as error:  # whatever the network raises
        if training:
            raise _refusal(module, input_size, error) from error
    # The meta device cannot follow where a value is read back, or where a tensor is neither
    # parameter nor buffer: a real pass on zeros takes its place.
    try:
        device = next(module.parameters(), torch.empty(0)).device
        return _record(copy_structure(module, lambda tensor: tensor), input_size, device)
    except Exception as error:
        raise _refusal(module, input_size, error) from error


def record_on_meta(module: nn.Module, input_size: InputSize, *, training: bool = False) -> Call:
    """The same on the meta device alone; raises what the network raises."""
    ghost = copy_structure(
        module, lambda tensor: torch.empty_like(tensor, device="meta", requires_grad=False)
    )
    return _record(ghost, input_size, torch.device("meta"), training=training)


def _record(
    own: nn.Module, input_size: InputSize, device: torch.device, *, training: bool = False
) -> Call:
    """Record one forward pass of a module that nobody else sees."""
    for part in own.modules():
        part.training = training  # past any override of ``train``
    floats = (p.dtype for p in own.parameters() if p.is_floating_point())
    dtype = next(floats, torch.get_default_dtype())
    images = torch.zeros(_BATCH, *input_size, device=device, dtype=dtype)
    root = Call("")
    stack = [root]

    def enter(name: str, _: nn.Module, args: tuple[object, ...]) -> None:
        call = Call(name, reads_images=bool(args) and args[0] is images)
        stack[-1].inner.append(call)
        stack.append(call)

    def leave(_: nn.Module, __: tuple[object, ...], ___: object) -> None:
        stack.pop()

    # Hooks, not ``intercept_calls``: they see what is called as a module, and not the forward that
    # HRNet calls by name, which belongs to its caller's stage.
    for name, part in own.named_modules():
        part.register_forward_pre_hook(partial(enter, name), prepend=True)
        part.register_forward_hook(leave)
    with torch.no_grad(), device:
        own(images)
    return root.inner[0]


def _refusal(module: nn.Module, input_size: InputSize, error: Exception) -> ConfigError:
    size = " x ".join(map(str, input_size))
    return ConfigError(
        f"{type(module).__name__} cannot take images of {size} (channels x height x width): "
        f"{type(error).__name__}: {error}"
    )


Size = tuple[int, int]
"""Height and width in pixels."""

_SIDES = (
    *(28, 32, 48, 56, 64, 70, 84, 96, 112, 128, 140, 160, 192, 224, 256, 288, 320, 336, 384),
    *(392, 448, 480, 512, 518, 576, 640, 672, 768, 896, 1024),
)
_TRIES = 12
_ENOUGH = 3


def check_size(name: str, size: Size, attempt: Callable[[Size], object]) -> None:
    """Refuse an image size at which ``attempt`` raises, naming sizes at which it does not."""
    if min(size) < 1:
        raise ConfigError(f"image_size must be positive, got {size}.")
    try:
        attempt(size)
    except Exception as error:  # whatever the network raises
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        working = _working_near(max(size), attempt)
        say = f"sizes that work: {', '.join(map(str, working))}" if working else "use its own size"
        raise ConfigError(
            f"{name} cannot take images of {size[0]} x {size[1]} pixels ({reason[:200]}); {say}."
        ) from error


def _working_near(wanted: int, attempt: Callable[[Size], object]) -> list[int]:
    """A few square sizes that work, the nearest to ``wanted`` first tried."""
    nearest = sorted(_SIDES, key=lambda side: abs(side - wanted))
    working: list[int] = []
    for side in dict.fromkeys([*nearest[:_TRIES], 224, 256, 384, 448]):
        if len(working) == _ENOUGH:
            break
        try:
            attempt((side, side))
        except Exception:
            continue
        working.append(side)
    return sorted(working)


_FILLERS = frozenset(
    getattr(Tensor, f"{name}_") for name in ("clamp", "erfinv", "fill", "normal", "uniform", "zero")
)
_FACTORIES = frozenset({torch.empty, torch.zeros, torch.ones, torch.full})


class _WithoutMemory(TorchFunctionMode):
    """Put what parameters and buffers are made with on the meta device, and leave them unfilled."""

    # Filling draws random numbers, which on the meta device runs in Python, for nothing.
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in _FILLERS and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        if func in _FACTORIES and options.get("device") is None:
            options["device"] = "meta"
        return func(*args, **options)


def skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """Call ``build`` so that what it makes takes no memory; the result is in eval mode."""
    try:
        with torch.device("meta"), _WithoutMemory():
            module = build()
    except (NotImplementedError, RuntimeError, ConfigError):
        # torchvision's regnets and older transformers of timm compute their layout with small
        # tensors and read the numbers back, which the meta device cannot do: those stay real.
        with _WithoutMemory():
            module = build()
    return module.to("meta").eval()


def output_shape(module: nn.Module, input_size: InputSize) -> tuple[int, ...]:
    """Shape of what a skeleton returns for two images; TypeError where that is no tensor."""
    with torch.no_grad():
        output = module(torch.empty(_BATCH, *input_size, device="meta"))
    if not isinstance(output, Tensor):
        raise TypeError(f"the network returns a {type(output).__name__}, not a tensor")
    return tuple(output.shape)


def count_parameters(module: nn.Module) -> int:
    """Parameters of a module, each counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def has_parameters(module: nn.Module) -> bool:
    """Whether a module holds a parameter, itself or in its parts."""
    return next(module.parameters(), None) is not None
