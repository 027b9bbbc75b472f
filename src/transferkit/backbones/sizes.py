"""Which image sizes a network can take, found by trying them without memory."""

from __future__ import annotations

from collections.abc import Callable

from transferkit.errors import ConfigError, TransferkitError

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
