"""Names of splits: recognised, said by the caller, or refused with a call that works."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import transferkit as tk
from transferkit.data.split_names import FILLERS, SPLITS, WORDS, split_of
from transferkit.errors import ConfigError, DataError

rng = np.random.default_rng(0)


def tree(root: Path, folders: list[str], classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for folder in folders:
        for title in classes:
            (root / folder / title).mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / title / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("training_set", "train"),
        ("seg_train", "train"),
        ("train_images", "train"),
        ("TRAIN", "train"),
        ("trainset", "train"),
        ("test-set", "test"),
        ("Testing", "test"),
        ("dev", "val"),
        ("valid_images", "val"),
        ("trainval", None),
        ("train1", None),
        ("train_labels", None),
        ("train_test", None),
        ("latest", None),
        ("cat", None),
        ("data", None),
        ("set", None),
    ],
)
def test_the_split_of_a_name(name: str, split: str | None) -> None:
    assert split_of(name) == split


@given(
    st.sampled_from(sorted(WORDS)),
    st.lists(st.sampled_from(sorted(FILLERS)), max_size=2),
    st.booleans(),
    st.sampled_from("_- ."),
)
def test_filler_words_change_nothing(word: str, fillers: list[str], last: bool, mark: str) -> None:
    words = [*fillers, word] if last else [word, *fillers]
    assert split_of(mark.join(words).title()) == WORDS[word]


@pytest.mark.parametrize(
    "folders",
    [
        ["training_set", "test_set"],
        ["seg_train", "seg_test"],
        ["train_images", "dev", "test_images"],
        ["Training", "Validation", "Testing"],
    ],
)
def test_usual_names_of_splits_are_splits(tmp_path: Path, folders: list[str]) -> None:
    splits = tk.load_splits(tree(tmp_path, folders), val_share=0)
    assert list(splits) == [split for split in SPLITS if split in map(split_of, folders)]
    assert splits.classes == ("cat", "dog")
    assert [len(data) for data in splits.values()] == [8] * len(folders)


def listed(own: str | list[str]) -> list[str]:
    return [own] if isinstance(own, str) else own


REFUSED = [
    ["train", "test", "extra"],
    ["train1", "train2", "test"],
    ["trainval", "test"],
    ["control", "test"],
    ["fold1", "fold2", "fold3"],
    ["part_1", "part_2"],
    ["site_a", "site_b"],
]


@pytest.mark.parametrize("folders", REFUSED)
def test_what_would_be_dropped_or_become_classes_is_refused_with_calls_that_work(
    tmp_path: Path, folders: list[str]
) -> None:
    tree(tmp_path, folders)
    with pytest.raises(DataError) as caught:
        tk.load_splits(tmp_path)
    advice = re.findall(r"split_folders=(\{.*?\})", str(caught.value))
    assert len(advice) >= 2
    used: set[str] = set()
    for call in advice:
        given = eval(call)
        splits = tk.load_splits(tmp_path, split_folders=given, val_share=0.25)
        total = sum(len(data) for data in splits.values())
        named = [
            name for own in given.values() for name in ([own] if isinstance(own, str) else own)
        ]
        assert total == 8 * len(named or folders)
        assert splits.classes == (("cat", "dog") if given else tuple(sorted(folders)))
    used = {
        name
        for call in advice
        for own in eval(call).values()
        for name in ([own] if isinstance(own, str) else own)
    }
    assert used == set(folders)


def test_folders_named_as_parts_without_classes_are_not_classes(tmp_path: Path) -> None:
    tree(tmp_path, ["."], ("fold_1", "fold_2"))
    with pytest.raises(DataError, match="names are those of parts"):
        tk.load_splits(tmp_path)
    assert tk.load_splits(tmp_path, split_folders={}, val_share=0.25).classes == (
        "fold_1",
        "fold_2",
    )


def test_classes_of_numbers_or_of_one_folder_inside_stay_classes(tmp_path: Path) -> None:
    tree(tmp_path / "a", ["."], ("0", "1", "2"))
    assert tk.load_splits(tmp_path / "a", val_share=0.25).num_classes == 3
    tree(tmp_path / "b", ["cat"], ("site1", "site2"))
    tree(tmp_path / "b", ["dog"], ("site2", "site3"))
    assert tk.load_splits(tmp_path / "b", val_share=0.25).classes == ("cat", "dog")


def test_folders_without_images_beside_splits_are_none_of_ours(tmp_path: Path) -> None:
    tree(tmp_path, ["train", "test"])
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.csv").write_text("x")
    assert len(tk.load_splits(tmp_path)) == 3


def test_several_folders_make_one_split(tmp_path: Path) -> None:
    tree(tmp_path, ["fold1", "fold2", "fold3"])
    splits = tk.load_splits(
        tmp_path, split_folders={"test": "fold3", "train": ["fold1", "fold2"]}, val_share=0
    )
    assert [len(data) for data in splits.values()] == [16, 8]
    assert {name.split("/")[0] for name in splits["train"].names} == {"fold1", "fold2"}
    assert splits["train"].class_counts().tolist() == [8, 8]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"train": "nowhere"}, DataError, "no 'nowhere'; there are: a, b"),
        ({"holdout": "a"}, ConfigError, "must map train, val and test"),
        ("a", ConfigError, "must map train, val and test"),
        ({"train": "a", "test": ["a", "b"]}, ConfigError, "twice"),
        ({"train": 3}, ConfigError, "must map train, val and test"),
        ({"train": []}, ConfigError, "must map train, val and test"),
    ],
)
def test_options_that_cannot_work(
    tmp_path: Path, given: object, error: type[Exception], message: str
) -> None:
    tree(tmp_path, ["a", "b"])
    with pytest.raises(error, match=message):
        tk.load_splits(tmp_path, split_folders=given)  # type: ignore[arg-type]


def archive(path: Path, names: list[str]) -> Path:
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
    for name in names:
        arrays[f"{name}_images"] = rng.integers(0, 256, (8, 6, 6), dtype=np.uint8)
        arrays[f"{name}_labels"] = np.arange(8) % 2
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_keys_of_an_archive_are_recognised_or_refused(tmp_path: Path) -> None:
    splits = tk.load_splits(archive(tmp_path / "a.npz", ["train", "valid", "test"]))
    assert [len(data) for data in splits.values()] == [8, 8, 8]
    path = archive(tmp_path / "b.npz", ["train", "extra", "test"])
    with pytest.raises(DataError, match="belong to no split: extra") as caught:
        tk.load_splits(path)
    advice = re.findall(r"split_folders=(\{.*?\})", str(caught.value))
    sizes = []
    for call in advice:
        splits = tk.load_splits(path, split_folders=eval(call), val_share=0)
        sizes.append([len(data) for data in splits.values()])
    assert sizes == [[8, 8], [16, 8]]
