"""Random augmentation on the way into the network."""

from __future__ import annotations

import torch
from torch import Tensor

from transferkit.data.augment import Augment
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


def apply(augment: Augmentation, images: Tensor) -> Tensor:
    """Change a uint8 batch (B, C, H, W) at random."""
    if isinstance(augment, Augment):
        return augment(images, torch.default_generator)
    return augment(images)
