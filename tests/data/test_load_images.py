"""Images by path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transferkit.data.load import load_images
from transferkit.errors import DataError


def write(
    path: Path, *shape: int, seed: int = 0
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def test_files_and_folders_come_in_order_as_they_are(tmp_path: Path) -> None:
    first = write(tmp_path / "b.png", 6, 8, seed=1)
    second = write(tmp_path / "folder" / "a.png", 6, 8, seed=2)
    data = load_images([tmp_path / "b.png", tmp_path / "folder"], image_size=(4, 4))
    assert data.labels is None
    assert data.names == (str(tmp_path / "b.png"), str(tmp_path / "folder" / "a.png"))
    assert np.array_equal(data.images[..., 0], [first, second])


def test_unequal_sizes_come_to_one_and_grey_joins_colour(tmp_path: Path) -> None:
    grey = write(tmp_path / "a.png", 4, 4)
    write(tmp_path / "b.png", 10, 6, 3)
    data = load_images([tmp_path], image_size=(4, 4))
    assert data.images.shape == (2, 4, 4, 3)
    assert np.array_equal(data.images[0], np.stack([grey] * 3, -1))
    assert data.sizes.tolist() == [[4, 4], [10, 6]]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "nothing").mkdir()
    for path in ("empty.png", "nothing", "absent.png"):
        with pytest.raises(DataError, match=path):
            load_images([tmp_path / path], image_size=(4, 4))
