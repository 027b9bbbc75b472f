"""Preparing stored images for a backbone: size, channels and normalisation, on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from transferkit._format import describe, plain_fields
from transferkit._typing import JSON
from transferkit._validation import check_among, check_whole, to_sides
from transferkit.data.image_decoding import Reading
from transferkit.errors import ConfigError, DataError

Interpolation: TypeAlias = Literal["bilinear", "bicubic"]
Statistic: TypeAlias = Literal["mean", "std"]

LUMINANCE = (0.2989, 0.587, 0.114)
"""Grey from red, green and blue: ITU-R BT.601, with torchvision's digits."""

SLACK = 0.25
"""How far outside [0, 1] floats may lie: less than any image in 0..255 or any normalised one."""


class Preprocess(nn.Module):
    """Resize with antialiasing, bring to the network's channels, subtract mean, divide by std.

    Equal to torchvision's ``to_dtype(float32, scale=True)``, ``resize(antialias=True)`` and
    ``normalize`` in that order.

    Attributes:
        image_size: Height and width that come out.
        in_channels: Channels that come out.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
        statistics: Mean and std as passed, in double precision.
        reading: How the files of the training images were read, before they came here; None where
            that is not known. :func:`~transferkit.predict` reads files in the same way.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        in_channels: int = 3,
        interpolation: Interpolation = "bilinear",
        reading: Mapping[str, Any] | None = None,
    ) -> None:
        """Take mean and std of [0, 1] pixels, one for each channel or one for all."""
        super().__init__()
        check_whole("in_channels", in_channels, least=1)
        check_among("interpolation", interpolation, get_args(Interpolation))
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, in_channels):
                raise ConfigError(f"{name} must have 1 or {in_channels} values, got {len(values)}.")
        if not all(value > 0 for value in std):
            raise ConfigError(f"std must be above 0, got {tuple(std)}.")
        self.image_size = to_sides("image_size", image_size)
        self.in_channels = in_channels
        self.interpolation: Interpolation = interpolation
        self.reading = None if reading is None else Reading(**reading)
        self.statistics = tuple(map(float, mean)), tuple(map(float, std))
        self.register_buffer("mean", channel_values(mean, in_channels), persistent=False)
        self.register_buffer("std", channel_values(std, in_channels), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Prepare a batch.

        Args:
            images: uint8, or float in [0, 1]; (B, C, H, W), C being 1, 3 or ``in_channels``. That
                floats lie in [0, 1] is not checked under torch.compile, torch.export and
                torch.vmap, which have no values to look at: 0 to 255 would give wrong results.

        Returns:
            float32 (B, in_channels, height, width), normalised; channels last in memory, which
            convolutions on large maps are faster with.

        Raises:
            DataError: Another shape or type.
        """
        self.check(images)
        # uint8 is made float before it is resized, so that no device rounds in between
        scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
        values = images.to(torch.float32)
        if values.shape[1] == 3 and self.in_channels == 1:
            weights = values.new_tensor(LUMINANCE).view(1, 3, 1, 1)
            values = (values * weights).sum(1, keepdim=True)
        if values.shape[2:] != self.image_size:
            values = functional.interpolate(
                values,
                size=self.image_size,
                mode=self.interpolation,
                align_corners=False,
                antialias=True,
            )
        mean, std = self._float32("mean").view(-1), self._float32("std").view(-1)
        last = torch.addcmul(-mean / std, values.permute(0, 2, 3, 1), scale / std)
        return last.permute(0, 3, 1, 2)

    def check(self, images: Tensor) -> None:
        """Raise unless ``images`` is a batch that can be prepared."""
        if not isinstance(images, Tensor):
            raise DataError(
                f"Expected images as a tensor (B, C, H, W), got {describe(images)}. "
                "For arrays there is tk.predict(model, images)."
            )
        channels = sorted({1, 3, self.in_channels})
        if images.ndim != 4 or images.shape[1] not in channels:
            raise DataError(
                "Expected images of shape (B, C, H, W) with C "
                f"{' or '.join(map(str, channels))}, got {tuple(images.shape)}."
            )
        if images.shape[1] != self.in_channels and self.in_channels != 1 and images.shape[1] != 1:
            raise DataError(
                f"The network takes {self.in_channels} channels, the images have "
                f"{images.shape[1]}. Give the images 1 or {self.in_channels} channels: "
                f"tk.ImageData(images, channels={self.in_channels})."
            )
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise DataError(f"Expected uint8 images or floats in [0, 1], got {images.dtype}.")
        # a graph that is being traced has no values to look at
        traced = images.is_meta or torch.compiler.is_compiling()
        if images.is_floating_point() and not traced and images.numel():
            check_unit_range(images)

    def _float32(self, name: Statistic) -> Tensor:
        """The buffer in float32; where a cast of the model rounded it, the values as passed."""
        buffer: Tensor = getattr(self, name)
        if buffer.dtype == torch.float32 or torch.compiler.is_compiling():
            return buffer.float()
        return channel_values(self._values(name), self.in_channels).to(buffer.device)

    def _values(self, name: Statistic) -> tuple[float, ...]:
        """The numbers as passed, or those that somebody wrote to the buffer since."""
        buffer, passed = getattr(self, name).cpu(), self.statistics[name == "std"]
        if torch.equal(buffer, channel_values(passed, self.in_channels).to(buffer.dtype)):
            return passed
        return tuple(map(float, buffer.flatten().tolist()))

    def recipe(self) -> dict[str, JSON]:
        """Return the keyword arguments that rebuild this, ready for JSON."""
        return {
            "image_size": list(self.image_size),
            "mean": list(self._values("mean")),
            "std": list(self._values("std")),
            "in_channels": self.in_channels,
            "interpolation": self.interpolation,
            "reading": None if self.reading is None else plain_fields(self.reading),
        }

    def extra_repr(self) -> str:
        """Describe the recipe in the module's printed form."""
        height, width = self.image_size
        return f"{self.in_channels}x{height}x{width}, {self.interpolation}"


def channel_values(values: Sequence[float], in_channels: int) -> Tensor:
    """Return (1, in_channels, 1, 1) float32, one value standing for all channels if alone."""
    tensor = torch.tensor([float(value) for value in values], dtype=torch.float32)
    return tensor.expand(in_channels).clone().view(1, in_channels, 1, 1)


def check_unit_range(images: Tensor) -> None:
    """Raise unless float images lie in [0, 1], with slack for the overshoot of interpolation."""
    try:
        low, high = (value.item() for value in images.detach().aminmax())
    except RuntimeError:  # torch.vmap, like a graph that is being traced, has no values to look at
        return
    if not (low >= -SLACK and high <= 1 + SLACK):
        raise DataError(
            f"Expected uint8 images or floats in [0, 1], got floats from {low:g} to {high:g}. Give "
            "the images as they were before any scaling or normalisation; that is done here."
        )
