"""What the loop reads: the images, or, once computed, what the frozen part makes of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from transferkit._typing import Int64Array
from transferkit.data.arraystore import CacheWarning
from transferkit.data.augment import Augment
from transferkit.data.dataset import ImageData
from transferkit.models.boundary import Cut, cut_at_boundary
from transferkit.models.caching import Cache, cache_named
from transferkit.models.classifier import Classifier
from transferkit.models.encode import Job, Prefix, images_at_once, keep
from transferkit.models.fold import Fold, fold_batch_norms
from transferkit.models.freezing import frozen_stages
from transferkit.models.marks import frozen, prefix_key, quick_mark
from transferkit.training.augmenting import View, augmented
from transferkit.training.device import autocast, effective
from transferkit.training.loader import Encoded, Feed, Forward, images_of
from transferkit.training.options import Options
from transferkit.training.progress import Progress

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
        fold = fold_batch_norms(self._model, example)
        with autocast(self._options.precision, self._device):
            cut = cut_at_boundary(self._model, example)
        if isinstance(cut, Cut):
            kept = self._of_crossing(splits, cut, fold, progress)
            return kept or self._of_images(splits, self._compiled or self._in_parts(cut, fold))
        if self._cache is not None:
            warnings.warn(
                f"The frozen part runs in every epoch: {cut.reason}.", CacheWarning, stacklevel=2
            )
        return self._of_images(splits, self._compiled or folded(self._model.outputs, fold))

    def _of_images(self, splits: Sequence[ImageData], forward: Forward) -> list[Feed]:
        """Images, through the whole model; only the first split is augmented."""
        augment = self._options.augment
        few = images_at_once(self._model, 2 * self._options.batch_size, self._device)
        feeds = [Feed(images_of(d, self._device), labels_of(d), forward, few) for d in splits]
        if augment is not None:
            feeds[0] = replace(feeds[0], forward=augmented(forward, augment))
        return feeds

    def _in_parts(self, cut: Cut, fold: Fold) -> Forward:
        """The frozen part on a few images at a time, the rest on the whole batch."""
        prefix = self._prefix(cut, fold)

        def outputs(images: Tensor) -> tuple[Tensor, ...]:
            few = images_at_once(self._model, len(images), self._device)
            parts = [prefix(images[i : i + few]) for i in range(0, len(images), few)]
            crossing = [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
            return (cut.tail(*crossing),)

        return outputs

    def _of_crossing(
        self, splits: Sequence[ImageData], cut: Cut, fold: Fold, progress: Progress
    ) -> list[Feed] | None:
        """What crosses the boundary, through the tail; None without a cache or room in it."""
        if self._cache is None:
            return None
        jobs = self._jobs(cut, fold, splits)
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

    def _jobs(self, cut: Cut, fold: Fold, splits: Sequence[ImageData]) -> list[Job]:
        """The train split, or each of its augmented views, and the val split."""
        prefix, augment = self._prefix(cut, fold), self._options.augment
        if augment is None or self._cache is None:
            return [Job(prefix, data, partial(self._key, cut, data)) for data in splits]
        train, *others = splits
        views = []
        for number in range(self._cache.views):
            view = View(augment, prefix, self._options.seed, number, self._device)
            key = partial(self._key, cut, train, view.name)
            views.append(Job(view, train, key if isinstance(augment, Augment) else None))
        return views + [Job(prefix, data, partial(self._key, cut, data)) for data in others]

    def _prefix(self, cut: Cut, fold: Fold) -> Prefix:
        def prefix(images: Tensor) -> tuple[Tensor, ...]:
            with autocast(self._options.precision, self._device), fold.applied():
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


def folded(forward: Forward, fold: Fold) -> Forward:
    """``forward`` with the batch norms of the frozen part folded."""

    def outputs(images: Tensor) -> tuple[Tensor, ...]:
        with fold.applied():
            return forward(images)

    return outputs


def labels_of(data: ImageData) -> Int64Array:
    """The labels, which were checked before."""
    return data.require_labels("Training")


def _cache_of(options: Options) -> Cache | None:
    """The cache of a run; augmented images are kept only where views of them were asked for."""
    cache = cache_named(options.cache)
    return None if options.augment is not None and cache and not cache.views else cache
