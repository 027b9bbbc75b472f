"""Batches by index: what an epoch reads, in which order, and its way to the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from transferkit._typing import Int64Array
from transferkit.data.dataset import ImageData
from transferkit.models.device import has_room

Forward: TypeAlias = Callable[..., tuple[Tensor, ...]]
"""The inputs of a batch, to the main logits (B, K) and those of auxiliary heads."""


class Inputs(Protocol):
    """What goes into the network: images, or tensors that were computed from them before."""

    def __len__(self) -> int:
        """The number of samples."""
        ...

    def batch(self, rows: Int64Array) -> tuple[Tensor, ...]:
        """The samples at ``rows``, stacked."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Images as they lie in memory: uint8, taken by fancy indexing, never collated one by one."""

    data: ImageData

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, rows: Int64Array) -> tuple[Tensor, ...]:
        """The images at ``rows``, uint8 (B, C, H, W)."""
        return (self.data.batch(rows),)


@dataclass(frozen=True, slots=True, eq=False)
class ResidentImages:
    """Images that lie on the GPU, so that no batch has to travel there.

    Attributes:
        pixels: uint8 (N, H, W, C).
    """

    pixels: Tensor

    @classmethod
    def of(cls, data: ImageData, device: torch.device) -> ResidentImages:
        """Copy all images of ``data`` to ``device``."""
        return cls(torch.as_tensor(np.ascontiguousarray(data.images), device=device))

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, rows: Int64Array) -> tuple[Tensor, ...]:
        """The images at ``rows``, uint8 (B, C, H, W), channels last in memory."""
        index = torch.from_numpy(rows).to(self.pixels.device)
        return (self.pixels.index_select(0, index).permute(0, 3, 1, 2),)


def images_of(data: ImageData, device: torch.device) -> Inputs:
    """The images of a split as inputs; they move to a GPU that has ample room for them."""
    if has_room(device, data.images.nbytes):
        return ResidentImages.of(data, device)
    return Images(data)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Tensors computed before, such as features; each has one row a sample."""

    tensors: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def batch(self, rows: Int64Array) -> tuple[Tensor, ...]:
        """The rows of each tensor."""
        index = torch.from_numpy(rows)
        return tuple(t.index_select(0, index.to(t.device)) for t in self.tensors)


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """One split as the loop sees it.

    Attributes:
        inputs: What goes in.
        labels: Class numbers (N,).
        forward: From the inputs of a batch to logits.
        at_once: Samples of a batch that nothing is learnt from.
    """

    inputs: Inputs
    labels: Int64Array
    forward: Forward
    at_once: int = 64

    def batches(
        self, plan: Sequence[Int64Array], device: torch.device
    ) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """The inputs and labels of each batch of the ``plan``, on ``device``."""
        for rows in plan:
            labels = torch.from_numpy(self.labels[rows])
            yield tuple(_to(t, device) for t in self.inputs.batch(rows)), _to(labels, device)


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """Move without waiting: from pinned memory where the device is a GPU."""
    if tensor.device == device or device.type == "cpu":
        return tensor.to(device)
    pinned = (
        tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
    )
    return pinned.to(device, non_blocking=True)


def shuffled_plan(count: int, batch_size: int, *, seed: int, epoch: int) -> list[Int64Array]:
    """The rows of each training batch of one epoch.

    The order follows from ``seed`` and ``epoch`` alone, so a resumed run goes on with the batches
    that it would have had. A last batch of one sample joins the batch before it: batch norm cannot
    be trained on one sample, and one sample makes a noisy step.
    """
    order = np.random.default_rng([seed, epoch]).permutation(count).astype(np.int64)
    plan = _cut(order, batch_size)
    if batch_size > 1 and len(plan) > 1 and len(plan[-1]) == 1:
        plan[-2:] = [np.concatenate(plan[-2:])]
    return plan


def batches_of(count: int, batch_size: int) -> int:
    """The number of training batches of an epoch."""
    full, rest = divmod(count, batch_size)
    return full + (rest > 1 or (rest == 1 and full == 0))


def plain_plan(count: int, batch_size: int) -> list[Int64Array]:
    """The rows of each batch, in the order of the data."""
    return _cut(np.arange(count, dtype=np.int64), batch_size)


def _cut(order: Int64Array, size: int) -> list[Int64Array]:
    return [order[start : start + size] for start in range(0, len(order), size)]
