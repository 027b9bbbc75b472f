from __future__ import annotations

import gc

import numpy as np
import pytest

from transferkit.data import disk_cache as store
from transferkit.data.disk_cache import PixelStore, Temporary
from transferkit.errors import OutputError


@pytest.mark.parametrize("limit", [10, 10**6])
def test_grey_then_colour(tmp_path, limit):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (3, 4, 5), dtype=np.uint8)
    colour = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    pixels = PixelStore(5, (4, 5), channels=1, room=Temporary(limit, tmp_path))
    for image in grey:
        pixels.append(image)
    assert pixels.array.shape == (5, 4, 5, 1)
    pixels.append(colour)
    pixels.append(grey[0])
    expected = [*np.repeat(grey[..., None], 3, 3), colour, np.repeat(grey[0][..., None], 3, 2)]
    np.testing.assert_array_equal(pixels.array, expected)
    assert isinstance(pixels.array, np.memmap) == (limit == 10)


def test_the_file_goes_away_with_the_array(tmp_path):
    folder = tmp_path / "new"
    pixels = PixelStore(5, (4, 5), channels=1, room=Temporary(0, folder))
    view = pixels.array[1:3]
    del pixels
    gc.collect()
    view[:] = 7
    assert view.sum() == 2 * 4 * 5 * 7
    del view
    gc.collect()
    assert not list(folder.iterdir())


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path, monkeypatch):
    def full(handle, count):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "allocate", full)
    with pytest.raises(OutputError, match=r"No room for 0\.00 GiB .*cache_folder"):
        PixelStore(5, (4, 5), channels=1, room=Temporary(0, tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="Cannot write"):
        PixelStore(5, (4, 5), channels=1, room=Temporary(0, tmp_path / "file"))


def test_where_open_files_cannot_be_removed_they_go_with_the_array(tmp_path, monkeypatch):
    path = tmp_path / "x.pixels"
    path.write_bytes(b"")
    refused = []

    def unlink(self, missing_ok=False):
        if not refused:
            refused.append(self)
            raise PermissionError
        self.rmdir() if self.is_dir() else __import__("os").remove(self)

    monkeypatch.setattr(type(path), "unlink", unlink)
    array = np.zeros(3, np.uint8)
    store.remove_with(array, path)
    assert path.exists()
    del array
    gc.collect()
    assert not path.exists()
