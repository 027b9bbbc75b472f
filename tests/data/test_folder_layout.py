from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transferkit.data.load import load_splits
from transferkit.errors import ConfigError, DataError

rng = np.random.default_rng(0)


def picture(size=(8, 8), channels=()):
    return Image.fromarray(rng.integers(0, 256, (*size, *channels), dtype=np.uint8))


def tree(root, splits=("train", "test"), classes=("cat", "dog"), count=10, **options):
    for split in splits:
        for title in classes:
            folder = root / split / title
            folder.mkdir(parents=True)
            for i in range(count):
                picture(**options).save(folder / f"p{i // 2}_{i}.png")
    return root


def test_train_and_test_with_a_val_share(tmp_path):
    splits = load_splits(tree(tmp_path), val_share=0.3)
    assert list(splits) == ["train", "val", "test"]
    assert splits.classes == ("cat", "dog")
    assert [data.class_counts().tolist() for data in splits.values()] == [[7, 7], [3, 3], [10, 10]]
    assert not set(splits["train"].names) & set(splits["val"].names)
    assert splits["test"].names[0] == "test/cat/p0_0.png"
    for name in ("train", "test"):
        data = splits[name]
        stored = np.asarray(Image.open(tmp_path / data.names[3]))
        np.testing.assert_array_equal(data.images[3, :, :, 0], stored)


def test_the_val_share_depends_on_the_seed_only(tmp_path):
    tree(tmp_path)
    first, again, other = (load_splits(tmp_path, seed=seed)["val"].names for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_no_val_share(tmp_path):
    assert list(load_splits(tree(tmp_path), val_share=0)) == ["train", "test"]


@pytest.mark.parametrize("name", ["val", "VALID", "Validation"])
def test_names_of_splits(tmp_path, name):
    splits = load_splits(tree(tmp_path, ("Training", name, "TEST")))
    assert list(splits) == ["train", "val", "test"]
    assert [len(data) for data in splits.values()] == [20, 20, 20]


def test_two_folders_for_one_split(tmp_path):
    with pytest.raises(DataError, match="two folders for val"):
        load_splits(tree(tmp_path, ("train", "val", "valid")))


def test_folders_of_classes_only(tmp_path):
    splits = load_splits(tree(tmp_path, (".",)), val_share=0.2)
    assert [data.class_counts().tolist() for data in splits.values()] == [[6, 6], [2, 2], [2, 2]]
    assert list(splits) == ["train", "val", "test"]
    assert sorted(name for data in splits.values() for name in data.names)[0] == "cat/p0_0.png"
    with pytest.raises(ConfigError, match=r"below 0\.5"):
        load_splits(tmp_path, val_share=0.5)


def test_what_systems_leave_behind_is_ignored(tmp_path):
    tree(tmp_path)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "cat" / ".hidden.png").write_bytes(b"")
    (tmp_path / "train" / "cat" / "._p0.png").write_bytes(b"\0")
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "notes.txt"):
        (tmp_path / "train" / "cat" / name).write_bytes(b"x")
    splits = load_splits(tmp_path)
    assert len(splits["train"]) + len(splits["val"]) == 20


def test_files_in_folders_within_a_class(tmp_path):
    tree(tmp_path)
    deep = tmp_path / "train" / "dog" / "more"
    deep.mkdir()
    picture().save(deep / "x.PNG")
    assert "train/dog/more/x.PNG" in load_splits(tmp_path, val_share=0)["train"].names


def test_a_split_without_classes_has_no_labels(tmp_path):
    tree(tmp_path, ("train",))
    (tmp_path / "test").mkdir()
    picture().save(tmp_path / "test" / "x.png")
    splits = load_splits(tmp_path)
    assert splits["test"].labels is None
    assert splits["test"].classes == ("cat", "dog")


def test_mixed_sizes_come_to_one(tmp_path):
    tree(tmp_path, size=(12, 20))
    picture((40, 10)).save(tmp_path / "train" / "cat" / "tall.png")
    splits = load_splits(tmp_path, val_share=0)
    assert splits["train"].images.shape[1:3] == (16, 16)
    tall = splits["train"].names.index("train/cat/tall.png")
    assert splits["train"].sizes[tall].tolist() == [40, 10]
    assert splits["test"].sizes[0].tolist() == [12, 20]
    assert load_splits(tmp_path, image_size=9)["test"].images.shape[1:3] == (9, 9)
    assert load_splits(tmp_path, image_size=np.int64(9))["test"].images.shape[1:3] == (9, 9)
    assert load_splits(tmp_path, image_size=(9, 7))["test"].images.shape[1:3] == (9, 7)


def test_large_mixed_sizes_come_to_256(tmp_path):
    tree(tmp_path, count=2, size=(300, 400))
    picture((350, 300)).save(tmp_path / "train" / "cat" / "other.png")
    assert load_splits(tmp_path, val_share=0)["test"].images.shape[1:3] == (256, 256)


