"""Running every image of a split once through a frozen part of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from transferkit.data.dataset import ImageData
from transferkit.errors import DataError

Prefix: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]
"""A batch of uint8 images (B, C, H, W) to one or more tensors with B rows each."""

Allocate: TypeAlias = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""Makes room for one encoded tensor of the whole split, given its shape and type."""


def in_memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Room in main memory."""
    return torch.empty(shape, dtype=dtype)


def encode(
    prefix: Prefix,
    data: ImageData,
    *,
    device: torch.device,
    batch_size: int = 64,
    allocate: Allocate = in_memory,
    on_batch: Callable[[int], object] = lambda count: None,
) -> tuple[Tensor, ...]:
    """Run ``prefix`` over all images, in their order.

    Args:
        prefix: The frozen part; its modules must be in eval mode.
        data: N images.
        device: Where the prefix computes.
        batch_size: Images a batch.
        allocate: Makes room for the results; in main memory by default.
        on_batch: Told the number of images of each batch that is done.

    Returns:
        For each tensor of the prefix, one with N rows, on the CPU.

    Raises:
        DataError: There are no images.
    """
    if len(data) == 0:
        raise DataError("There are no images to encode.")
    room: tuple[Tensor, ...] = ()
    for start in range(0, len(data), batch_size):
        rows = np.arange(start, min(start + batch_size, len(data)))
        with torch.inference_mode():
            parts = prefix(data.batch(rows).to(device, non_blocking=True))
        if not room:
            room = tuple(allocate((len(data), *part.shape[1:]), part.dtype) for part in parts)
        for whole, part in zip(room, parts, strict=True):
            whole[start : start + len(rows)].copy_(part)
        on_batch(len(rows))
    return room


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode; then put back the mode of each of its modules."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
