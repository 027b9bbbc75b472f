"""Running every image of a split once through a frozen part, into memory or onto the disk."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from transferkit._options import check_whole
from transferkit.data.arraystore import CacheWarning
from transferkit.data.dataset import ImageData
from transferkit.errors import ConfigError, DataError, OutputError
from transferkit.models.caching import Cache
from transferkit.models.classifier import Classifier
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


PIXELS_AT_ONCE = 2**18
"""Pixels of input that a CPU runs a frozen part on at once: 4 images of 256 x 256, 16 of 128 x 128.

The maps of more do not stay in its cache, and go through main memory from layer to layer.
"""


def images_at_once(model: Classifier, most: int, device: torch.device) -> int:
    """How many images to run through ``model`` at once where nothing is learnt from them.

    Args:
        model: The classifier.
        most: As many at the most.
        device: Where it computes; only on a CPU are fewer better.

    Raises:
        ConfigError: ``most`` is not a whole number from 1.
    """
    check_whole("batch_size", most, least=1)
    height, width = model.preprocess.image_size
    few = max(1, PIXELS_AT_ONCE // (height * width))
    return min(most, few) if device.type == "cpu" else most


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
    check_whole("batch_size", batch_size, least=1)
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


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A split, and what is to be made of it.

    Attributes:
        prefix: The frozen part; its modules must be in eval mode.
        data: The split.
        key: What the result goes by on disk; see ``marks.prefix_key``. None where nothing says
            what the prefix does, so that the result cannot be found again.
    """

    prefix: Prefix
    data: ImageData
    key: Callable[[], str] | None


def keep(
    jobs: Sequence[Job],
    cache: Cache,
    *,
    device: torch.device,
    batch_size: int = 64,
    on_batch: OnBatch = ignore,
) -> list[Encoded] | None:
    """Encode some splits and keep the results as ``cache`` says.

    Args:
        jobs: What is to be made of which images; each image becomes as many numbers in all.
        cache: Where to keep the results, and how much of them.
        device: Where the prefixes compute.
        batch_size: Images a batch.
        on_batch: Told of each batch that is done.

    Returns:
        For each job the encoded tensors, on a GPU that has ample room and else on the CPU; None
        where there is no room for them, said by a :class:`CacheWarning`.

    Raises:
        ConfigError: ``cache`` is told to be in memory, and its budget is too small; or on disk,
            and a job has no key.
    """
    shapes = _shapes(jobs[0], device)
    needed = sum(map(prod, shapes)) * cache.dtype.itemsize * sum(len(job.data) for job in jobs)
    fits, named = needed <= cache.memory_budget(), all(job.key for job in jobs)
    _check_room(cache, needed, fits=fits, named=named)

    def run(job: Job, allocate: Allocate) -> Encoded:
        return encode(
            job.prefix,
            job.data,
            device=device,
            batch_size=batch_size,
            allocate=allocate,
            on_batch=on_batch,
        )

    if named and (cache.where == "disk" or not fits):
        try:
            return [_on_disk(run, job, shapes, cache) for job in jobs]
        except OutputError as error:
            instead = "is kept in memory instead" if fits else "runs in every epoch"
            warnings.warn(f"{error} The frozen part {instead}.", CacheWarning, stacklevel=2)
    home = device if has_room(device, needed) else torch.device("cpu")
    return [_in_memory(run, job, cache, home) for job in jobs] if fits else None


def _check_room(cache: Cache, needed: int, *, fits: bool, named: bool) -> None:
    """Raise where ``cache`` asks for what cannot be; warn where it leaves the choice."""
    where = (
        f"The cache needs {needed / 1e6:.1f} MB of memory, and its budget is "
        f"{cache.memory_budget() / 1e6:.1f} MB."
    )
    if cache.where == "memory" and not fits:
        raise ConfigError(f"{where} Raise Cache(memory=...), or take cache='disk' or cache=None.")
    if cache.where == "disk" and not named:
        raise ConfigError(
            "What a function of your own makes of the images cannot be found again on disk; give "
            "augment an Augment, or take cache='memory'."
        )
    if not fits and not named:
        warnings.warn(f"{where} The frozen part runs in every epoch.", CacheWarning, stacklevel=3)


def _shapes(job: Job, device: torch.device) -> list[tuple[int, ...]]:
    """The shape of each tensor that one image becomes."""
    with torch.inference_mode():
        return [tuple(part.shape[1:]) for part in job.prefix(job.data.batch([0]).to(device))]


def _in_memory(
    run: Callable[[Job, Allocate], Encoded], job: Job, cache: Cache, home: torch.device
) -> Encoded:
    """What the cache holds of this job, computed if it holds nothing or shares nothing."""
    if cache.held is None or job.key is None:
        return run(job, partial(cache.allocate, home))
    key = f"{job.key()}-{cache.precision}-{home}"
    found = cache.held.get(key)
    if found is None:
        found = run(job, partial(cache.allocate, home))
        cache.held.put(key, found, cache.memory_budget())
    return found


def _on_disk(
    run: Callable[[Job, Allocate], Encoded],
    job: Job,
    shapes: Sequence[tuple[int, ...]],
    cache: Cache,
) -> Encoded:
    """What the store has of this job, computed if it has nothing."""
    assert job.key is not None  # the caller has seen to it
    store, key = cache.store(), f"{job.key()}-{cache.precision}"
    arrays = store.get(key)
    if arrays is None:
        with store.writing(key, [((len(job.data), *s), cache.precision) for s in shapes]) as room:
            left = list(room)
            run(job, lambda shape, dtype: torch.from_numpy(left.pop(0)))
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
