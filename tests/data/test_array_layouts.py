from __future__ import annotations

import numpy as np
import pytest

from transferkit.data.load import load_splits
from transferkit.errors import ConfigError, DataError

rng = np.random.default_rng(0)


class Trap:
    """Whoever unpickles this sets ``sprung``."""

    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))


def medmnist(path, *, channels=(), **changes):
    arrays = {}
    for split, count in (("train", 20), ("val", 10), ("test", 12)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 6, 6, *channels), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2)[:, None].astype(np.uint8)
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return arrays


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_medmnist_archive(tmp_path, channels):
    path = tmp_path / "x.npz"
    arrays = medmnist(path, channels=channels)
    splits = load_splits(path)
    assert splits.classes == ("0", "1")
    assert list(splits) == ["train", "val", "test"]
    for name, data in splits.items():
        expected = arrays[f"{name}_images"].reshape(data.images.shape)
        np.testing.assert_array_equal(data.images, expected)
        np.testing.assert_array_equal(data.labels, arrays[f"{name}_labels"][:, 0])
        assert data.names[4] == f"{name}[4]"


def test_an_archive_without_val_is_split(tmp_path):
    medmnist(tmp_path / "x.npz", val_images=None, val_labels=None)
    splits = load_splits(tmp_path / "x.npz", val_share=0.2)
    assert [data.class_counts().tolist() for data in splits.values()] == [[8, 8], [2, 2], [6, 6]]
    assert splits["val"].names[0].startswith("train[")


def test_an_archive_of_floats_at_another_size(tmp_path):
    path = tmp_path / "x.npz"
    images = rng.random((20, 6, 6), dtype=np.float32)
    medmnist(path, train_images=images)
    splits = load_splits(path)
    np.testing.assert_array_equal(splits["train"].images[..., 0], np.rint(images * 255))
    small = load_splits(path, image_size=4)
    assert small["train"].images.shape == (20, 4, 4, 1)
    assert small["train"].sizes[0].tolist() == [6, 6]


def test_a_split_without_labels(tmp_path):
    medmnist(tmp_path / "x.npz", test_labels=None)
    assert load_splits(tmp_path / "x.npz")["test"].labels is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": np.arange(19) % 2}, r"train_images has shape .* 19 labels"),
        (
            {"test_labels": np.full(12, 7)},
            r"label '7' of test\[0\] is none of the classes of train: 0, 1",
        ),
        ({"test_labels": np.full(12, -1)}, "test_labels of x.npz: .*from 0, got -1"),
        ({"train_labels": np.full(20, -1)}, "from 0, got -1"),
        ({"train_labels": np.arange(20) % 2 * 3}, r"label '1' of val\[1\] is none .* train: 0, 3"),
        ({"train_labels": np.zeros(20)}, r"label '1' of val\[1\]"),
        ({"train_labels": 1 - np.eye(20)}, "train_labels of x.npz: .*Multi-label"),
        ({"train_images": np.full((20, 6, 6), np.nan)}, r"train_images of x.npz: NaN .* image 0"),
        ({"train_images": np.zeros((20, 6))}, "train_images of x.npz: .*shape"),
        ({"train_images": np.float32(3)}, "20 labels"),
    ],
)
def test_archives_that_do_not_fit(tmp_path, changes, message):
    medmnist(tmp_path / "x.npz", **changes)
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path / "x.npz")


def test_one_class_only(tmp_path):
    zeros = {
        f"{name}_labels": np.zeros(n) for name, n in (("train", 20), ("val", 10), ("test", 12))
    }
    medmnist(tmp_path / "x.npz", **zeros)
    with pytest.warns(UserWarning, match="one class only, 0, which is enough for an audit"):
        assert load_splits(tmp_path / "x.npz").classes == ("0",)


def test_other_keys(tmp_path):
    np.savez(tmp_path / "x.npz", things=np.zeros((3, 4, 4)))
    with pytest.raises(DataError, match=r"MedMNIST layout.*got things"):
        load_splits(tmp_path / "x.npz")


def test_a_single_array_named_npz(tmp_path):
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.zeros((3, 4, 4)))
    with pytest.raises(DataError, match="single array"):
        load_splits(tmp_path / "x.npz")


@pytest.mark.parametrize("key", ["train_images", "test_labels"])
def test_objects_are_refused_and_never_unpickled(tmp_path, key):
    medmnist(tmp_path / "x.npz", **{key: np.array([Trap()] * 12, dtype=object)})
    with pytest.raises(DataError, match="never unpickled"):
        load_splits(tmp_path / "x.npz")
    assert not Trap.sprung


