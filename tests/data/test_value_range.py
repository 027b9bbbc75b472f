"""Twelve bits in sixteen, and other ranges: one scale per dataset."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import transferkit as tk
from transferkit.data.value_range import DatasetScale
from transferkit.errors import ConfigError, DataError

rng = np.random.default_rng(0)


def deep(bits, count=6, *, top=None):
    values = rng.integers(0, 2**bits, (count, 6, 6)).astype(np.uint16)
    values[0, 0, 0] = 2**bits - 1 if top is None else top
    return values


def scaled(values, bits):
    return np.rint(values.astype(np.float64) * 255 / (2**bits - 1)).astype(np.uint8)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_fewer_bits_than_sixteen_fill_the_grey_levels_and_are_reported(bits):
    values = deep(bits, 60)
    with pytest.warns(UserWarning, match=rf"{bits}-bit values.*bits={bits}"):
        data = tk.ImageData(values, np.arange(60) % 2)
    np.testing.assert_array_equal(data.images[..., 0], scaled(values, bits))
    assert len(np.unique(data.images)) > 200
    assert data.bits == data.subset([1]).bits == bits
    assert f"{bits} bits" in repr(data)
    splits = tk.Splits({"train": data, "test": data})
    assert splits.bits == splits.to_dict()["bits"] == bits
    assert f"{bits}-bit values" in str(splits)


def test_full_range_and_given_depths_are_not_warned_of():
    values = deep(16)
    data = tk.ImageData(values, bits=None)
    np.testing.assert_array_equal(data.images[..., 0], np.rint(values / 257))
    assert data.bits == 16
    for kind in (np.uint16, np.int32, np.float64):
        data = tk.ImageData(deep(12, top=3000).astype(kind), bits=12)
        assert data.bits == 12
    dark = tk.ImageData(deep(12) // 4, bits=16)
    assert dark.images.max() <= 4
    assert tk.ImageData((deep(8)).astype(np.uint16), bits=8).images.max() == 255


@given(st.integers(8, 16), st.data())
def test_parts_of_a_dataset_are_read_alike_with_the_depth_given(bits, data):
    values = np.array(
        data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=2, max_size=9)), np.uint16
    )[:, None, None]
    whole = tk.ImageData(values, bits=bits).images
    cut = data.draw(st.integers(1, len(values) - 1))
    parts = [tk.ImageData(part, bits=bits).images for part in (values[:cut], values[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_splits_that_were_read_on_two_scales_are_refused():
    with pytest.warns(UserWarning, match="12-bit"):
        train = tk.ImageData(deep(12), np.arange(6) % 2)
    with pytest.warns(UserWarning, match="10-bit"):
        test = tk.ImageData(deep(10), np.arange(6) % 2)
    with pytest.raises(DataError, match=r"train .* 12-bit .* test as 10-bit.*bits=12"):
        tk.Splits({"train": train, "test": test})


@pytest.mark.parametrize(
    ("values", "bits", "error", "message"),
    [
        (deep(12), 10, DataError, r"bits=10 pixels must lie in 0\.\.1023, got 4095"),
        (deep(12).astype(np.int64), None, DataError, r"must lie in 0\.\.255.*bits=12"),
        (deep(8), None, DataError, "bits=8"),
        (-deep(12).astype(np.int64), 12, DataError, "got values from -4095"),
        (deep(12), 17, ConfigError, "bits must be one of"),
        (deep(12), "12", ConfigError, "bits must be one of"),
    ],
)
def test_ranges_that_do_not_fit(values, bits, error, message):
    with pytest.raises(error, match=message):
        tk.ImageData(values, bits=bits)


def test_floats_that_miss_one_by_rounding():
    images = np.array([[[0.0, 0.5, 1.0000001]]])
    assert tk.ImageData(images, channels=1).images.ravel().tolist() == [0, 128, 255]


def folder(root, bits, suffix="png"):
    stored = {}
    for split in ("train", "test"):
        for title in ("cat", "dog"):
            path = root / split / title
            path.mkdir(parents=True)
            # the test split is darker: its own largest value would tell another depth
            top = 2**bits - 1 if split == "train" else 2 ** (bits - 3)
            for number in range(4):
                values = rng.integers(0, top + 1, (7, 5)).astype(np.uint16)
                values[0, 0] = top
                name = f"{split}/{title}/{number}.{suffix}"
                Image.fromarray(values).save(root / name)
                stored[name] = values
    return stored


@pytest.mark.parametrize("cache", [None, "disk"])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_a_folder_has_one_scale(tmp_path, cache, suffix):
    stored = folder(tmp_path / "data", 12, suffix)
    options = {"cache": cache, "cache_folder": tmp_path / "kept", "val_share": 0}
    for _ in range(2):
        with pytest.warns(UserWarning, match="12-bit values") as caught:
            splits = tk.load_splits(tmp_path / "data", **options)
        assert caught[0].filename == __file__
        assert splits.bits == 12
        for data in splits.values():
            for image, name in zip(data.images, data.names, strict=True):
                np.testing.assert_array_equal(image[..., 0], scaled(stored[name], 12))
    told = tk.load_splits(tmp_path / "data", bits=12, **options)
    assert told["test"].fingerprint() == splits["test"].fingerprint()
    full = tk.load_splits(tmp_path / "data", bits=16, **options)
    assert full["train"].images.max() == 16
    with pytest.raises(DataError, match="bits=10"):
        tk.load_splits(tmp_path / "data", bits=10, **options)


def test_a_folder_of_the_full_range_is_read_once(tmp_path, monkeypatch):

    from transferkit.data import listing

    stored = folder(tmp_path, 16)
    read, decode = [], listing.decode
    monkeypatch.setattr(listing, "decode", lambda path, alpha: read.append(path) or decode(path))
    splits = tk.load_splits(tmp_path, val_share=0)
    assert len(read) == len(stored)
    name = splits["test"].names[0]
    np.testing.assert_array_equal(splits["test"].images[0, ..., 0], scaled(stored[name], 16))


def test_an_archive_has_one_scale(tmp_path):
    train, test = deep(12, 8), deep(9, 6)
    labels = {"train_labels": np.arange(8) % 2, "test_labels": np.arange(6) % 2}
    np.savez(tmp_path / "x.npz", train_images=train, test_images=test, **labels)
    with pytest.warns(UserWarning, match="12-bit"):
        splits = tk.load_splits(tmp_path / "x.npz", val_share=0)
    np.testing.assert_array_equal(splits["test"].images[..., 0], scaled(test, 12))
    assert tk.load_splits(tmp_path / "x.npz", val_share=0, bits=14).bits == 14


def test_class_arrays_on_two_scales_are_refused(tmp_path):
    np.save(tmp_path / "cat.npy", rng.random((9, 6, 6)))
    np.save(tmp_path / "dog.npy", rng.random((9, 6, 6)) * 255)
    with pytest.raises(DataError, match=r"cat\.npy lie in \[0, 1\], but those of dog\.npy"):
        tk.load_splits(tmp_path)


def test_the_scale_of_what_was_seen():
    scale = DatasetScale(None)
    scale.see(deep(10, top=1000))
    assert scale.settle()
    scale.see(deep(12))
    assert scale.settle()
    assert not scale.settle()
    assert scale.bits == 12


def test_bytes_in_either_order_are_the_same_numbers():
    values = np.arange(5 * 6 * 7, dtype=np.uint16).reshape(5, 6, 7) * 300
    plain, swapped = (tk.ImageData(values.astype(kind)) for kind in ("<u2", ">u2"))
    np.testing.assert_array_equal(plain.images, swapped.images)
    assert plain.bits == swapped.bits == 16
