"""Batches by index: what an epoch reads, in which order, and its way to the device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from transferkit._format import describe
from transferkit._typing import Int64Array
from transferkit.data.augment import Augment
from transferkit.data.disk_cache import CacheWarning
from transferkit.data.image_data import ImageData
from transferkit.errors import TrainingError
from transferkit.models.classifier import Classifier
from transferkit.models.device import autocast, effective, has_room, seeded
from transferkit.models.freezing import frozen_stages
from transferkit.models.frozen_prefix import Cut, cut_at_boundary
from transferkit.models.memory_format import choose_formats
from transferkit.models.prefix_cache import (
    Cache,
    Job,
    Prefix,
    cache_named,
    frozen,
    images_at_once,
    keep,
    prefix_key,
    quick_mark,
)
from transferkit.training.options import Augmentation, Options
from transferkit.training.progress import Progress

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

    def batch(self, rows: Int64Array, device: torch.device) -> tuple[tuple[Tensor, ...], Tensor]:
        """The inputs and the labels (B,) of a batch, on ``device``."""
        labels = torch.from_numpy(self.labels[rows])
        return tuple(_to(t, device) for t in self.inputs.batch(rows)), _to(labels, device)


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


def augmented(forward: Forward, augment: Augmentation) -> Forward:
    """Put ``augment`` before ``forward``; its random numbers are torch's own, seeded by the run."""

    def outputs(images: Tensor) -> tuple[Tensor, ...]:
        # in full precision: pixel positions in bfloat16 would be off by a pixel
        with torch.autocast(images.device.type, enabled=False):
            changed = apply(augment, images)
        return forward(changed)

    return outputs


