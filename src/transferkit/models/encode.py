"""Running every image of a split once through a frozen part, into memory or onto the disk."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from transferkit.data.arraystore import CacheWarning
from transferkit.data.dataset import ImageData
from transferkit.errors import ConfigError, DataError, OutputError
from transferkit.models.caching import Cache
from transferkit.models.device import has_room

Prefix: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]
"""A batch of uint8 images (B, C, H, W) to one or more tensors with B rows each."""

Encoded: TypeAlias = tuple[Tensor, ...]
"""What a prefix makes of a split: tensors with one row an image."""

Allocate: TypeAlias = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""Makes room for one encoded tensor of the whole split, given its shape and type."""

OnBatch: TypeAlias = Callable[[int], object]
"""Told the number of images of each batch that is done."""


def in_memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Room in main memory."""
    return torch.empty(shape, dtype=dtype)


def ignore(count: int) -> None:
    """Take no notice of progress."""


def encode(
    prefix: Prefix,
    data: ImageData,
    *,
    device: torch.device,
    batch_size: int = 64,
    allocate: Allocate = in_memory,
    on_batch: OnBatch = ignore,
) -> Encoded:
    """Run ``prefix`` over all images, in their order.

    Args:
        prefix: The frozen part; its modules must be in eval mode.
        data: N images.
        device: Where the prefix computes.
        batch_size: Images a batch.
        allocate: Makes room for the results.
        on_batch: Told of each batch that is done.

    Returns:
        For each tensor of the prefix, one with N rows, where ``allocate`` put it.

    Raises:
        DataError: There are no images.
    """
    if len(data) == 0:
        raise DataError("There are no images to encode.")
    room: Encoded = ()
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


def keep(
    prefix: Prefix,
    splits: Sequence[ImageData],
    cache: Cache,
    *,
    key: Callable[[ImageData], str],
    device: torch.device,
    batch_size: int = 64,
    on_batch: OnBatch = ignore,
) -> list[Encoded] | None:
    """Encode the splits and keep the results as ``cache`` says.

    Args:
        prefix: The frozen part; its modules must be in eval mode.
        splits: Splits of images.
        cache: Where to keep the results, and how much of them.
        key: What the results on disk go by; see ``marks.prefix_key``.
        device: Where the prefix computes.
        batch_size: Images a batch.
        on_batch: Told of each batch that is done.

    Returns:
        For each split its encoded tensors, on a GPU that has ample room and else on the CPU; None
        where there is no room for them, said by a :class:`CacheWarning`.

    Raises:
        ConfigError: ``cache`` is told to be in memory, and its budget is too small.
    """
    shapes = _shapes(prefix, splits[0], device)
    needed = sum(map(prod, shapes)) * cache.dtype.itemsize * sum(map(len, splits))
    fits = needed <= cache.memory_budget()
    if cache.where == "memory" and not fits:
        raise ConfigError(
            f"The cache needs {needed / 1e6:.1f} MB of memory, and its budget is "
            f"{cache.memory_budget() / 1e6:.1f} MB. Raise Cache(memory=...), or take "
            "cache='disk' or cache=None."
        )

    def run(data: ImageData, allocate: Allocate) -> Encoded:
        return encode(
            prefix,
            data,
            device=device,
            batch_size=batch_size,
            allocate=allocate,
            on_batch=on_batch,
        )

    if cache.where == "disk" or not fits:
        try:
            return [_on_disk(run, data, shapes, cache, key(data)) for data in splits]
        except OutputError as error:
            instead = "is kept in memory instead" if fits else "runs in every epoch"
            warnings.warn(f"{error} The frozen part {instead}.", CacheWarning, stacklevel=2)
    home = device if has_room(device, needed) else torch.device("cpu")
    return [run(data, partial(cache.allocate, home)) for data in splits] if fits else None


def _shapes(prefix: Prefix, data: ImageData, device: torch.device) -> list[tuple[int, ...]]:
    """The shape of each tensor that one image becomes."""
    with torch.inference_mode():
        return [tuple(part.shape[1:]) for part in prefix(data.batch([0]).to(device))]


def _on_disk(
    run: Callable[[ImageData, Allocate], Encoded],
    data: ImageData,
    shapes: Sequence[tuple[int, ...]],
    cache: Cache,
    key: str,
) -> Encoded:
    """What the store has under ``key``, computed if it has nothing."""
    store, key = cache.store(), f"{key}-{cache.precision}"
    arrays = store.get(key)
    if arrays is None:
        with store.writing(key, [((len(data), *s), cache.precision) for s in shapes]) as room:
            left = list(room)
            run(data, lambda shape, dtype: torch.from_numpy(left.pop(0)))
        arrays = store.get(key)
    if arrays is None:
        raise OutputError(f"The cache {store.folder} lost what was written to it.")
    return tuple(map(torch.from_numpy, arrays))


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
