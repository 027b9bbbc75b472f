"""Groups of any type: equal where the values are equal, and a missing one is its own."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import transferkit as tk
from transferkit._sampling import group_codes
from transferkit.data.array_conversion import to_group_names
from transferkit.data.splits import groups_from_names


def data(groups: object, start: int = 0) -> tk.ImageData:
    count = len(groups)  # type: ignore[arg-type]
    images = np.random.default_rng(start).integers(0, 256, (count, 16, 16), dtype=np.uint8)
    return tk.ImageData(images, np.arange(count) % 2, groups=groups)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "groups",
    [
        [3, 3, 7, 8],
        [3.0, 3.0, 7.0, 8.0],
        np.array([3, 3, 7, 8], np.float32),
        np.array([3, 3, 7, 8], np.uint8),
        np.array([3, 3, 7, 8], object),
        ["3", "3", "7", "8"],
        torch.tensor([3, 3, 7, 8]),
        torch.tensor([3.0, 3.0, 7.0, 8.0]),
    ],
)
def test_whole_numbers_of_every_type_are_the_same_group(groups: object) -> None:
    assert data(groups).groups == ("3", "3", "7", "8")


@pytest.mark.parametrize(
    "missing", [None, np.nan, float("nan"), np.float32("nan"), "", np.datetime64("NaT")]
)
def test_a_missing_group_is_its_own_in_every_split(missing: object) -> None:
    first, second = data([missing, 5, missing]), data([5, missing])
    names = [*(first.groups or ()), *(second.groups or ())]
    assert names == [None, "5", None, "5", None]
    assert group_codes(names, 5).tolist() == [1, 0, 2, 0, 3]
    assert first.subset([2]).groups == (None,)
    assert tk.Splits({"train": first, "val": second}).to_dict()["splits"]["train"]["groups"] == 3
    assert pickle.loads(pickle.dumps(first)).groups == first.groups


def test_arrays_of_texts_hold_missing_values_as_text() -> None:
    groups = data(np.array(["p1", np.nan, "p1", None, np.nan], dtype=str)).groups or ()
    assert groups == ("p1", None, "p1", None, None)


@given(st.lists(st.one_of(st.integers(-5, 5), st.none(), st.sampled_from(["a", "b"])), min_size=1))
def test_equal_groups_and_no_others_are_one(groups: list[object]) -> None:
    names = to_group_names(groups)
    codes = group_codes(names, len(groups))
    assert sorted(set(codes.tolist())) == list(range(codes.max() + 1))
    for i, a in enumerate(groups):
        assert (names[i] is None) == (a is None)
        for j, b in enumerate(groups):
            assert (codes[i] == codes[j]) == (i == j or (a is not None and a == b))
    floats = [float(group) if isinstance(group, int) else group for group in groups]
    again = to_group_names(floats)
    for group, name, other in zip(groups, names, again, strict=True):
        assert group is None or name == other


def test_the_audit_finds_a_patient_numbered_as_a_float() -> None:
    splits = {"train": data(np.arange(20), 1), "test": data(np.arange(15, 35.0), 2)}
    for groups in (None, {"train": np.arange(20), "test": np.arange(15, 35.0)}):
        report = tk.audit_splits(splits, groups=groups, near_duplicates=False, seeds=range(1))
        (found,) = [one for one in report.findings if one.check == "straddling_groups"]
        assert found.severity == "error"
        assert found.statistic == 5
    missing = {"train": [None] * 20, "test": [float("nan")] * 20}
    report = tk.audit_splits(splits, groups=missing, near_duplicates=False, seeds=range(1))
    (found,) = [one for one in report.findings if one.check == "straddling_groups"]
    assert found.severity == "info"


def test_a_division_by_groups_with_missing_ones_repeats_and_tears_none() -> None:
    splits = {"train": data([None, 1, 1, 2] * 10, 1), "test": data([None, 2.0, 3, 4] * 5, 2)}
    first, again = (tk.resplit(splits, seed=0, groups=True) for _ in range(2))
    for name in splits:
        np.testing.assert_array_equal(first[name].images, again[name].images)
    groups = [{*(part.groups or ())} - {None} for part in first.values()]
    assert not groups[0] & groups[1]
    rebuilt = {"train": data([None, 1, 1, 2] * 10, 1), "test": data([None, 2.0, 3, 4] * 5, 2)}
    other = tk.resplit(rebuilt, seed=0, groups=True)
    np.testing.assert_array_equal(other["test"].images, first["test"].images)


def test_a_pattern_is_matched_on_the_relative_path() -> None:
    names = [
        "train/XR_ELBOW/patient00011/study1_positive/image1.png",
        "train/XR_ELBOW/patient00012/study1_negative/image1.png",
        "valid/patient00011/view1.jpg",
        "valid/none.png",
    ]
    found = groups_from_names(names, r"patient\d+")
    assert found == ["patient00011", "patient00012", "patient00011", "valid/none.png"]
    assert groups_from_names(names[:2], r"patient\d+/study\d+") == [
        "patient00011/study1",
        "patient00012/study1",
    ]
    # the file's own name counts first
    assert groups_from_names(["person1/person12_a.png"], r"person\d+") == ["person12"]


def test_images_of_one_name_without_a_match_are_not_one_group() -> None:
    found = groups_from_names(["image[0]", "p1", "image[0]"], r"p\d")
    assert found == [None, "p1", None]


def test_a_folder_of_patient_folders_is_divided_by_patient(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for patient in range(20):
        folder = tmp_path / "train" / "ab"[patient % 2] / f"patient{patient:03d}"
        folder.mkdir(parents=True)
        for image in range(3):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(
                folder / f"{image}.png"
            )
    splits = tk.load_splits(tmp_path, groups=r"patient\d+", val_share=0.3)
    train, val = (set(splits[name].groups or ()) for name in ("train", "val"))
    assert not train & val
    assert len(train | val) == 20
