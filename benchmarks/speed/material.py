"""The same images, network and batches for every side but ours, which brings its own."""

from __future__ import annotations

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, default_collate
from torchvision.transforms import v2

from speed.task import BATCH_SIZE, CLASSES, HEADS, LAST_STAGE, Task

Batches = DataLoader[tuple[Tensor, ...]]


def arrays(pixels: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey noise with a class-dependent patch: speed does not depend on what is seen.

    Returns:
        uint8 (N, H, W, 1) and the labels (N,).
    """
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, pixels, pixels, 1), dtype=np.uint8)
    labels = np.arange(count) % CLASSES
    images[labels == 1, : pixels // 4] //= 2
    return images, labels


def datasets(task: Task) -> tuple[TensorDataset, TensorDataset]:
    """Training and val images as the course keeps them: float32 (3, H, W) in memory."""
    train = as_tensors(*arrays(task.pixels, task.images, 0))
    return train, as_tensors(*arrays(task.pixels, task.held_out, 1))


def as_tensors(images: np.ndarray, labels: np.ndarray) -> TensorDataset:
    """Three equal channels in [0, 1]."""
    grey = torch.from_numpy(images).permute(0, 3, 1, 2)
    return TensorDataset(grey.expand(-1, 3, -1, -1).float().div_(255), torch.from_numpy(labels))


def loaders(task: Task) -> tuple[Batches, Batches]:
    """Shuffled training batches, changed at random where the work asks for it, and val batches."""
    train, val = datasets(task)
    changed = changing(task)

    def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        images, labels = default_collate(samples)
        return changed(images), labels

    batches = DataLoader(
        train, BATCH_SIZE, shuffle=True, collate_fn=collate if task.augmented else None
    )
    return batches, DataLoader(val, BATCH_SIZE)


def changing(task: Task) -> v2.Compose:
    """Flip and crop a whole batch by one draw, which costs next to nothing on any side."""
    crop = v2.RandomCrop(task.pixels, padding=task.pixels // 16)
    return v2.Compose([v2.RandomHorizontalFlip(), crop])


def network(task: Task) -> nn.Module:
    """The torchvision network with a new last layer, frozen as the course does it."""
    made: nn.Module = torchvision.models.get_model(task.backbone, weights=None, num_classes=CLASSES)
    first = {"all": ("",), "head": (HEADS[task.backbone],), "last stage": LAST_STAGE[task.backbone]}
    for name, parameter in made.named_parameters():
        parameter.requires_grad = name.startswith(first[task.trained])
    return made


def learning(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
