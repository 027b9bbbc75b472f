from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import transferkit as tk
from transferkit.data.image_data import ImageData
from transferkit.data.splits import SkippedFile, Splits
from transferkit.errors import DataError


def make(count=6, *, classes=("a", "b"), channels=1, seed=0, **fields):
    images = np.random.default_rng(seed).integers(0, 256, (count, 4, 5, channels), dtype=np.uint8)
    return ImageData(images, np.arange(count) % 2, classes=classes, **fields)


def test_defaults():
    data = ImageData(np.zeros((3, 4, 5), np.uint8), [0, 2, 1])
    assert data.classes == ("0", "1", "2")
    assert data.num_classes == 3
    assert data.names == ("image[0]", "image[1]", "image[2]")
    assert data.sizes.tolist() == [[4, 5]] * 3
    assert data.groups is None
    assert data.images.shape == (3, 4, 5, 1)
    assert len(data) == 3


def test_iteration_gives_images_and_labels_and_ends():
    data = make(3)
    pairs = list(data)
    assert [label for _, label in pairs] == [0, 1, 0]
    np.testing.assert_array_equal(pairs[1][0], data.images[1])


def test_without_labels_indexing_says_so():
    data = ImageData(np.zeros((3, 4, 5), np.uint8))
    assert data.labels is None
    assert data.classes == ()
    with pytest.raises(DataError, match="Indexing needs labels"):
        data[0]


@given(st.lists(st.integers(0, 5), max_size=8))
def test_a_subset_takes_everything_along(rows):
    data = make(
        groups=list("xxyyzz"), names=[f"n{i}" for i in range(6)], sizes=[(i, i) for i in range(6)]
    )
    part = data.subset(rows)
    np.testing.assert_array_equal(part.images, data.images[rows])
    np.testing.assert_array_equal(part.require_labels("x"), data.require_labels("x")[rows])
    assert part.names == tuple(f"n{i}" for i in rows)
    assert part.groups == tuple("xxyyzz"[i] for i in rows)
    assert part.sizes[:, 0].tolist() == rows
    assert part.classes == data.classes


def test_a_mask_is_a_subset_too():
    data = make()
    assert data.subset(np.array([True, False] * 3)).names == ("image[0]", "image[2]", "image[4]")
    with pytest.raises(DataError, match="mask"):
        data.subset(np.array([True]))


def test_a_batch_is_channels_last_uint8():
    data = make(channels=3)
    batch = data.batch([4, 1])
    assert batch.dtype == torch.uint8
    assert batch.shape == (2, 3, 4, 5)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(batch.numpy(), data.images[[4, 1]].transpose(0, 3, 1, 2))


def test_a_batch_is_no_view_of_a_read_only_map(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 3, 3, 1), np.uint8))
    data = ImageData(np.load(tmp_path / "x.npy", mmap_mode="r"), [0, 1, 0, 1])
    assert isinstance(data.images, np.memmap)
    data.batch([0, 1]).add_(1)
    assert data.images.max() == 0


