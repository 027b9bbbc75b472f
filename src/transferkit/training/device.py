"""Where a run computes, in which precision, and with which random numbers."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import nn

from transferkit.models.device import device_of
from transferkit.training.options import Precision


def training_device(wish: torch.device | str | None, model: nn.Module) -> torch.device | str:
    """The device to train on: the one wished for, else a GPU, else where the model is."""
    if wish is not None:
        return wish
    if torch.cuda.is_available():
        return "cuda"
    return device_of(model)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass: bfloat16 where asked for, or where ``auto`` finds it faster.

    ``auto`` takes bfloat16 on GPUs with tensor cores for it (compute capability 8 and up), and
    float32 elsewhere: on most CPUs bfloat16 is slower.
    """
    if effective(precision, device) == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def effective(precision: Precision, device: torch.device) -> Precision:
    """What ``precision`` comes to on ``device``: never ``"auto"``."""
    if precision != "auto":
        return precision
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bfloat16" if fast else "float32"


@contextmanager
def seeded(numbers: Sequence[int], device: torch.device) -> Iterator[None]:
    """Draw torch's random numbers from ``numbers``; then put the caller's state back.

    With the run's seed and the epoch among them, no random state has to be saved for a resumed
    run: each epoch starts from its own numbers.
    """
    number = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    others = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=others):
        torch.manual_seed(number)
        yield


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGE = 32 << 20
_USUAL = 2 * _LARGE
_NEVER = 2**31 - 1
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Keep freed blocks of up to 32 MB in the process until the end of the block.

    Where blocks are larger, more would be faster still, but free memory would lie in pieces and
    the process would take more than without this. At the end the C library is told to give back
    what is free, and has the thresholds that it comes to by itself in a process of large blocks.
    Does nothing on a GPU, with another C library, or where the user's environment chooses.
    """
    library = _glibc() if device.type == "cpu" else None
    if library is None:
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _LARGE)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        library.mallopt(_TRIM_THRESHOLD, _USUAL)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _CHOSEN):
        return None
    library = ctypes.CDLL(None)
    known = all(hasattr(library, name) for name in ("gnu_get_libc_version", "mallopt"))
    return library if known else None
