"""Running the frozen part once over every split, into memory or onto the disk."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from transferkit.data.dataset import ImageData
from transferkit.errors import ConfigError, OutputError
from transferkit.models.boundary import Cut
from transferkit.models.classifier import Classifier
from transferkit.models.encode import Allocate, encode
from transferkit.training.caching import Cache, CacheWarning
from transferkit.training.device import autocast
from transferkit.training.marks import prefix_key
from transferkit.training.options import Precision
from transferkit.training.progress import Progress

Crossing: TypeAlias = tuple[Tensor, ...]
"""What crosses the boundary, one row an image."""

_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """The frozen part, and how it is run.

    Attributes:
        model: The classifier, in train mode.
        cut: Where it is cut.
        precision: Of the forward pass.
        device: Where the model is.
        progress: Shows how far it is.
    """

    model: Classifier
    cut: Cut
    precision: Precision
    device: torch.device
    progress: Progress

    def shapes(self, data: ImageData) -> list[tuple[int, ...]]:
        """The shape of each tensor that one image becomes."""
        with autocast(self.precision, self.device):
            parts = self.cut.prefix(data.batch(np.arange(1)).to(self.device))
        return [tuple(part.shape[1:]) for part in parts]

    def run(self, data: ImageData, allocate: Allocate) -> Crossing:
        """Encode every image of ``data``."""
        with (
            self.progress.encoding(len(data)) as on_batch,
            autocast(self.precision, self.device),
        ):
            return encode(
                self.cut.prefix,
                data,
                device=self.device,
                batch_size=_BATCH,
                allocate=allocate,
                on_batch=on_batch,
            )


def keep(encoder: Encoder, splits: Sequence[ImageData], cache: Cache) -> list[Crossing] | None:
    """Encode the splits and keep them as ``cache`` says; None where there is no room for them.

    Raises:
        ConfigError: ``cache`` is told to be in memory, and its budget is too small.
    """
    shapes = encoder.shapes(splits[0])
    needed = sum(map(prod, shapes)) * cache.dtype.itemsize * sum(map(len, splits))
    fits = needed <= cache.memory_budget()
    if cache.where == "memory" and not fits:
        raise ConfigError(
            f"The cache needs {needed / 1e6:.1f} MB of memory, and its budget is "
            f"{cache.memory_budget() / 1e6:.1f} MB. Raise Cache(memory=...), or take "
            "cache='disk' or cache=None."
        )
    if cache.where == "disk" or not fits:
        try:
            return [_on_disk(encoder, data, cache, shapes) for data in splits]
        except OutputError as error:
            instead = "is kept in memory instead" if fits else "runs in every epoch"
            warnings.warn(f"{error} The frozen part {instead}.", CacheWarning, stacklevel=2)
    return [_in_memory(encoder, data, cache) for data in splits] if fits else None


def _in_memory(encoder: Encoder, data: ImageData, cache: Cache) -> Crossing:
    def allocate(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=cache.dtype if dtype.is_floating_point else dtype)

    return encoder.run(data, allocate)


def _on_disk(
    encoder: Encoder, data: ImageData, cache: Cache, shapes: Sequence[tuple[int, ...]]
) -> Crossing:
    """What the store has under the key of these weights and images, computed if it has nothing."""
    store = cache.store()
    key = prefix_key(encoder.model, data, cache.precision, encoder.precision, encoder.device.type)
    arrays = store.get(key)
    if arrays is None:
        with store.writing(key, [((len(data), *s), cache.precision) for s in shapes]) as room:
            left = list(room)
            encoder.run(data, lambda shape, dtype: torch.from_numpy(left.pop(0)))
        arrays = store.get(key)
    if arrays is None:
        raise OutputError(f"The cache {store.folder} lost what was written to it.")
    return tuple(map(torch.from_numpy, arrays))
