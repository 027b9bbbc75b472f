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
from transferkit.data.dataset import ImageData
from transferkit.models.boundary import Cut, NoCut, cut_at_boundary
from transferkit.models.caching import cache_named
from transferkit.models.classifier import Classifier
from transferkit.models.encode import Prefix, keep
from transferkit.models.freezing import frozen_stages
from transferkit.models.marks import frozen, prefix_key, quick_mark
from transferkit.training.augmenting import augmented
from transferkit.training.device import autocast, effective
from transferkit.training.loader import Encoded, Feed, images_of
from transferkit.training.options import Options
from transferkit.training.progress import Progress


class Feeds:
    """Makes the feeds of a run, and makes them anew when freezing, weights or data change."""

    def __init__(self, model: Classifier, options: Options, device: torch.device) -> None:
        self._model = model
        self._options = options
        self._device = device
        self._cache = None if options.augment is not None else cache_named(options.cache)
        self._mark: object = None
        self._splits: Sequence[ImageData] = ()
        self._made: list[Feed] = []

    def of(
        self, train: ImageData, val: ImageData | None, progress: Progress
    ) -> tuple[Feed, Feed | None]:
        """The feeds of an epoch; the model is in train mode, frozen as it will be in the epoch.

        Raises:
            ConfigError: The cache was told to be in memory, and its budget is too small.
        """
        splits = [train] if val is None else [train, val]
        if self._mark != self._mark_of(splits):
            self._made = []
            self._made = self._cached(splits, progress) or self._plain(splits)
            self._mark, self._splits = self._mark_of(splits), splits
        return self._made[0], None if val is None else self._made[1]

    def _mark_of(self, splits: Sequence[ImageData]) -> object:
        return quick_mark(frozen(self._model)), tuple(map(id, splits))

    def _plain(self, splits: Sequence[ImageData]) -> list[Feed]:
        """Images, through the whole model; only the first split is augmented."""
        outputs, augment = self._model.outputs, self._options.augment
        feeds = [Feed(images_of(d, self._device), labels_of(d), outputs) for d in splits]
        if augment is not None:
            feeds[0] = replace(feeds[0], forward=augmented(outputs, augment))
        return feeds

    def _cached(self, splits: Sequence[ImageData], progress: Progress) -> list[Feed] | None:
        """What crosses the boundary, through the tail; None where there is no cut or no room."""
        if self._cache is None or not frozen_stages(self._model):
            return None
        example = splits[0].batch(np.arange(min(3, len(splits[0])))).to(self._device)
        with autocast(self._options.precision, self._device):
            cut = cut_at_boundary(self._model, example)
        if isinstance(cut, NoCut):
            warnings.warn(
                f"The frozen part runs in every epoch: {cut.reason}.", CacheWarning, stacklevel=2
            )
            return None
        with progress.encoding(sum(map(len, splits))) as on_batch:
            held = keep(
                self._autocasting(cut),
                splits,
                self._cache,
                key=partial(self._key, cut),
                device=self._device,
                batch_size=max(64, self._options.batch_size),
                on_batch=on_batch,
            )
        if held is None:
            return None
        return [
            Feed(Encoded(tensors), labels_of(data), lambda *crossing: (cut.tail(*crossing),))
            for tensors, data in zip(held, splits, strict=True)
        ]

    def _autocasting(self, cut: Cut) -> Prefix:
        def prefix(images: Tensor) -> tuple[Tensor, ...]:
            with autocast(self._options.precision, self._device):
                return cut.prefix(images)

        return prefix

    def _key(self, cut: Cut, data: ImageData) -> str:
        how = (cut.stage, effective(self._options.precision, self._device), self._device.type)
        return prefix_key(self._model, frozen(self._model), data, *how)


def labels_of(data: ImageData) -> Int64Array:
    """The labels, which were checked before."""
    return data.require_labels("Training")