def test_one_coloured_image_makes_all_coloured(tmp_path):
    tree(tmp_path)
    grey = load_splits(tmp_path, val_share=0)
    assert grey["train"].images.shape[3] == 1
    picture(channels=(3,)).save(tmp_path / "test" / "dog" / "z.png")
    colour = load_splits(tmp_path, val_share=0)
    assert colour["train"].images.shape[3] == 3
    np.testing.assert_array_equal(colour["train"].images, np.repeat(grey["train"].images, 3, 3))
    assert load_splits(tmp_path, channels=1)["test"].images.shape[3] == 1
    assert load_splits(tmp_path, channels=3)["test"].images.shape[3] == 3


def test_large_data_lie_in_a_file_that_goes_away(tmp_path):
    data = tree(tmp_path / "data")
    cache = tmp_path / "cache"
    here = load_splits(data)
    splits = load_splits(data, memory_limit=100, cache=None, cache_folder=cache)
    assert isinstance(splits["train"].images, np.memmap)
    for name in here:
        assert splits[name].fingerprint() == here[name].fingerprint()
    del splits
    assert not list(cache.iterdir())


def test_workers_and_batches_do_not_change_the_order(tmp_path):
    tree(tmp_path, count=60)
    one, many = (load_splits(tmp_path, workers=workers) for workers in (1, 5))
    assert one["train"].fingerprint() == many["train"].fingerprint()
    assert one["train"].names == many["train"].names


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n broken", None])
def test_a_broken_image_is_named_or_skipped_and_listed(tmp_path, content):
    tree(tmp_path)
    broken = tmp_path / "train" / "cat" / "p0_0.png"
    broken.write_bytes(broken.read_bytes()[:70] if content is None else content)
    with pytest.raises(DataError, match=r"Cannot read train/cat/p0_0.png: .*on_error='skip'"):
        load_splits(tmp_path)
    splits = load_splits(tmp_path, on_error="skip", val_share=0)
    assert [file.path for file in splits.skipped] == ["train/cat/p0_0.png"]
    assert splits.skipped[0].reason
    assert len(splits["train"]) == 19
    assert "train/cat/p0_0.png" not in splits["train"].names
    assert "1 files skipped" in str(splits)
    stored = np.asarray(Image.open(tmp_path / splits["train"].names[0]))
    np.testing.assert_array_equal(splits["train"].images[0, :, :, 0], stored)


def test_a_class_of_broken_images_only(tmp_path):
    tree(tmp_path, count=2)
    for path in (tmp_path / "test" / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="class dog in the test split"):
        load_splits(tmp_path, on_error="skip")
    for path in (tmp_path / "test" / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="No image of the test split"):
        load_splits(tmp_path, on_error="skip")


def test_groups_stay_together(tmp_path):
    splits = load_splits(tree(tmp_path, count=40), groups=r"p\d+", val_share=0.25)
    train, val = splits["train"].groups, splits["val"].groups
    assert train is not None
    assert val is not None
    assert not set(train) & set(val)
    assert "p3" in set(train) | set(val)
    assert 12 <= len(val) <= 28
    with pytest.raises(ConfigError, match="matches no file name"):
        load_splits(tmp_path, groups="nobody")
    with pytest.raises(ConfigError, match="regular expression"):
        load_splits(tmp_path, groups="(")


def test_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_splits(tmp_path / "nowhere")


def test_a_file_that_is_no_dataset(tmp_path):
    (tmp_path / "x.doc").write_text("a")
    with pytest.raises(DataError, match="neither a folder nor"):
        load_splits(tmp_path / "x.doc")


def test_an_empty_folder(tmp_path):
    with pytest.raises(DataError, match="has no folders"):
        load_splits(tmp_path)


def test_an_empty_class(tmp_path):
    tree(tmp_path)
    (tmp_path / "train" / "eel").mkdir()
    (tmp_path / "test" / "eel").mkdir()
    (tmp_path / "train" / "eel" / "scan.dcm").write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"train.eel is empty. Left out: 1 files: DICOM is not read"
    ):
        load_splits(tmp_path)


@pytest.mark.parametrize("empty", [False, True])
def test_a_class_that_test_lacks_is_allowed_and_said(tmp_path, empty):
    tree(tmp_path, ("train", "val"), ("cat", "dog", "eel"))
    tree(tmp_path, ("test",), ("cat", "eel"))
    if empty:
        (tmp_path / "test" / "dog").mkdir()
        (tmp_path / "test" / "fox").mkdir()
        (tmp_path / "test" / "dog" / "Thumbs.db").write_bytes(b"x")
    with pytest.warns(UserWarning, match="test split has no image of the class dog") as caught:
        splits = load_splits(tmp_path)
    assert caught[0].filename == __file__
    assert splits.classes == ("cat", "dog", "eel")
    assert splits["test"].class_counts().tolist() == [10, 0, 10]
    assert "test" in str(splits)


