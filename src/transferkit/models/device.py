"""Where a model computes, in which precision, and with which random numbers."""

from __future__ import annotations

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
    if device is not None:
        try:
            if torch.device(device) != device_of(model):
                with torch.inference_mode(mode=False):
                    model.to(device)
        except (RuntimeError, AssertionError, TypeError) as error:
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
    """The precision that ``"auto"`` stands for on ``device``; any other as it is."""
    if precision != "auto":
        return precision
    # on most CPUs, and on GPUs without tensor cores for it, bfloat16 is slower
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bfloat16" if fast else "float32"


def check_precision(precision: Precision, device: torch.device, model: nn.Module) -> None:
    """Refuse mixed precision of float16 weights: batch norms cannot mix them with bfloat16."""
    half = any(parameter.dtype == torch.float16 for parameter in model.parameters())
    if half and effective(precision, device) == "bfloat16":
        raise ConfigError(
            "Mixed precision takes a model with float32 or bfloat16 weights, got float16 ones. "
            "Call model.float() first, or give precision='float32'."
        )


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
    """Seed torch unless ``seed`` is None, and put the caller's random state back after.

    A tuple, such as the run's seed and the epoch, gives each part of a run numbers of its own.
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
