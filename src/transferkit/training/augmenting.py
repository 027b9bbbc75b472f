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
        if isinstance(augment, Augment):
            return forward(augment(images, torch.default_generator))
        return forward(augment(images))

    return outputs
