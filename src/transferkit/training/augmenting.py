"""Random augmentation on the way into the network."""

from __future__ import annotations

import torch
from torch import Tensor

from transferkit.data.augment import Augment
from transferkit.data.given import described
from transferkit.errors import TrainingError
from transferkit.models.encode import Prefix
from transferkit.training.device import seeded
from transferkit.training.loader import Forward
from transferkit.training.options import Augmentation


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
        f"augment must return a tensor of {count} images (B, C, H, W), got {described(changed)}."
    )