def test_the_fingerprint_tells_pixels_labels_classes_and_shape_apart():
    data = make()
    images = data.images.copy()
    images[5, 0, 0, 0] ^= 1
    labels = data.require_labels("x")
    others = [
        ImageData(images, labels, classes=data.classes),
        ImageData(data.images, 1 - labels, classes=data.classes),
        ImageData(data.images, labels, classes=("b", "a")),
        ImageData(data.images, classes=data.classes),
        ImageData(data.images.reshape(6, 5, 4, 1), labels, classes=data.classes),
    ]
    prints = {other.fingerprint() for other in [data, *others]}
    assert len(prints) == 6
    assert make().fingerprint() == data.fingerprint()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": [0, 1]}, "3 images but 2 labels"),
        ({"labels": [0, 1, 0], "names": ["a"]}, "3 images but 1 names"),
        ({"labels": [0, 1, 0], "groups": ["a"]}, "3 images but 1 groups"),
        ({"labels": [0, 1, 0], "sizes": [(1, 1)]}, "3 images but 1 sizes"),
        ({"labels": [0, 5, 0], "classes": ("a", "b")}, r"Label 5 of image\[1\] is outside 0..1"),
        ({"labels": [0, -1, 0]}, r"Label -1 of image\[1\] is outside"),
        ({"labels": [0, 1, 0], "classes": ("a", "a")}, "must differ"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(DataError, match=message):
        ImageData(np.zeros((3, 4, 5), np.uint8), **fields)


def test_image_data_travels_to_other_processes():
    data = make(groups=list("xxyyzz"))
    for other in (pickle.loads(pickle.dumps(data)), copy.deepcopy(data)):
        assert other.fingerprint() == data.fingerprint()
        assert other.groups == data.groups


def test_splits_are_a_mapping_in_their_order():
    splits = Splits({"val": make(2), "train": make(6)})
    assert list(splits) == ["val", "train"]
    assert splits.classes == ("a", "b")
    assert splits.num_classes == 2
    assert [len(data) for data in splits.require("train", "val")] == [6, 2]
    with pytest.raises(DataError, match="no 'test' split; there are: val, train"):
        splits.require("test")
    assert list(splits.with_split("test", make(4))) == ["val", "train", "test"]


def test_splits_print_as_a_table_and_export():
    lost = SkippedFile("train/a/x.png", "the file is empty")
    splits = Splits({"train": make(6), "test": make(2)}, skipped=[lost])
    assert str(splits).splitlines()[2].split() == ["train", "6", "4x5x1", "3", "3"]
    assert "1 files skipped" in str(splits)
    exported = json.loads(json.dumps(splits.to_dict()))
    assert exported["splits"]["train"]["class_counts"] == [3, 3]
    assert exported["skipped"] == [{"path": "train/a/x.png", "reason": "the file is empty"}]


def test_an_unlabelled_split_takes_the_classes_of_the_others():
    bare = ImageData(np.zeros((3, 4, 5), np.uint8))
    splits = Splits({"test": bare, "train": make()})
    assert splits["test"].classes == ("a", "b")
    assert "-" in str(splits)
    assert splits.classes == ("a", "b")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({}, "at least one split"),
        ({"train": make(0)}, "'train' split has no images"),
        ({"train": make(), "test": make(classes=("a", "c"))}, "classes differ between splits"),
        ({"train": make(), "test": make(channels=3)}, "same number of channels"),
    ],
)
def test_splits_that_do_not_fit_are_refused(splits, message):
    with pytest.raises(DataError, match=message):
        Splits(splits)


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_other_channels_are_kept_where_they_are_asked_for(channels):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 9, channels), dtype=np.uint8)
    for layout in (images, images.transpose(0, 3, 1, 2)):
        data = ImageData(layout, channels=channels)
        np.testing.assert_array_equal(data.images, images)
    np.testing.assert_array_equal(data.batch([2])[0].permute(1, 2, 0).numpy(), images[2])
    with pytest.raises(DataError, match=f"with {channels} channels"):
        ImageData(images[..., :1], channels=channels)


def test_the_advice_on_channels_leads_to_a_working_call():
    model = tk.create_classifier(
        "transferkit/formula_resnet18", 2, in_channels=4, image_size=32, weights=None, seed=0
    )
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 4), dtype=np.uint8)
    with pytest.raises(DataError, match=r"tk\.ImageData\(images, channels=4\)"):
        tk.predict(model, ImageData(images))
    expected = tk.predict(model, ImageData(images, channels=4)).probabilities
    np.testing.assert_allclose(tk.predict(model, images).probabilities, expected, atol=1e-6)
    one = tk.predict(model, [images[0], images[1].transpose(2, 0, 1)]).probabilities
    np.testing.assert_allclose(one, expected[:2], atol=1e-6)


