"""Where a model computes, in which precision, and with which random numbers."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from transferkit.errors import ConfigError

Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]

CPU = torch.device("cpu")


def device_of(model: nn.Module) -> torch.device:
    """The device of the first parameter or buffer of ``model``; the CPU if it has neither."""
    return next((t.device for t in (*model.parameters(), *model.buffers())), CPU)


def place(model: nn.Module, device: torch.device | str | None) -> torch.device:
    """Move ``model`` to ``device``, unless that is None; return where the model is then."""
    if device is not None and torch.device(device) != device_of(model):
        try:
            model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device={str(device)!r} cannot be used here: {error}") from error
    return device_of(model)


def training_device(device: torch.device | str | None, model: nn.Module) -> torch.device | str:
    """The device to train on: ``device``, or by default a GPU, or else where the model is."""
    if device is not None:
        return device
    return "cuda" if torch.cuda.is_available() else device_of(model)


def has_room(device: torch.device, needed: int) -> bool:
    """Whether ``device`` is a GPU of whose free memory ``needed`` bytes are at most a quarter."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return needed <= free // 4


def effective(precision: Precision, device: torch.device) -> Precision:
    """The precision that ``"auto"`` stands for on ``device``; any other as it is.

    bfloat16 on GPUs with tensor cores for it (compute capability 8 and up), and float32 elsewhere:
    on most CPUs bfloat16 is slower.
    """
    if precision != "auto":
        return precision
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bfloat16" if fast else "float32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass in ``precision``."""
    if effective(precision, device) == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


@contextmanager
def plain_context(device: torch.device = CPU) -> Iterator[None]:
    """Leave the caller's autocast, no_grad and inference_mode."""
    autocast_off = torch.autocast(device.type, enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), autocast_off:
        yield


_SEEDING = threading.RLock()


@contextmanager
def seeded(seed: int | tuple[int, ...] | None, device: torch.device = CPU) -> Iterator[None]:
    """Seed torch's random numbers, and put the caller's random state back after.

    None draws from the caller's state. A tuple, such as the run's seed and the epoch, gives each
    part of a run numbers of its own, so that a resumed run needs no saved random state.
    """
    if seed is None:
        with _SEEDING:
            yield
        return
    if isinstance(seed, tuple):
        seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    # torch has one generator for all threads: blocks in several threads would draw from each
    # other's numbers, so they take turns
    with _SEEDING, torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
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
