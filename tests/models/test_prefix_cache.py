"""Encoding in parts gives what encoding at once does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import transferkit as tk
from transferkit.data.image_data import ImageData
from transferkit.models.prefix_cache import encode, images_at_once

CPU = torch.device("cpu")


@pytest.fixture
def data() -> ImageData:
    pixels = np.random.default_rng(0).integers(0, 256, (21, 32, 32, 1), dtype=np.uint8)
    return ImageData(pixels, np.arange(21) % 2)


@pytest.mark.parametrize(("side", "most", "few"), [(256, 64, 4), (128, 64, 16), (64, 64, 64)])
def test_a_cpu_takes_fewer_large_images_at_once(side: int, most: int, few: int) -> None:
    model = tk.create_classifier("resnet18", 2, weights=None, image_size=side)
    assert images_at_once(model, most, CPU) == few
    assert images_at_once(model, 1, CPU) == 1
    assert images_at_once(model, most, torch.device("cuda")) == most


def test_an_image_larger_than_the_cache_goes_alone() -> None:
    model = tk.create_classifier("resnet18", 2, weights=None, image_size=1024)
    assert images_at_once(model, 64, CPU) == 1


@pytest.mark.parametrize("size", [1, 4, 20, 21, 50])
def test_the_rows_do_not_depend_on_the_batch(data: ImageData, size: int) -> None:
    model = tk.create_classifier("resnet18", 2, weights=None, image_size=32, seed=0).eval()
    seen: list[int] = []

    def prefix(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append(len(images))
        return (model.features(images),)

    (rows,) = encode(prefix, data, device=CPU, batch_size=size)
    with torch.inference_mode():
        want = model.features(data.batch(np.arange(21)))
    torch.testing.assert_close(rows, want, rtol=1e-4, atol=1e-4)
    assert sum(seen) == 21
    assert max(seen) == min(size, 21)