def test_a_pickle_named_npz(tmp_path):
    import pickle

    (tmp_path / "x.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="never unpickled"):
        load_splits(tmp_path / "x.npz")
    assert not Trap.sprung


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_archive(tmp_path, share):
    path = tmp_path / "x.npz"
    medmnist(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"x\.npz"):
        load_splits(path)


def course(root, *, kind=np.uint8, splits=("", "test_"), classes=("normal", "pneumonia")):
    arrays = {}
    for split in splits:
        for k, title in enumerate(classes):
            array = rng.integers(0, 256, (10 + k, 6, 6), dtype=np.uint8)
            array[0, 0, 0] = 255
            arrays[f"{split}{title}"] = array
            np.save(root / f"{split}{title}.npy", array.astype(kind))
    return arrays


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.int64])
def test_class_arrays_like_the_courses(tmp_path, kind):
    arrays = course(tmp_path, kind=kind)
    splits = load_splits(tmp_path, val_share=0)
    assert list(splits) == ["train", "test"]
    assert splits.classes == ("normal", "pneumonia")
    expected = np.concatenate([arrays["test_normal"], arrays["test_pneumonia"]])
    np.testing.assert_array_equal(splits["test"].images[..., 0], expected)
    assert splits["test"].class_counts().tolist() == [10, 11]
    assert splits["test"].names[10] == "test_pneumonia[0]"
    assert list(load_splits(tmp_path)) == ["train", "val", "test"]


def test_class_arrays_with_val(tmp_path):
    course(tmp_path, splits=("train_", "val_", "test_"))
    assert [len(data) for data in load_splits(tmp_path).values()] == [21, 21, 21]


def test_class_arrays_of_other_names(tmp_path):
    course(tmp_path, splits=("x_", "y_"), classes=("p", "n"))
    files = {
        "x_p": ("train", "sick"),
        "x_n": ("train", "healthy"),
        "y_n": ("test", "healthy"),
        "y_p": ("test", "sick"),
    }
    splits = load_splits(tmp_path, class_files=files)
    assert splits.classes == ("sick", "healthy")
    assert splits["test"].class_counts().tolist() == [10, 11]
    with pytest.raises(DataError, match=r"no gone\.npy; .*x_n\.npy"):
        load_splits(tmp_path, class_files={"gone": ("train", "sick")})
    with pytest.raises(DataError, match="to the split 'holdout'"):
        load_splits(tmp_path, class_files={**files, "y_p": ("holdout", "sick")})
    with pytest.raises(DataError, match="same split and class"):
        load_splits(tmp_path, class_files={**files, "y_p": ("test", "healthy")})


def test_class_arrays_beyond_memory(tmp_path):
    course(tmp_path)
    here = load_splits(tmp_path)
    mapped = load_splits(tmp_path, memory_limit=100)
    assert isinstance(mapped["train"].images, np.memmap)
    assert mapped["train"].fingerprint() == here["train"].fingerprint()


def test_class_arrays_have_no_file_names_to_group_by(tmp_path):
    course(tmp_path)
    with pytest.raises(ConfigError, match="these images have none"):
        load_splits(tmp_path, groups=r"\d+")


def test_a_class_that_test_lacks_is_said_and_one_that_train_lacks_is_refused(tmp_path):
    course(tmp_path)
    (tmp_path / "test_normal.npy").unlink()
    with pytest.warns(UserWarning, match="test split has no image of the class normal"):
        splits = load_splits(tmp_path)
    assert splits["test"].class_counts().tolist() == [0, 11]
    (tmp_path / "normal.npy").unlink()
    course(tmp_path, splits=("test_",))
    with pytest.raises(DataError, match=r"classes differ between splits.*needs images in train"):
        load_splits(tmp_path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 6, 6), np.uint8), "holds no images"),
        (np.array([Trap()], dtype=object), "never unpickled"),
        (np.full((3, 6, 6), np.inf), r"test_normal.npy: NaN or infinite pixels in image 0"),
    ],
)
def test_class_arrays_that_do_not_fit(tmp_path, array, message):
    course(tmp_path)
    np.save(tmp_path / "test_normal.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path)
    assert not Trap.sprung


def test_a_truncated_class_array(tmp_path):
    course(tmp_path)
    path = tmp_path / "test_normal.npy"
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(DataError, match=r"test_normal\.npy is no readable"):
        load_splits(tmp_path)


def test_pneumoniamnist(shared_path):
    splits = load_splits(shared_path / "data" / "pneumoniamnist.npz")
    counts = [data.class_counts().tolist() for data in splits.values()]
    assert counts == [[1214, 3494], [135, 389], [234, 390]]
    train = {image.tobytes() for image in splits["train"].images}
    assert sum(image.tobytes() in train for image in splits["val"].images) == 8
    assert not any(image.tobytes() in train for image in splits["test"].images)