def test_the_advice_on_an_empty_class_leads_to_a_working_call(tmp_path):
    tree(tmp_path, ("train", "test"))
    for split in ("train", "test"):
        (tmp_path / split / "eel").mkdir()
    picture().save(tmp_path / "test" / "eel" / "a.png")
    with pytest.raises(DataError, match="remove the class eel from every split"):
        load_splits(tmp_path)
    (tmp_path / "train" / "eel").rmdir()
    with pytest.raises(
        DataError, match=r"only test has \['eel'\]. Each class needs images in train"
    ):
        load_splits(tmp_path)
    (tmp_path / "test" / "eel" / "a.png").unlink()
    assert load_splits(tmp_path).classes == ("cat", "dog")


def test_an_empty_split(tmp_path):
    tree(tmp_path, ("train",))
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="neither class folders nor images"):
        load_splits(tmp_path)


def test_classes_that_differ_between_splits(tmp_path):
    tree(tmp_path, ("train",))
    tree(tmp_path, ("test",), ("cat", "eel"))
    with pytest.raises(DataError, match=r"only train has \['dog'\], only test has \['eel'\]"):
        load_splits(tmp_path)


def test_one_class_only(tmp_path):
    with pytest.warns(UserWarning, match="one class only, cat") as caught:
        splits = load_splits(tree(tmp_path, classes=("cat",)))
    assert caught[0].filename == __file__
    assert splits.classes == ("cat",)
    assert list(splits) == ["train", "val", "test"]


def test_images_without_labels(tmp_path):
    for number in range(3):
        picture().save(tmp_path / f"{number}.png")
    with pytest.warns(UserWarning, match="no labels, which is enough for an audit"):
        splits = load_splits(tmp_path)
    assert splits["all"].labels is None
    assert len(splits["all"]) == 3


def test_the_folder_above(tmp_path):
    tree(tmp_path / "chest_xray")
    with pytest.raises(DataError, match="chest_xray has: give that one"):
        load_splits(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"val_share": 1.0},
        {"val_share": -0.1},
        {"workers": 0},
        {"image_size": 0},
        {"image_size": (3, 3, 3)},
        {"channels": 2},
        {"on_error": "ignore"},
        {"resize": "stretch"},
        {"cache": "memory"},
    ],
)
def test_options_that_cannot_work(tmp_path, wrong):
    with pytest.raises(ConfigError):
        load_splits(tree(tmp_path, count=2), **wrong)


def test_progress_shows_only_when_asked(tmp_path, capsys):
    tree(tmp_path)
    load_splits(tmp_path)
    assert not capsys.readouterr().err
    load_splits(tmp_path, progress=True)
    assert "reading images" in capsys.readouterr().err


def test_the_kermany_subset(shared_path):
    pattern = r"(person\d+|(NORMAL2-)?IM-\d+)"
    splits = load_splits(shared_path / "data" / "kermany224", groups=pattern, image_size=32)
    assert splits.classes == ("NORMAL", "PNEUMONIA")
    assert [len(data) for data in splits.values()] == [1600, 400, 400]
    assert all(data.images.shape[1:] == (32, 32, 1) for data in splits.values())
    assert splits["val"].class_counts().tolist() == [200, 200]
    assert (splits["test"].sizes == 224).all()
    groups = [set(data.groups or ()) for data in splits.values()]
    assert not groups[0] & groups[1]
    assert sum(map(len, (groups[0] | groups[1], groups[2]))) == 2110


PLACES = [(split, title) for split in ("train", "test") for title in ("cat", "dog")]
PLACES += [(), ("train",), ("notes",), ("train", "cat", "x"), ("test", "dog", "masks"), ("@eaDir",)]
FILES = ["a.png", "b.PNG", "c.txt", "d", "e.npy", ".hidden.png", "f.dcm", "Thumbs.db"]
TREES = st.sets(st.tuples(st.sampled_from(PLACES), st.sampled_from(FILES)), max_size=14)


@given(TREES)
@settings(max_examples=60, deadline=None)
def test_every_file_is_read_or_listed_or_the_load_stops(files):
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = files | {(place, "first.png") for place in PLACES[:3]}
        for above, name in files:
            place = Path(folder, *above)
            place.mkdir(parents=True, exist_ok=True)
            if name.lower().endswith(("png", "d")):
                Image.new("L", (3, 3)).save(place / name, "PNG")
            else:
                (place / name).write_bytes(b"x")
        try:
            splits = load_splits(folder, val_share=0, leave_out=[])
        except DataError:
            return
        seen = [name for data in splits.values() for name in data.names]
        listed = [file.path for file in splits.skipped]
        junk = {"Thumbs.db", ".hidden.png", "@eaDir"}
        wanted = {"/".join((*above, name)) for above, name in files if not junk & {*above, name}}
        assert sorted([*seen, *listed]) == sorted(wanted)
