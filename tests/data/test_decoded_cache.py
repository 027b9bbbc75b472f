"""Decoded folders that are kept on disk and mapped by later loads."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transferkit.data import decoded_cache, listing
from transferkit.data.disk_cache import ArrayStore, CacheWarning
from transferkit.data.load import load_splits
from transferkit.errors import DataError


def picture(number, size=(9, 7), channels=()):
    pixels = np.random.default_rng(number).integers(0, 256, (*size, *channels), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def data(tmp_path):
    """Train and test of two classes, twelve images each; one of them is coloured."""
    root = tmp_path / "data"
    for number in range(48):
        folder = root / ("train", "test")[number % 2] / ("cat", "dog")[number // 24]
        folder.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / f"p{number // 4}_{number}.png")
    picture(99, channels=(3,)).save(root / "test" / "dog" / "p11_47.png")
    return root


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def load(data, folder):
    return partial(load_splits, data, cache="disk", cache_folder=folder)


def entries(folder):
    return [entry.key for entry in ArrayStore(folder, 0).entries()]


def assert_same(splits, others):
    assert list(splits) == list(others)
    assert splits.skipped == others.skipped
    for name, data in splits.items():
        other = others[name]
        assert data.fingerprint() == other.fingerprint()
        assert (data.names, data.groups) == (other.names, other.groups)
        np.testing.assert_array_equal(data.sizes, other.sizes)


def no_decoding(monkeypatch):
    def refuse(path, **_):
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(listing, "decode", refuse)
    monkeypatch.setattr(listing, "probe", refuse)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image_size": (12, 10), "resize": "pad"},
        {"channels": 1},
        {"groups": r"p\d+", "val_share": 0.3},
        {"memory_limit": 0},
        {"val_share": 0},
    ],
)
def test_a_second_load_maps_what_the_first_has_decoded(data, load, monkeypatch, options):
    fresh = load_splits(data, cache=None, **options)
    first = load(**options)
    no_decoding(monkeypatch)
    second = load(**options)
    assert_same(first, fresh)
    assert_same(second, fresh)
    assert all(isinstance(part.images, np.memmap) for part in second.values())


@pytest.mark.parametrize("limit", [0, 1 << 30])
@pytest.mark.parametrize("options", [{"seed": 5}, {"val_share": 0.4}, {"groups": r"p\d+"}])
def test_another_division_of_the_images_finds_them_too(data, load, monkeypatch, options, limit):
    fresh = load_splits(data, cache=None, **options)
    load()
    no_decoding(monkeypatch)
    assert_same(load(memory_limit=limit, **options), fresh)


def test_a_copy_that_keeps_the_times_finds_them_too(data, load, folder, tmp_path, monkeypatch):
    load()
    moved = shutil.copytree(data, tmp_path / "moved")
    no_decoding(monkeypatch)
    assert load_splits(moved, cache="disk", cache_folder=folder)["test"].names


def touched(path):
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def longer(path):
    times = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def added(path):
    picture(7).save(path.with_name("new.png"))


def renamed(path):
    path.rename(path.with_name("other.png"))


def removed(path):
    path.unlink()


@pytest.mark.parametrize("change", [touched, longer, added, renamed, removed])
def test_a_changed_folder_is_decoded_again(data, load, folder, change):
    load(on_error="skip")
    change(data / "train" / "cat" / "p0_0.png")
    again = load(on_error="skip")
    assert len(entries(folder)) == 2
    assert_same(again, load_splits(data, cache=None, on_error="skip"))


def test_another_archive_that_sets_all_times_alike_is_told_apart(data, load):
    def unpack(first):
        for number, path in enumerate(sorted(data.rglob("*.png"))):
            picture(first + number).save(path, "BMP")
            os.utime(path, (0, 0))

    unpack(0)
    load()
    unpack(100)
    assert_same(load(), load_splits(data, cache=None))


@pytest.mark.parametrize(
    "options", [{"image_size": 8}, {"image_size": (9, 8)}, {"resize": "crop"}, {"channels": 1}]
)
def test_other_pixels_are_another_entry(load, folder, options):
    load()
    load(**options)
    assert len(entries(folder)) == 2


@pytest.mark.parametrize("name", ["VERSION", "LAYOUT", "Pillow"])
def test_another_decoder_is_another_entry(load, folder, monkeypatch, name):
    load()
    if name == "Pillow":
        monkeypatch.setattr(decoded_cache.PIL, "__version__", "0")
    else:
        monkeypatch.setattr(decoded_cache, name, -1)
    load()
    assert len(entries(folder)) == 2


def test_auto_keeps_what_takes_seconds_or_exceeds_memory(data, folder, monkeypatch):
    auto = partial(load_splits, data, cache_folder=folder)
    auto()
    assert not folder.exists()
    auto(memory_limit=100)
    assert len(entries(folder)) == 1
    monkeypatch.setattr(decoded_cache, "WORTH_KEEPING", 0)
    auto(image_size=8)
    assert len(entries(folder)) == 2
    no_decoding(monkeypatch)
    monkeypatch.setattr(decoded_cache, "WORTH_KEEPING", 1 << 30)
    assert isinstance(auto()["train"].images, np.memmap)


def test_by_default_it_lies_in_the_users_cache(data, tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFERKIT_CACHE", str(tmp_path / "mine"))
    load_splits(data, cache="disk")
    assert len(entries(tmp_path / "mine" / "images")) == 1


def test_a_reader_cannot_change_what_is_kept(data, load):
    splits = load()
    splits["train"].images[:] = 0
    assert_same(load(), load_splits(data, cache=None))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("damage", ["cut", "junk", "gone", "other"])
def test_a_damaged_entry_is_made_again(data, load, folder, place, damage):
    load(channels=1)
    (entry,) = folder.iterdir()
    path = entry / f"{place}.npy"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "junk":
        path.write_bytes(b"junk")
    elif damage == "gone":
        path.unlink()
    else:
        np.save(path, np.zeros(3))
    assert_same(load(channels=1), load_splits(data, cache=None, channels=1))
    assert [path.name for path in entry.iterdir() if path.stat().st_size < 100] == []
    assert len(entries(folder)) == 1


def test_several_processes_at_once(data, folder):
    options = {"cache": "disk", "cache_folder": folder, "workers": 1}
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(load_splits, data, **options) for _ in range(8)]
        found = [job.result() for job in jobs]
    fresh = load_splits(data, cache=None)
    for splits in found:
        assert_same(splits, fresh)
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("claims", [0, 1, 2, 3])
def test_a_full_disk_is_said_and_leaves_nothing(data, load, folder, monkeypatch, claims):
    fresh, left = load_splits(data, cache=None), [None] * claims

    def full(*_):
        if not left:
            raise OSError(28, "No space left on device")
        left.pop()

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.warns(CacheWarning, match="No space left.*not kept"):
        splits = load()
    assert_same(splits, fresh)
    assert list(folder.iterdir()) == []


def test_a_full_disk_sends_large_data_to_the_temporary_folder(load, folder, monkeypatch):
    def full(handle, *_):
        if str(folder) in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(28, "No space left on device")

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not tell which file a handle is")
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.warns(CacheWarning, match=r"Cannot keep [\d.]+ MB"):
        splits = load(memory_limit=0)
    assert isinstance(splits["train"].images, np.memmap)
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(data, load, folder):
    folder.write_text("in the way")
    with pytest.warns(CacheWarning, match="Cannot keep") as caught:
        splits = load()
    assert caught[0].filename == __file__
    assert_same(splits, load_splits(data, cache=None))


def test_a_folder_that_can_only_be_read_is_read(load, monkeypatch):
    load()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refuse)
    no_decoding(monkeypatch)
    assert len(load()["test"]) == 24


def test_the_least_recently_used_give_way(load, folder):
    for place, side in enumerate((20, 21, 22)):
        load(image_size=side)
        (fresh,) = set(entries(folder)) - set(entries(folder)[:place])
        os.utime(folder / f"arrays-{fresh}", (place, place))
    oldest, *others = entries(folder)
    load(image_size=23, cache_limit=48 * 3 * 23 * 23 * 3)
    assert oldest not in entries(folder)
    assert others[-1] in entries(folder)


def test_more_than_the_limit_is_said(load, folder):
    with pytest.warns(CacheWarning, match="exceed the cache's limit"):
        load(cache_limit=1000)
    assert entries(folder) == []


def test_broken_images_are_kept_with_their_reason(data, load, monkeypatch):
    (data / "train" / "cat" / "p0_0.png").write_bytes(b"")
    (data / "test" / "dog" / "p7_29.png").write_bytes(b"junk")
    fresh = load_splits(data, cache=None, on_error="skip")
    assert_same(load(on_error="skip"), fresh)
    no_decoding(monkeypatch)
    assert_same(load(on_error="skip"), fresh)
    with pytest.raises(DataError, match=r"Cannot read train/cat/p0_0.png: the file is empty"):
        load()


def test_an_error_leaves_nothing(data, load, folder):
    (data / "train" / "cat" / "p0_0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"p0_0.png"):
        load()
    assert list(folder.iterdir()) == []


def test_nothing_but_broken_images(data, load):
    for path in data.rglob("*.png"):
        path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(DataError, match="No image of the train split"):
            load(on_error="skip")


def test_a_link_that_leads_nowhere_is_a_broken_image(data, load):
    (data / "train" / "cat" / "lost.png").symlink_to("nowhere.png")
    assert [file.path for file in load(on_error="skip").skipped] == ["train/cat/lost.png"]


def test_arrays_are_not_kept(tmp_path, folder):
    for name in ("cat", "dog", "test_cat", "test_dog"):
        np.save(tmp_path / f"{name}.npy", np.zeros((5, 8, 8), np.uint8))
    load_splits(tmp_path, cache="disk", cache_folder=folder)
    assert not folder.exists()
