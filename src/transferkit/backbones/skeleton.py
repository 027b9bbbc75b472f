"""Networks without memory, and the image sizes that a network takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from transferkit.backbones.spec import InputSize
from transferkit.errors import ConfigError

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

    def works(side: int) -> bool:
        try:
            attempt((side, side))
        except Exception:
            return False
        return True

    nearest = sorted(_SIDES, key=lambda side: abs(side - wanted))
    tried = dict.fromkeys([*nearest[:_TRIES], 224, 256, 384, 448])
    return sorted(islice(filter(works, tried), _ENOUGH))


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
        output = module(torch.empty(2, *input_size, device="meta"))
    if not isinstance(output, Tensor):
        raise TypeError(f"the network returns a {type(output).__name__}, not a tensor")
    return tuple(output.shape)
