from __future__ import annotations

import gc
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from transferkit.data.disk_cache import (
    ArrayStore,
    default_folder,
    remove_with,
    stores_below,
    temporary_pixels,
)
from transferkit.errors import OutputError


@pytest.fixture
def store(tmp_path) -> ArrayStore:
    return ArrayStore(tmp_path / "cache", limit=100_000)


def put(store: ArrayStore, key: str, value: float = 1.0, count: int = 1000) -> None:
    with store.adding(key) as entry:
        entry.add((count, 2), np.float32)[:] = value
        entry.add((count,), np.float16)[:] = value + 1


def test_what_is_written_comes_back(store):
    assert store.get("a") is None
    put(store, "a", 3.0)
    wide, narrow = store.get("a")
    assert (wide.dtype, wide.shape) == (np.float32, (1000, 2))
    assert (wide == 3).all()
    assert (narrow == 4).all()
    assert store.entries()[0].size >= 10_000
    assert [entry.key for entry in store.entries()] == ["a"]


def test_a_reader_cannot_change_the_store(store):
    put(store, "a", 3.0)
    store.get("a")[0][:] = 9
    assert (store.get("a")[0] == 3).all()


def test_a_failing_block_leaves_nothing(store):
    def write() -> None:
        with store.adding("a") as entry:
            entry.add((10,), np.float32)[:5] = 1
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write()
    assert store.get("a") is None
    assert list(store.folder.iterdir()) == []


def test_the_least_recently_used_give_way(store):
    for place, key in enumerate("abcdefghi"):
        put(store, key)
        os.utime(store.folder / f"arrays-{key}", (place, place))
    store.get("a")  # now the most recently used
    put(store, "j")
    put(store, "k")
    keys = {entry.key for entry in store.entries()}
    assert {"a", "j", "k"} <= keys
    assert "b" not in keys
    assert sum(entry.size for entry in store.entries()) <= store.limit


def test_more_than_the_limit_is_refused(store):
    with pytest.raises(OutputError, match="limit"):
        put(store, "a", count=1_000_000)
    assert store.entries() == ()


def test_a_full_disk_leaves_nothing(store, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OutputError, match="No space left"):
        put(store, "a")
    assert list(store.folder.iterdir()) == []


def test_room_is_claimed_where_the_system_has_no_call_for_it(store, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    put(store, "a", 3.0)
    assert (store.get("a")[0] == 3).all()


def test_the_first_of_two_writers_wins(store):
    with store.adding("a") as entry:
        entry.add((4,), np.float32)[:] = 1
        put(store, "a", 3.0)
    assert (store.get("a")[0] == 3).all()
    assert [path.name for path in store.folder.iterdir()] == ["arrays-a"]


def test_an_unreadable_entry_goes(store):
    put(store, "a")
    (store.folder / "arrays-a" / "0.npy").write_bytes(b"junk")
    assert store.get("a") is None
    put(store, "a", 3.0)
    assert (store.get("a")[0] == 3).all()


def test_an_entry_may_grow_array_by_array(store):
    with store.adding("a") as entry:
        narrow = entry.add((10, 1), np.uint8)
        narrow[:] = 3
        entry.restart()
        wide = entry.add((10, 3), np.uint8)
        wide[:] = narrow
        entry.add((2,), np.int64)[:] = (7, 8)
        assert entry.size == 30 + 16
    wide, numbers = store.get("a")
    assert wide.shape == (10, 3)
    assert (wide == 3).all()
    assert numbers.tolist() == [7, 8]


def test_an_entry_that_outgrows_the_limit_leaves_nothing(store):
    def write() -> None:
        with store.adding("b") as entry:
            entry.add((60_000,), np.uint8)
            entry.add((60_000,), np.uint8)

    with pytest.raises(OutputError, match="limit"):
        write()
    assert list(store.folder.iterdir()) == []


def test_drafts_of_killed_processes_go_after_a_day(store):
    put(store, "a")
    for name, age in ((".arrays-b.1-old", 90_000), (".arrays-c.1-new", 10)):
        (store.folder / name).mkdir()
        os.utime(store.folder / name, (time.time() - age,) * 2)
    put(store, "d")
    names = {path.name for path in store.folder.iterdir()}
    assert names == {"arrays-a", "arrays-d", ".arrays-c.1-new"}


def test_an_entry_that_goes_meanwhile_is_no_entry(store, monkeypatch):
    put(store, "a")
    put(store, "b")
    look = type(store.folder).glob

    def glob(path, pattern):
        if path.name == "arrays-a":
            store.remove("a")
        return look(path, pattern)

    monkeypatch.setattr(type(store.folder), "glob", glob)
    assert [entry.key for entry in store.entries()] == ["b"]


def test_stores_below_a_folder(tmp_path):
    stores = stores_below(tmp_path)
    put(ArrayStore(tmp_path / "images", 10**6), "a")
    put(ArrayStore(tmp_path, 10**6), "b")
    found = {said: [e.key for e in store.entries()] for said, store in stores.items()}
    assert found == {"activations": [], "decoded images": ["a"], "other": ["b"]}


def test_clear(store):
    put(store, "a")
    (store.folder / ".arrays-b.123-left").mkdir()
    (store.folder / "mine").mkdir()
    np.save(store.folder / "mine" / "0.npy", np.zeros(3))
    store.clear()
    assert [path.name for path in store.folder.iterdir()] == ["mine"]
    ArrayStore(store.folder / "none", 1).clear()


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TRANSFERKIT_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("TRANSFERKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_folder() == tmp_path / "x" / "transferkit"


def test_a_user_without_a_home(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("TRANSFERKIT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert default_folder() == Path(tempfile.gettempdir()) / "transferkit"


def test_the_file_goes_away_with_the_array(tmp_path):
    folder = tmp_path / "new"
    pixels = temporary_pixels((5, 4, 5, 1), limit=0, folder=folder)
    view = pixels[1:3]
    del pixels
    gc.collect()
    view[:] = 7
    assert view.sum() == 2 * 4 * 5 * 7
    del view
    gc.collect()
    assert not list(folder.iterdir())


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OutputError, match=r"No room for 0\.00 GiB .*cache_folder"):
        temporary_pixels((5, 4, 5, 1), limit=0, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="Cannot write"):
        temporary_pixels((5, 4, 5, 1), limit=0, folder=tmp_path / "file")


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
    remove_with(array, path)
    assert path.exists()
    del array
    gc.collect()
    assert not path.exists()