class View:
    """One augmented view of a split: the frozen part, on images changed by numbers of its own.

    Made batch by batch, in the order of the images, each view once.
    """

    def __init__(
        self, augment: Augmentation, prefix: Prefix, seed: int, number: int, device: torch.device
    ) -> None:
        self._augment = augment
        self._prefix = prefix
        self._numbers = (seed, number)
        self._device = device
        self._batches = 0

    @property
    def name(self) -> str:
        """What the view depends on besides the images."""
        return f"{self._augment!r} {self._numbers}"

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Change a batch at random, and run the frozen part on it."""
        self._batches += 1
        with seeded((*self._numbers, 2, self._batches), self._device):
            changed = apply(self._augment, images)
        return self._prefix(changed)


def apply(augment: Augmentation, images: Tensor) -> Tensor:
    """Change a uint8 batch (B, C, H, W) at random.

    Raises:
        TrainingError: A function of the user's does not return a batch of as many images.
    """
    if isinstance(augment, Augment):
        return augment(images, torch.default_generator)
    return _as_many(augment(images), len(images))


def _as_many(changed: object, count: int) -> Tensor:
    if isinstance(changed, Tensor) and changed.ndim == 4 and len(changed) == count:
        return changed
    raise TrainingError(
        f"augment must return a tensor of {count} images (B, C, H, W), got {describe(changed)}."
    )


_HEADS_AT_ONCE = 1024
"""Features that a head judges at once."""


class Feeds:
    """Makes the feeds of a run, and makes them anew when freezing, weights or data change."""

    def __init__(self, model: Classifier, options: Options, device: torch.device) -> None:
        self._model = model
        self._options = options
        self._device = device
        self._cache = _cache_of(options)
        self._compiled = compiled(model.outputs) if options.compiled else None
        self._mark: object = None
        self._splits: Sequence[ImageData] = ()
        self._train: list[Feed] = []
        self._val: list[Feed] = []

    def of(
        self, train: ImageData, val: ImageData | None, progress: Progress, *, epoch: int
    ) -> tuple[Feed, Feed | None]:
        """The feeds of an epoch; the model is in train mode, frozen as it will be in the epoch.

        Raises:
            ConfigError: The cache was told to be in memory, and its budget is too small.
        """
        splits = [train] if val is None else [train, val]
        if self._mark != self._mark_of(splits):
            self._train, self._val = [], []
            made = self._made(splits, progress)
            views = len(made) - len(splits) + 1
            self._train, self._val = made[:views], made[views:]
            self._mark, self._splits = self._mark_of(splits), splits
        feed = self._train[(epoch - 1) % len(self._train)]
        return feed, self._val[0] if self._val else None

    def _mark_of(self, splits: Sequence[ImageData]) -> object:
        return quick_mark(frozen(self._model)), tuple(map(id, splits))

    def _made(self, splits: Sequence[ImageData], progress: Progress) -> list[Feed]:
        """The feeds of train, or of each of its views, and of val."""
        if not frozen_stages(self._model):
            return self._of_images(splits, self._compiled or self._model.outputs)
        example = splits[0].batch(np.arange(min(3, len(splits[0])))).to(self._device)
        with autocast(self._options.precision, self._device):
            cut = cut_at_boundary(self._model, example)
        if isinstance(cut, Cut):
            cut = cut.folded(example)
            kept = self._of_crossing(splits, cut, progress)
            return kept or self._of_images(splits, self._compiled or self._in_parts(cut))
        if self._cache is not None:
            warnings.warn(
                f"The frozen part runs in every epoch: {cut.reason}.", CacheWarning, stacklevel=2
            )
        return self._of_images(splits, self._compiled or self._model.outputs)

    def _of_images(self, splits: Sequence[ImageData], forward: Forward) -> list[Feed]:
        """Images, through the whole model; only the first split is augmented."""
        augment = self._options.augment
        few = images_at_once(self._model, 2 * self._options.batch_size, self._device)
        feeds = [Feed(images_of(d, self._device), labels_of(d), forward, few) for d in splits]
        if augment is not None:
            feeds[0] = replace(feeds[0], forward=augmented(forward, augment))
        return feeds

    def _in_parts(self, cut: Cut) -> Forward:
        """The frozen part on a few images at a time, the rest on the whole batch."""
        choose_formats(cut.frozen)
        prefix = self._prefix(cut)

        def outputs(images: Tensor) -> tuple[Tensor, ...]:
            few = images_at_once(self._model, len(images), self._device)
            parts = [prefix(images[i : i + few]) for i in range(0, len(images), few)]
            crossing = [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
            return (cut.tail(*crossing),)

        return outputs

    def _of_crossing(
        self, splits: Sequence[ImageData], cut: Cut, progress: Progress
    ) -> list[Feed] | None:
        """What crosses the boundary, through the tail; None without a cache or room in it."""
        if self._cache is None:
            return None
        jobs = self._jobs(cut, splits)
        with progress.encoding(sum(len(job.data) for job in jobs)) as on_batch:
            held = keep(
                jobs,
                self._cache,
                device=self._device,
                batch_size=images_at_once(self._model, 64, self._device),
                on_batch=on_batch,
            )
        if held is None:
            return None
        many = _HEADS_AT_ONCE if cut.stage == "head" else 2 * self._options.batch_size
        return [
            Feed(Encoded(tensors), labels_of(job.data), tail_of(cut), many)
            for tensors, job in zip(held, jobs, strict=True)
        ]

    def _jobs(self, cut: Cut, splits: Sequence[ImageData]) -> list[Job]:
        """The train split, or each of its augmented views, and the val split."""
        prefix, augment = self._prefix(cut), self._options.augment
        if augment is None or self._cache is None:
            return [Job(prefix, data, partial(self._key, cut, data)) for data in splits]
        train, *others = splits
        views = []
        for number in range(self._cache.views):
            view = View(augment, prefix, self._options.seed, number, self._device)
            key = partial(self._key, cut, train, view.name)
            views.append(Job(view, train, key if isinstance(augment, Augment) else None))
        return views + [Job(prefix, data, partial(self._key, cut, data)) for data in others]

    def _prefix(self, cut: Cut) -> Prefix:
        def prefix(images: Tensor) -> tuple[Tensor, ...]:
            with autocast(self._options.precision, self._device):
                return cut.prefix(images)

        return prefix

    def _key(self, cut: Cut, data: ImageData, *how: str) -> str:
        facts = (cut.stage, effective(self._options.precision, self._device), self._device.type)
        return prefix_key(self._model, frozen(self._model), data, *facts, *how)


def compiled(forward: Forward) -> Forward:
    """``forward`` through ``torch.compile``; dropout draws the numbers that it would without."""
    result: Forward = torch.compile(forward, options={"fallback_random": True})
    return result


def tail_of(cut: Cut) -> Forward:
    """What learns, from what crosses to logits."""

    def outputs(*crossing: Tensor) -> tuple[Tensor, ...]:
        return (cut.tail(*crossing),)

    return outputs


def labels_of(data: ImageData) -> Int64Array:
    """The labels, which were checked before."""
    return data.require_labels("Training")


def _cache_of(options: Options) -> Cache | None:
    """The cache of a run; augmented images are kept only where views of them were asked for."""
    cache = cache_named(options.cache)
    return None if options.augment is not None and cache and not cache.views else cache
