"""Batches: which images or cached activations an epoch reads, in which order, on which device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from transferkit._format import describe
from transferkit._typing import Int64Array
from transferkit.data.augment import Augment, draws_per_image
from transferkit.data.disk_cache import CacheWarning
from transferkit.data.image_data import ImageData
from transferkit.errors import TrainingError
from transferkit.models.classifier import Classifier
from transferkit.models.device import autocast, effective, has_room, seeded
from transferkit.models.fast_layers import choose_formats
from transferkit.models.freezing import frozen_stages, frozen_tensors
from transferkit.models.frozen_prefix import Cut, cut_at_boundary
from transferkit.models.prefix_cache import (
    Job,
    Prefix,
    cache_named,
    images_at_once,
    keep,
    prefix_key,
    tensor_versions,
)
from transferkit.training.options import Augmentation, Options

Read: TypeAlias = Callable[[Int64Array], tuple[Tensor, ...]]
"""From the row numbers of a batch to its inputs, B rows each."""

Forward: TypeAlias = Callable[..., tuple[Tensor, ...]]
"""From the inputs of a batch to the main logits (B, K) and those of auxiliary heads."""

_HEAD_BATCH = 1024
"""Rows of features that are validated at once, where the head alone runs."""


@dataclass(frozen=True, slots=True, eq=False)
class Loader:
    """One split as an epoch sees it: N images or activations, and the way from them to logits."""

    read: Read
    labels: Int64Array
    forward: Forward
    eval_batch_size: int = 64

    def batch(self, rows: Int64Array, device: torch.device) -> tuple[tuple[Tensor, ...], Tensor]:
        """The inputs and the labels (B,) of a batch, on ``device``."""
        labels = torch.from_numpy(self.labels[rows])
        return tuple(_to(t, device) for t in self.read(rows)), _to(labels, device)


def reader_of_images(data: ImageData, device: torch.device) -> Read:
    """Read uint8 images (B, C, H, W): from a GPU where all of them fit, else from memory."""
    if not has_room(device, data.images.nbytes):
        return lambda rows: (data.batch(rows),)
    pixels = torch.as_tensor(np.ascontiguousarray(data.images), device=device)  # (N, H, W, C)
    return lambda rows: (_rows_of(pixels, rows).permute(0, 3, 1, 2),)


def reader_of_tensors(tensors: Sequence[Tensor]) -> Read:
    """Read rows of tensors computed before, such as features; each has one row per image."""
    return lambda rows: tuple(_rows_of(tensor, rows) for tensor in tensors)


def _rows_of(tensor: Tensor, rows: Int64Array) -> Tensor:
    return tensor.index_select(0, torch.from_numpy(rows).to(tensor.device))


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """Move without waiting: from pinned memory where the device is a GPU."""
    if tensor.device == device or device.type == "cpu":
        return tensor.to(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def ordered_batches(order: Int64Array, size: int) -> list[Int64Array]:
    """The row numbers ``order``, batch by batch."""
    return [order[start : start + size] for start in range(0, len(order), size)]


def shuffled_batches(count: int, batch_size: int, *, seed: int, epoch: int) -> list[Int64Array]:
    """The row numbers of each training batch of one epoch.

    The order follows from ``seed`` and ``epoch`` alone, so a resumed run goes on with the batches
    that it would have had. A last batch of one image joins the batch before it: batch norm cannot
    be trained on one image, and one image makes a noisy step.
    """
    order = np.random.default_rng([seed, epoch]).permutation(count).astype(np.int64)
    batches = ordered_batches(order, batch_size)
    if batch_size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def augmenter(augment: Augmentation) -> Callable[[Tensor], Tensor]:
    """A function that changes a uint8 batch (B, C, H, W) by numbers from torch's generator.

    What draws once for all images that it is given gets them one by one.
    """
    of_torchvision = type(augment).__module__.startswith("torchvision.transforms")
    whole: list[bool] = []  # whether a batch may be given at once, as the first one has shown

    def change(images: Tensor) -> Tensor:
        # in full precision: pixel positions in bfloat16 would be off by a pixel
        with torch.autocast(images.device.type, enabled=False):
            if isinstance(augment, Augment):
                return augment(images, torch.default_generator)
            if of_torchvision:  # some of these take single images (C, H, W) only
                changed = _joined([augment(image) for image in images], torch.stack)
            else:
                if not whole:
                    whole.append(draws_per_image(augment, images))
                pieces = [images] if whole[0] else [images[row, None] for row in range(len(images))]
                changed = _joined([augment(piece) for piece in pieces], torch.cat)
        if isinstance(changed, Tensor) and changed.ndim == 4 and len(changed) == len(images):
            return changed
        raise TrainingError(
            f"augment must return a tensor of {len(images)} images (B, C, H, W), "
            f"got {describe(changed)}."
        )

    return change


def _joined(made: list[object], join: Callable[[list[Tensor]], Tensor]) -> object:
    """What an augmentation made, as one tensor where it fits together."""
    tensors = [one for one in made if isinstance(one, Tensor)]
    fit = len(tensors) == len(made) and len({one.shape for one in tensors}) == 1
    return join(tensors) if fit else made


def augmented(forward: Forward, augment: Augmentation | None) -> Forward:
    """Augmentation, where there is any, and then ``forward``."""
    if augment is None:
        return forward
    change = augmenter(augment)
    return lambda images: forward(change(images))


def augmented_view(
    augment: Augmentation, prefix: Prefix, numbers: tuple[int, int], device: torch.device
) -> Prefix:
    """The frozen layers on augmented images, the same in every run with the same ``numbers``."""
    batches, change = count(1), augmenter(augment)

    def view(images: Tensor) -> tuple[Tensor, ...]:
        with seeded((*numbers, 2, next(batches)), device):
            changed = change(images)
        return prefix(changed)

    return view


class Loaders:
    """The loaders of a run, made anew when freezing, frozen weights or data change."""

    def __init__(self, model: Classifier, options: Options, device: torch.device) -> None:
        self._model = model
        self._options = options
        self._device = device
        self._cache = cache_named(options.cache)
        if options.augment is not None and self._cache and not self._cache.views:
            self._cache = None  # each epoch augments anew
        # with fallback_random, dropout draws the numbers that it would draw uncompiled
        self._compiled: Forward | None = None
        if options.compiled:
            self._compiled = torch.compile(model.outputs, options={"fallback_random": True})
        self._made_for: object = None
        self._splits: Sequence[ImageData] = ()  # held, so that their ids stay theirs
        self._train: list[Loader] = []
        self._val: list[Loader] = []

    def of(
        self, train: ImageData, val: ImageData | None, *, epoch: int
    ) -> tuple[Loader, Loader | None]:
        """The loaders of an epoch; the model must be in train mode, and frozen as in the epoch."""
        splits = [train] if val is None else [train, val]
        if self._made_for != self._facts(splits):
            self._train, self._val = [], []  # gives their memory free
            made = self._make(splits)
            views = len(made) - len(splits) + 1
            self._train, self._val = made[:views], made[views:]
            self._made_for, self._splits = self._facts(splits), splits
        loader = self._train[(epoch - 1) % len(self._train)]
        return loader, self._val[0] if self._val else None

    def _facts(self, splits: Sequence[ImageData]) -> object:
        return tensor_versions(frozen_tensors(self._model)), tuple(map(id, splits))

    def _make(self, splits: Sequence[ImageData]) -> list[Loader]:
        """The loaders of train (or of each of its views) and of val."""
        outputs = self._compiled or self._model.outputs
        if not frozen_stages(self._model):
            return self._of_images(splits, outputs)
        example = splits[0].batch(np.arange(min(3, len(splits[0])))).to(self._device)
        with autocast(self._options.precision, self._device):
            cut = cut_at_boundary(self._model, example)
        if isinstance(cut, Cut):
            cut = cut.folded(example)
            cached = self._of_activations(splits, cut)
            return cached or self._of_images(splits, self._compiled or self._in_parts(cut))
        if self._cache is not None:
            warnings.warn(
                f"The frozen layers run in every epoch: {cut}.", CacheWarning, stacklevel=2
            )
        return self._of_images(splits, outputs)

    def _of_images(self, splits: Sequence[ImageData], forward: Forward) -> list[Loader]:
        """Images through the whole model; only the first split is augmented."""
        size = images_at_once(self._model, 2 * self._options.batch_size, self._device)
        loaders = [
            Loader(
                reader_of_images(data, self._device), data.require_labels("Training"), forward, size
            )
            for data in splits
        ]
        loaders[0] = replace(loaders[0], forward=augmented(forward, self._options.augment))
        return loaders

    def _in_parts(self, cut: Cut) -> Forward:
        """The frozen layers on a few images at a time, the rest on the whole batch."""
        choose_formats(cut.frozen)
        prefix = self._prefix(cut)

        def outputs(images: Tensor) -> tuple[Tensor, ...]:
            few = images_at_once(self._model, len(images), self._device)
            parts = [prefix(images[i : i + few]) for i in range(0, len(images), few)]
            activations = [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
            return (cut.tail(*activations),)

        return outputs

    def _of_activations(self, splits: Sequence[ImageData], cut: Cut) -> list[Loader] | None:
        """Cached activations at the cut through the tail; None without a cache, or room in it."""
        if self._cache is None:
            return None
        jobs = self._jobs(cut, splits)
        images = sum(len(job.data) for job in jobs)
        hide = self._options.hide_bar
        with tqdm(total=images, desc="encoding", unit="image", leave=False, disable=hide) as bar:
            cached = keep(
                jobs,
                self._cache,
                device=self._device,
                batch_size=images_at_once(self._model, 64, self._device),
                on_batch=bar.update,
            )
        if cached is None:
            return None

        def tail(*activations: Tensor) -> tuple[Tensor, ...]:
            return (cut.tail(*activations),)

        size = _HEAD_BATCH if cut.stage == "head" else 2 * self._options.batch_size
        return [
            Loader(reader_of_tensors(tensors), job.data.require_labels("Training"), tail, size)
            for tensors, job in zip(cached, jobs, strict=True)
        ]

    def _jobs(self, cut: Cut, splits: Sequence[ImageData]) -> list[Job]:
        """What to cache: the train split, or each of its augmented views, and the val split."""
        prefix, augment = self._prefix(cut), self._options.augment
        jobs = [Job(prefix, data, partial(self._key, cut, data)) for data in splits]
        if augment is None or self._cache is None:
            return jobs
        views = []
        for number in range(self._cache.views):
            numbers = (self._options.seed, number)
            view = augmented_view(augment, prefix, numbers, self._device)
            key = partial(self._key, cut, splits[0], f"{augment!r} {numbers}")
            views.append(Job(view, splits[0], key if isinstance(augment, Augment) else None))
        return views + jobs[1:]

    def _prefix(self, cut: Cut) -> Prefix:
        def prefix(images: Tensor) -> tuple[Tensor, ...]:
            with autocast(self._options.precision, self._device):
                return cut.prefix(images)

        return prefix

    def _key(self, cut: Cut, data: ImageData, *how: str) -> str:
        facts = (cut.stage, effective(self._options.precision, self._device), self._device.type)
        return prefix_key(self._model, frozen_tensors(self._model), data, *facts, *how)