def test_with_classes_numbers_labels_by_name() -> None:
    data = ImageData(np.zeros((3, 8, 8)), [0, 1, 2], classes=["a", "b", "c"])
    moved = data.with_classes(["c", "a", "b"])
    assert moved.labels.tolist() == [1, 2, 0]
    assert moved.classes == ("c", "a", "b")
    assert moved.images is data.images
    assert data.with_classes(data.classes) is data
    assert data.with_classes(["0", "1", "2"]) is data  # numbers stand for no names
    unnamed = ImageData(np.zeros((2, 8, 8)), [0, 1])
    assert unnamed.with_classes(["x", "y", "z"]).classes == ("x", "y", "z")
    assert unnamed.with_classes(["1", "0"]).labels.tolist() == [1, 0]
    with pytest.raises(DataError, match=r"3 classes \['a', 'b', 'c'\].*2 classes \['a', 'b'\]"):
        data.with_classes(["a", "b"])


@pytest.mark.parametrize("last", [3, 4])
def test_an_array_that_may_be_one_image_is_refused(last: int) -> None:
    array = np.zeros((40, 50, last), np.uint8)
    says = rf"\(40, 50, {last}\) may be one image \(H, W, C\) or 40 grey images \(N, H, W\)\. Pass"
    for same in (array, array.tolist()):
        with pytest.raises(DataError, match=says):
            ImageData(same)
    assert ImageData(array, channels=1).images.shape == (40, 50, last, 1)
    assert ImageData(array[..., None]).images.shape == (40, 50, last, 1)
    assert ImageData(array[None]).images.shape == (1, 40, 50, 3)
    assert ImageData(np.zeros((4, 50, 40))).images.shape == (4, 50, 40, 1)


def test_one_pil_image_is_refused() -> None:
    image = Image.fromarray(np.arange(2000, dtype=np.uint8).reshape(40, 50))
    with pytest.raises(DataError, match=r"got one PIL image\. Give a list .*tk\.load_images"):
        ImageData(image)
    assert np.array_equal(ImageData([image]).images, np.asarray(image)[None, ..., None])


def test_names_may_be_paths_numbers_or_missing():
    data = tk.ImageData(np.zeros((3, 8, 8)), names=[Path("a") / "b.png", 7, None])
    assert data.names == (str(Path("a") / "b.png"), "7", "image[2]")


def test_class_names_need_an_order():
    for classes in ({"cat", "dog"}, {0: "cat", 1: "dog"}, "ab", 3):
        with pytest.raises(DataError, match="in the order of their numbers"):
            tk.ImageData(np.zeros((2, 8, 8)), [0, 1], classes=classes)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([1, 2, 3], [1, 2, 3]), ([3, 1, 2], [3, 1, 2]), ([1, 2], [1, 2]), ([0, 255], None)],
)
def test_numbers_stand_for_places_among_names(labels, expected):
    data = tk.ImageData(np.zeros((len(labels), 8, 8)), labels)
    wanted = ["a", "b", "c", "d"]
    if expected is None:
        with pytest.raises(DataError, match="expected 4 classes"):
            data.with_classes(wanted)
        assert data.with_classes(["no", "yes"]).labels.tolist() == [0, 1]
    else:
        assert data.with_classes(wanted).labels.tolist() == expected
        assert data.with_classes(wanted[: len(labels)]).classes == tuple(wanted[: len(labels)])


def test_an_unknown_split_is_a_key_error_that_names_the_nearest():
    splits = tk.Splits({"train": make(4), "val": make(2)})
    with pytest.raises(
        KeyError, match=r"^Unknown split 'valid'. Did you mean 'val'\? Known: train"
    ):
        splits["valid"]
    with pytest.raises(tk.UnknownNameError):
        splits["dev"]
    assert splits.get("dev") is None
    assert "dev" not in splits


def test_a_split_may_lack_classes_and_its_figures_are_undefined():
    train = tk.ImageData(np.zeros((3, 8, 8)), [0, 1, 2])
    splits = tk.Splits({"train": train, "test": tk.ImageData(np.zeros((2, 8, 8)), [0, 1])})
    assert splits["test"].classes == ("0", "1", "2")
    assert splits["test"].class_counts().tolist() == [1, 1, 0]
