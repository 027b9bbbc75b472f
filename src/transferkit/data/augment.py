"""Random augmentation of batches, each image by its own numbers, on the device of the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from transferkit._validation import check_among, check_number
from transferkit.data.preprocess import LUMINANCE
from transferkit.errors import DataError

CALLS, COPIES = 16, 4
"""How often a function of images is tried, each time on so many copies of one image."""

ALIKE = 0.75
"""Share of the usual difference below which the images of one call are alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """Flip, turn, crop, and change brightness and contrast.

    The three moves are one resampling (bilinear, black outside), so that nothing is blurred twice.
    Brightness and contrast are torchvision's ``adjust_brightness`` and ``adjust_contrast``.

    Attributes:
        flip: Mirror half of the images left to right.
        rotation: Largest turn to either side, in degrees.
        crop: Smallest side of the crop as a share of the image's; 1 does not crop.
        brightness: Largest change of the factor on the pixels: 0.1 gives 0.9 to 1.1.
        contrast: Largest change of the factor on the distance from the image's mean.

    Example:
        >>> import torch
        >>> import transferkit as tk
        >>> augment = tk.Augment(flip=False, rotation=5)
        >>> images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
        >>> first = augment(images, torch.Generator().manual_seed(0))
        >>> first.shape, first.dtype
        (torch.Size([8, 3, 32, 32]), torch.uint8)
        >>> again = augment(images, torch.Generator().manual_seed(0))
        >>> torch.equal(first, again)
        True

        Most often a workflow does that: ``tk.fine_tune(model, splits, augment=tk.Augment())``.
    """

    flip: bool = True
    rotation: float = 10.0
    crop: float = 0.9
    brightness: float = 0.1
    contrast: float = 0.1

    def __post_init__(self) -> None:
        check_number("rotation", self.rotation, least=0, most=180)
        check_number("crop", self.crop, above=0, most=1)
        check_number("brightness", self.brightness, least=0, most=1)
        check_number("contrast", self.contrast, least=0, most=1)
        check_among("flip", self.flip, (True, False))

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment a batch.

        Args:
            images: uint8 (B, C, H, W), C being 1 or 3.
            generator: Where the numbers come from; the same state gives the same images.

        Returns:
            uint8 (B, C, H, W).

        Raises:
            DataError: Another type or shape.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise DataError(
                "Augmentation takes uint8 images (B, C, H, W), "
                f"got {images.dtype} {tuple(images.shape)}."
            )
        draws = torch.rand((len(images), 7), generator=generator, device=generator.device)
        draws = draws.to(images.device)
        values = self.move(images, draws[:, :5])
        values = self.expose(values, draws[:, 5:])
        if values.dtype == torch.uint8:
            return values
        return values.round_().clamp_(0, 255).to(torch.uint8)

    def move(self, images: Tensor, draws: Tensor) -> Tensor:
        """Flip, turn and crop by ``draws`` (B, 5) in [0, 1); float32 where it resamples."""
        mirrored = (draws[:, 0] < 0.5) & self.flip
        if self.rotation == 0 and self.crop == 1:
            return torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        angle = torch.deg2rad((2 * draws[:, 1] - 1) * self.rotation)
        side = self.crop + (1 - self.crop) * draws[:, 2]
        across = 2 * draws[:, 3] - 1
        down = 2 * draws[:, 4] - 1
        theta = affine(angle, side, mirrored, across, down, images.shape[-1] / images.shape[-2])
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        return functional.grid_sample(images.float(), grid, align_corners=False)

    def expose(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change brightness, then contrast, by ``draws`` (B, 2) in [0, 1)."""
        if self.brightness == 0 and self.contrast == 0:
            return images
        factors = 2 * draws - 1
        brightness = (1 + self.brightness * factors[:, 0]).view(-1, 1, 1, 1)
        contrast = (1 + self.contrast * factors[:, 1]).view(-1, 1, 1, 1)
        values = (images.float() * brightness).clamp_(0, 255)
        mean = luminance_mean(values)
        return mean + (values - mean) * contrast


def draws_per_image(augment: Callable[[Tensor], object], images: Tensor) -> bool:
    """Whether a function of a batch (B, C, H, W) draws its random numbers for each image anew.

    Tried on copies of a picture of noise: if it does, two copies of one call differ as much as
    copies of two calls. If it draws once for the batch, as torchvision's transforms do in whatever
    wrapping, they are alike, or at least nearer to each other where it also adds noise.
    """
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        one = torch.randint(0, 256, (1, *images.shape[1:]), dtype=torch.uint8).to(images.device)
        calls = [augment(one.repeat(COPIES, 1, 1, 1)) for _ in range(CALLS)]
    batches = [made for made in calls if isinstance(made, Tensor) and made.shape[:1] == (COPIES,)]
    if len(batches) < CALLS or len({made.shape for made in batches}) > 1:
        return True  # what comes back is no batch of images, which the caller will say
    values = torch.stack(batches).float().flatten(2)
    # half the mean squared difference of two rows is a variance
    within, overall = values.var(1).sum().item(), values.flatten(0, 1).var(0).sum().item()
    return within > 0 and within / CALLS >= ALIKE * overall


def affine(
    angle: Tensor, side: Tensor, mirrored: Tensor, across: Tensor, down: Tensor, aspect: float
) -> Tensor:
    """Return the (B, 2, 3) matrices for ``affine_grid``: output to input, in half sides.

    ``angle`` is counter-clockwise; ``across`` and ``down`` place the crop, from -1 to 1.
    """
    # The grid's x and y are in units of half the width and half the height, so a turn in pixels
    # mixes them by sin / aspect and sin * aspect. A crop of side s can move by 1 - s either way.
    cos, sin = torch.cos(angle) * side, torch.sin(angle) * side
    sign = torch.where(mirrored, -1.0, 1.0)
    free = 1 - side
    first = torch.stack([cos * sign, -sin / aspect, across * free], 1)
    second = torch.stack([sin * aspect * sign, cos, down * free], 1)
    return torch.stack([first, second], 1)


def luminance_mean(values: Tensor) -> Tensor:
    """Return each image's mean grey, (B, 1, 1, 1)."""
    means = values.mean((2, 3), keepdim=True)
    if means.shape[1] != 3:
        return means.mean(1, keepdim=True)
    weights = means.new_tensor(LUMINANCE).view(1, 3, 1, 1)
    return (means * weights).sum(1, keepdim=True)
