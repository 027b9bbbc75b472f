"""Random views of a batch: pose, side, exposure, blur and noise, each image with its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def augment(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Turn uint8 images (B, 1, H, W) into float views (B, 1, side, side) in about [0, 1].

    Random draws come from ``generator`` (on the CPU) only.
    """
    count = len(images)
    grid = functional.affine_grid(poses(count, generator), [count, 1, side, side], False)
    floats = images.float() / 255
    if floats.shape[-1] > 1.5 * side:
        floats = functional.interpolate(floats, scale_factor=0.5, mode="area")
    views = functional.grid_sample(
        floats, grid.to(images.device), padding_mode="reflection", align_corners=False
    )
    return expose(blur(views, generator), generator)


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw ``count`` numbers from [low, high)."""
    return torch.rand(count, generator=generator) * (high - low) + low


def poses(count: int, generator: torch.Generator) -> Tensor:
    """Random affine maps (B, 2, 3): crop, aspect, turn by up to 25 degrees, flip."""
    scale = uniform(count, 0.55, 1.1, generator)
    aspect = torch.exp(uniform(count, -0.2, 0.2, generator))
    angle = uniform(count, -1, 1, generator) * math.radians(25)
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    free = (1 - scale).clamp(min=0.05)
    shift = torch.stack([uniform(count, -1, 1, generator) * free for _ in range(2)], 1)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [cos * flip * aspect, -sin / aspect, sin * flip * aspect, cos / aspect]
    turn = torch.stack(rows, 1).reshape(count, 2, 2)
    return torch.cat([turn, shift[..., None]], 2)


def blur(views: Tensor, generator: torch.Generator) -> Tensor:
    """Send a random third of the batch through a coarser grid and back."""
    count, side = len(views), views.shape[-1]
    coarse = max(12, int(side * float(uniform(1, 0.3, 0.8, generator))))
    some = count // 3
    small = functional.interpolate(views[:some], size=coarse, mode="area")
    soft = functional.interpolate(small, size=side, mode="bilinear", align_corners=False)
    return torch.cat([soft, views[some:]])


def expose(views: Tensor, generator: torch.Generator) -> Tensor:
    """Random gamma, contrast, brightness, inversion (one in four) and noise (one in two)."""
    count = len(views)

    def draw(low: float, high: float) -> Tensor:
        return uniform(count, low, high, generator).to(views.device)[:, None, None, None]

    views = views.clamp(0, 1) ** torch.exp(draw(-0.5, 0.5))
    views = torch.where(draw(0, 1) < 0.25, 1 - views, views)
    views = (views - 0.5) * draw(0.4, 1.1) + 0.5 + draw(-0.15, 0.15)
    strength = (draw(-0.1, 0.1)).clamp(min=0)
    return views + strength * torch.randn(views.shape, generator=generator).to(views.device)
