from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from transferkit.data.disk_cache import temporary_pixels
from transferkit.data.pixel_reader import PixelBuffer


@pytest.mark.parametrize("limit", [10, 10**6])
def test_grey_then_colour(tmp_path, limit):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (3, 4, 5), dtype=np.uint8)
    colour = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    reserve = partial(temporary_pixels, limit=limit, folder=tmp_path)
    pixels = PixelBuffer((5, 4, 5, 1), reserve)
    for image in grey:
        pixels.append(image)
    assert pixels.array.shape == (5, 4, 5, 1)
    pixels.append(colour)
    pixels.append(grey[0])
    expected = [*np.repeat(grey[..., None], 3, 3), colour, np.repeat(grey[0][..., None], 3, 2)]
    np.testing.assert_array_equal(pixels.array, expected)
    assert isinstance(pixels.array, np.memmap) == (limit == 10)
