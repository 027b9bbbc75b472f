"""Every form in which people have labelled images is read as what it is, or refused by name."""

from __future__ import annotations

import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

import transferkit as tk
from transferkit.data import folder_layout

CLASSES = ("cat", "dog")


def pixels_of(label: int, number: int) -> np.ndarray:
    """A picture that tells its class (the first pixel) and its number (the second)."""
    image = np.zeros((6, 7), np.uint8)
    image[0, :2] = 100 + label, number
    return image


def save(path: Path, label: int, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_of(label, number)).save(path)


def check(splits: tk.Splits, expected: Mapping[str, int], classes=CLASSES) -> None:
    """The splits have so many images, and the label of each is the one that its pixels tell."""
    assert {name: len(data) for name, data in splits.items()} == expected
    assert splits.classes == tuple(classes)
    for data in splits.values():
        np.testing.assert_array_equal(data.images[:, 0, 0, 0] - 100, data.labels)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for split, count in (("train", 10), ("val", 4), ("test", 6)):
        for number in range(count):
            label = number % 2
            save(tmp_path / "data" / split / CLASSES[label] / f"{number}.png", label, number)
    return tmp_path / "data"


SIZES = {"train": 10, "val": 4, "test": 6}


def flat(root: Path, count: int = 20) -> Path:
    for number in range(count):
        save(root / "images" / f"img_{number:03d}.png", number % 2, number)
    return root


# Folders


def test_a_mapping_of_folders(folders: Path) -> None:
    shutil.move(folders / "test", folders.parent / "held out")
    splits = tk.load_splits(
        {"train": folders / "train", "valid": folders / "val", "test": folders.parent / "held out"}
    )
    check(splits, SIZES)
    assert splits["test"].names[0] == "held out/cat/0.png"
    check(tk.load_splits({"train": folders / "train"}, val_share=0.4), {"train": 6, "val": 4})
    with pytest.raises(tk.DataError, match="has splits of its own: train, val"):
        tk.load_splits({"train": folders})
    with pytest.raises(tk.DataError, match="names no splits: a"):
        tk.load_splits({"a": folders})


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("nested", [False, True])
def test_archives(folders: Path, tmp_path: Path, suffix: str, nested: bool) -> None:
    kind = {"tar.gz": "gztar"}.get(suffix, suffix)
    inside = (folders.parent, "data") if nested else (folders, None)
    path = shutil.make_archive(str(tmp_path.parent / tmp_path.name / "packed"), kind, *inside)
    check(tk.load_splits(path), SIZES)
    found = tk.load_splits(path, cache="disk", cache_folder=tmp_path / "cache")
    again = tk.load_splits(path, cache="disk", cache_folder=tmp_path / "cache")
    assert found["train"].names == again["train"].names
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_damaged_archive(tmp_path: Path) -> None:
    for name in ("x.zip", "x.tar.gz"):
        (tmp_path / name).write_bytes(b"junk")
        with pytest.raises(tk.DataError, match="no readable archive"):
            tk.load_splits(tmp_path / name)
    (tmp_path / "empty").mkdir()
    path = shutil.make_archive(str(tmp_path / "none"), "zip", tmp_path / "empty")
    with pytest.raises(tk.DataError, match=r"^none.zip has no folders and no images"):
        tk.load_splits(path)


def test_an_archive_of_a_table_or_of_arrays(tmp_path: Path) -> None:
    root = flat(tmp_path / "a" / "pets")
    table = "\n".join(f"img_{n:03d}.png,{CLASSES[n % 2]}" for n in range(20))
    (root / "labels.csv").write_text(f"image,label\n{table}")
    path = shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "a")
    with pytest.warns(UserWarning, match="columns were read as"):
        check(tk.load_splits(path, labels="labels.csv"), {"train": 12, "val": 4, "test": 4})


def test_a_link_is_followed_and_one_that_leads_back_is_not(folders: Path) -> None:
    aside = folders.parent / "aside"
    shutil.move(folders / "train" / "dog", aside)
    (folders / "train" / "dog").symlink_to(aside, target_is_directory=True)
    (aside / "loop").symlink_to(folders, target_is_directory=True)
    splits = tk.load_splits(folders)
    check(splits, SIZES)
    assert [(file.path, file.broken) for file in splits.skipped] == [("train/dog/loop", False)]
    assert "leads back" in splits.skipped[0].reason


def test_what_is_left_out_is_listed_with_its_reason_and_counted(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("scan.dcm", "brain.nii", "mean.npy", "notes.txt", "README"):
        (folders / "train" / "cat" / name).write_bytes(b"x")
    save(folders / "train" / "beside.png", 0, 0)
    (folders / "train" / "cat" / "gone").symlink_to(folders / "nowhere")
    (folders / "train" / "@eaDir").mkdir()
    (folders / "train" / "@eaDir" / "thumb.jpg").write_bytes(b"x")
    locked = folders / "test" / "locked"
    locked.mkdir()
    scan = os.scandir

    def refuse(path):
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    splits = tk.load_splits(folders)
    check(splits, SIZES)
    reasons = {file.path: file.reason for file in splits.skipped}
    assert reasons.pop("train/cat/scan.dcm").startswith("DICOM")
    assert reasons.pop("train/cat/brain.nii").startswith("a NIfTI")
    assert reasons == {
        "train/cat/mean.npy": "an array among image files",
        "train/cat/notes.txt": "no image (.txt)",
        "train/cat/README": "no image (no suffix)",
        "train/cat/gone": "the link leads nowhere",
        "train/beside.png": "in no class folder of a split",
        "test/locked": "cannot be read: Permission denied",
    }
    assert "8 files skipped (" in str(splits)


@pytest.mark.parametrize("place", ["train", "train/dog", "test"])
def test_a_folder_that_cannot_be_read_is_named(
    folders: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    scan = os.scandir

    def refuse(path):
        if Path(path) == folders / place:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(tk.DataError, match=f"{place} .*cannot be read: Permission denied"):
        tk.load_splits(folders)


@pytest.mark.parametrize("name", ["a.avif", "a.jp2", "a.tga", "a.mpo", "a.TIFF", "picture"])
def test_files_of_less_common_kinds_are_images(folders: Path, name: str) -> None:
    path = folders / "train" / "cat" / name
    kind = Path(name).suffix[1:].upper() or "PNG"
    kind = {"JP2": "JPEG2000"}.get(kind, kind)
    Image.fromarray(np.full((6, 7), 100, np.uint8)).save(path, kind)
    splits = tk.load_splits(folders)
    assert f"train/cat/{name}" in splits["train"].names
    assert not splits.skipped
    assert f".{kind.lower()}" in Image.registered_extensions() or kind == "JPEG2000"


def test_every_suffix_is_one_that_pillow_reads() -> None:
    Image.init()
    readable = {s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    assert readable | {".mpo"} >= folder_layout.SUFFIXES  # an MPO is opened as a JPEG


def test_folders_whose_names_say_nothing_are_passed_through(folders: Path, tmp_path: Path) -> None:
    for split in SIZES:  # as the Intel scenes have it: seg_train/seg_train/forest
        (folders / split).rename(folders / f"seg_{split}")
        (tmp_path / "more" / "images" / f"seg_{split}").mkdir(parents=True)
        (folders / f"seg_{split}").rename(tmp_path / "more" / "images" / f"seg_{split}" / split)
    splits = tk.load_splits(tmp_path / "more")
    check(splits, SIZES)
    assert splits["val"].names[0] == "images/seg_val/val/cat/0.png"


@pytest.mark.parametrize("kind", ["beside", "nested", "direct"])
def test_masks_beside_images_are_asked_about(tmp_path: Path, kind: str) -> None:
    for number in range(20):
        title = CLASSES[number % 2]
        if kind == "beside":
            save(tmp_path / title / f"{number}.png", number % 2, number)
            save(tmp_path / "masks" / f"{number}.png", 5, number)
        else:
            inner = "images" if kind == "nested" else "."
            save(tmp_path / title / inner / f"x{number}.png", number % 2, number)
            save(tmp_path / title / "masks" / f"{number}.png", 5, number)
    with pytest.raises(tk.DataError, match=r"masks beside .*leave_out=\['masks'\]") as caught:
        tk.load_splits(tmp_path)
    advice = re.findall(r"leave_out=(\[.*?\])", str(caught.value))
    check(tk.load_splits(tmp_path, leave_out=eval(advice[0])), {"train": 12, "val": 4, "test": 4})
    whole = tk.load_splits(tmp_path, leave_out=eval(advice[1]))
    assert sum(map(len, whole.values())) == 40


def test_face_masks_are_classes(tmp_path: Path) -> None:
    for number in range(20):
        save(tmp_path / ("mask", "no_mask")[number % 2] / f"{number}.png", number % 2, number)
    check(tk.load_splits(tmp_path), {"train": 12, "val": 4, "test": 4}, ("mask", "no_mask"))


@pytest.mark.parametrize("inside", [".", "test", "unknown", "images"])
def test_a_test_folder_without_labels(folders: Path, inside: str) -> None:
    shutil.rmtree(folders / "test")
    save(folders / "test" / inside / "1.png", 0, 1)
    splits = tk.load_splits(folders)
    assert splits["test"].labels is None
    assert splits["test"].names == (f"test/{inside}/1.png".replace("/./", "/"),)


def test_a_class_of_one_image_stays_in_train(tmp_path: Path) -> None:
    for number in range(40):
        save(tmp_path / CLASSES[number % 2] / f"p{number // 4}_{number}.png", number % 2, number)
    save(tmp_path / "eel" / "p77_1.png", 2, 200)
    for seed in range(10):
        for groups in (None, r"p\d+"):
            with pytest.warns(UserWarning, match="has no image of the class eel"):
                splits = tk.load_splits(tmp_path, seed=seed, groups=groups, val_share=0.3)
            assert splits["train"].class_counts()[2] == 1


def test_accents_are_the_same_however_they_are_written(folders: Path) -> None:
    for split, form in (("train", "NFC"), ("val", "NFD"), ("test", "NFD")):
        title = unicodedata.normalize(form, "caf\u00e9")
        (folders / split / "cat").rename(folders / split / title)
    (folders / "test" / "caf\u00e9").mkdir()
    check(tk.load_splits(folders), SIZES, ("caf\u00e9", "dog"))


def test_names_that_are_no_utf8(folders: Path) -> None:
    place = folders / "train" / "cat"
    (place / "0.png").rename(place / os.fsdecode(b"\xff.png"))
    splits = tk.load_splits(folders, cache="disk", cache_folder=folders.parent / "cache")
    check(splits, SIZES)
    names = splits["train"].names
    assert "train/cat/\\udcff.png" in names
    for name in (*names, *tk.ImageData(np.zeros((1, 8, 8)), names=[os.fsdecode(b"\xff")]).names):
        name.encode()


# Tables


def table_of(
    root: Path, name: str, header: str, row, delimiter: str = ",", count: int = 20
) -> Path:
    lines = [delimiter.join(map(str, row(number))) for number in range(count)]
    (root / name).write_text(
        "\n".join([header.replace(",", delimiter), *lines] if header else lines)
    )
    return root / name


FORMS = {
    "plain": ("image,label", lambda n: (f"images/img_{n:03d}.png", CLASSES[n % 2]), {}),
    "HAM10000": (
        "lesion_id,image_id,dx,dx_type,age,sex",
        lambda n: (f"L{n // 4}", f"img_{n:03d}", CLASSES[n % 2], "histo", 40 + n, "male"),
        {"path": "image_id", "label": "dx", "group": "lesion_id"},
    ),
    "NIH": (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age",
        lambda n: (f"img_{n:03d}.png", CLASSES[n % 2], n, n // 4, 50),
        {"path": "Image Index", "label": "Finding Labels", "group": "Patient ID"},
    ),
    "ISIC 2018": (
        "image,cat,dog,eel",
        lambda n: (f"img_{n:03d}", 1.0 - n % 2, float(n % 2), 0.0),
        {"path": "image", "label": "cat, dog, eel"},
    ),
    "ISIC 2020": (
        "image_name,patient_id,sex,benign_malignant,target",
        lambda n: (f"img_{n:03d}", f"IP_{n // 4}", "male", "benign", CLASSES[n % 2]),
        {"path": "image_name", "label": "target", "group": "patient_id"},
    ),
    "RSNA": (
        "patientId,x,y,width,height,Target",
        lambda n: (f"img_{n % 10:03d}", n, n, 5, 5, CLASSES[n % 2]),
        {"path": "patientId", "label": "Target"},
    ),
    "MedMNIST": (
        "",
        lambda n: (("TRAIN", "VALIDATION", "TEST")[n // 7], f"img_{n:03d}.png", CLASSES[n % 2]),
        {"path": "column 2", "split": "column 1", "label": "column 3"},
    ),
    "absolute": (
        "file,diagnosis,set",
        lambda n: (
            f"/home/me/data/images/img_{n:03d}.png",
            CLASSES[n % 2],
            ("train", "dev")[n > 9],
        ),
        {"path": "file", "label": "diagnosis", "split": "set"},
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_tables_of_public_datasets(tmp_path: Path, form: str, delimiter: str) -> None:
    header, row, roles = FORMS[form]
    path = table_of(flat(tmp_path), "metadata.csv", header, row, delimiter)
    with pytest.warns(UserWarning, match="columns were read as") as caught:
        splits = tk.load_splits(tmp_path, labels="metadata.csv")
    assert caught[0].filename == __file__
    shown = eval(re.search(r"columns=(\{.*?\})", str(caught[0].message))[1])
    assert roles.items() <= shown.items()
    total = {"RSNA": 10}.get(form, 20)
    sizes = {name: len(data) for name, data in splits.items()}
    expected = {"MedMNIST": [7, 7, 6], "absolute": [10, 10]}.get(
        form, [round(total * share) for share in (0.6, 0.2, 0.2)]
    )
    assert [*sizes.values()] == expected or "group" in roles
    check(splits, sizes)
    if "group" in roles:
        groups = [set(data.groups) for data in splits.values()]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 5
    again = tk.load_splits(tmp_path, labels=path, columns=shown)
    assert again["train"].fingerprint() == splits["train"].fingerprint()
    with pytest.warns(UserWarning, match="columns were read as"):
        assert tk.load_splits(path)["train"].names == splits["train"].names


def test_rows_without_a_file_and_files_without_a_row(tmp_path: Path) -> None:
    root = flat(tmp_path)
    save(root / "images" / "extra.png", 0, 0)
    rows = lambda n: (f"img_{n + 2:03d}.png", CLASSES[n % 2])  # noqa: E731
    table_of(root, "labels.csv", "path,label", rows)
    options = {"labels": "labels.csv", "columns": {"path": "path", "label": "label"}}
    with pytest.raises(tk.DataError, match=r"Cannot read img_02.\.png: .*No such file.*skip"):
        tk.load_splits(root, **options)
    splits = tk.load_splits(root, **options, on_error="skip")
    check(splits, {name: len(data) for name, data in splits.items()})
    assert sum(map(len, splits.values())) == 18
    assert {file.path: file.broken for file in splits.skipped} == {
        "img_020.png": True,
        "img_021.png": True,
        "images/extra.png": False,
        "images/img_000.png": False,
        "images/img_001.png": False,
        "labels.csv": False,
    }


def test_a_file_of_the_same_name_in_another_folder_is_another_file(tmp_path: Path) -> None:
    for number in range(6):
        save(tmp_path / "train" / f"{number}.png", number % 2, number)
        save(tmp_path / "test" / f"{number}.png", number % 2, 50 + number)
    rows = [f"{s}/{n}.png,{CLASSES[n % 2]},{s}" for s in ("train", "test") for n in range(6)]
    (tmp_path / "t.csv").write_text("\n".join(["file,label,split", *rows]))
    columns = {"path": "file", "label": "label", "split": "split"}
    splits = tk.load_splits(tmp_path / "t.csv", columns=columns, val_share=0)
    check(splits, {"train": 6, "test": 6})
    assert (splits["test"].images[:, 0, 1, 0] >= 50).all()
    (tmp_path / "test" / "3.png").unlink()
    with pytest.raises(tk.DataError, match=r"Cannot read test/3\.png"):
        tk.load_splits(tmp_path / "t.csv", columns=columns)


def test_a_name_that_several_files_have_is_asked_about(tmp_path: Path) -> None:
    root = flat(tmp_path)
    save(root / "masks" / "img_003.png", 0, 0)
    path = table_of(root, "t.csv", "id,label", lambda n: (f"img_{n:03d}", CLASSES[n % 2]))
    columns = {"path": "id", "label": "label"}
    with pytest.raises(
        tk.DataError, match=r"img_003 of t.csv may be any of .*leave_out=\['masks'\]"
    ):
        tk.load_splits(path, columns=columns)
    splits = tk.load_splits(path, columns=columns, leave_out=["masks"])
    check(splits, {"train": 12, "val": 4, "test": 4})


def test_lists_of_files_and_labels(tmp_path: Path) -> None:
    root = flat(tmp_path)
    for split, first in (("train", 0), ("test", 12)):
        rows = [f"images/img_{n:03d}.png {CLASSES[n % 2]}" for n in range(first, first + 8)]
        (root / f"{split}.txt").write_text("\n".join(rows))
    parts = {split: root / f"{split}.txt" for split in ("train", "test")}
    columns = {"path": "column 1", "label": "column 2"}
    check(tk.load_splits(parts, columns=columns, val_share=0), {"train": 8, "test": 8})


def test_a_split_of_a_table_without_labels(tmp_path: Path) -> None:
    row = lambda n: (f"img_{n:03d}", CLASSES[n % 2] if n < 14 else "", ("train", "test")[n > 13])  # noqa: E731
    columns = {"path": "id", "label": "label", "split": "split"}
    path = table_of(flat(tmp_path), "t.csv", "id,label,split", row)
    splits = tk.load_splits(path, columns=columns, val_share=0)
    assert splits["test"].labels is None
    assert len(splits["test"]) == 6
    other = table_of(tmp_path, "t.csv", "id,label,split", lambda n: (*row(n)[:2], "train"))
    with pytest.raises(tk.DataError, match="6 of 20 images of train have no label"):
        tk.load_splits(other, columns=columns)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (
            "id,label",
            lambda n: (f"img_{n:03d}", "cat|dog" if n == 3 else CLASSES[n % 2]),
            "several classes",
        ),
        ("id,label", lambda n: (f"x{n}", "cat"), "names images that are there"),
        (
            "id,bone_age",
            lambda n: (f"img_{n:03d}", n * 0.7),
            "bone_age of t.csv has 21 .* no class",
        ),
        ("id,a,b", lambda n: (f"img_{n:03d}", n, n + 1), "known to hold the labels: a, b"),
        ("id,label", lambda n: (f"img_{n % 10:03d}", CLASSES[n // 11]), "two rows .* that differ"),
        ("id,label", lambda n: (f"img_{n:03d}", "cat", 3), "2 columns, but 3 in row 1"),
        ("id,label,split", lambda n: (f"img_{n:03d}", "cat", n % 3), "names no splits: 0, 1, 2"),
    ],
)
def test_tables_that_do_not_say_it(tmp_path: Path, header: str, row, message: str) -> None:
    path = table_of(flat(tmp_path, 21), "t.csv", header, row, count=21)
    with pytest.raises(tk.DataError, match=message):
        tk.load_splits(path)


def test_options_of_tables_that_cannot_work(tmp_path: Path) -> None:
    path = table_of(flat(tmp_path), "t.csv", *FORMS["plain"][:2])
    with pytest.raises(tk.ConfigError, match="columns must map path, label, split, group"):
        tk.load_splits(path, columns={"label": "nothing"})
    with pytest.raises(tk.DataError, match=r"no table other\.csv"):
        tk.load_splits(tmp_path, labels="other.csv")
    with pytest.raises(tk.ConfigError, match="matches no part of 20 of 20 paths"):
        tk.load_splits(tmp_path, labels="cat|dog")
    with pytest.raises(tk.ConfigError, match="no regular expression"):
        tk.load_splits(tmp_path, labels="(")
    with pytest.raises(tk.ConfigError, match="labels must be the path"):
        tk.load_splits(tmp_path, labels=3)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(tk.DataError, match="empty table"):
        tk.load_splits(tmp_path / "empty.csv")
    (tmp_path / "latin.csv").write_bytes("file,é\n".encode("latin-1"))
    with pytest.raises(tk.DataError, match="no readable table in UTF-8"):
        tk.load_splits(tmp_path / "latin.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leave_out": "masks"}, "leave_out must be a list"),
        ({"leave_out": [3]}, "leave_out must be a string"),
        ({"columns": 3}, "columns must map roles"),
        ({"columns": {"path": ["a"]}}, "columns must map roles"),
        ({"columns": {"label": "dx"}}, "columns means nothing for images without a table"),
        ({"groups": 3}, "groups must be a string"),
    ],
)
def test_options_of_the_wrong_kind(folders: Path, options, message: str) -> None:
    with pytest.raises(tk.ConfigError, match=message):
        tk.load_splits(folders, **options)


def test_options_that_mean_nothing_are_refused(folders: Path) -> None:
    np.savez(folders / "x.npz", images=np.zeros((4, 5, 5)))
    table = table_of(flat(folders.parent), "t.csv", "id,label", lambda n: (f"img_{n:03d}", n % 2))
    for data, options in (
        (folders / "x.npz", {"labels": "t.csv"}),
        (Pairs(), {"split_folders": {"train": "a"}}),
        (Frame(id=["a"]), {"leave_out": ["x"]}),
        (table, {"labels": "t.csv"}),
    ):
        with pytest.raises(tk.ConfigError, match="means nothing for"):
            tk.load_splits(data, **options)


def test_labels_in_file_names(tmp_path: Path) -> None:
    for number in range(20):
        save(tmp_path / f"{CLASSES[number % 2]}.{number}.png", number % 2, number)
    check(tk.load_splits(tmp_path, labels=r"^(cat|dog)\."), {"train": 12, "val": 4, "test": 4})
    check(tk.load_splits(tmp_path, labels="cat|dog"), {"train": 12, "val": 4, "test": 4})


@pytest.mark.parametrize("by", ["pattern", "table"])
def test_split_folders_count_where_a_table_or_a_pattern_tells_the_labels(
    folders: Path, by: str
) -> None:
    labels: object = r"cat|dog"
    options: dict[str, object] = {}
    if by == "table":
        paths = [path.relative_to(folders).as_posix() for path in folders.rglob("*.png")]
        rows = [f"{path},{path.split('/')[1]}" for path in paths]
        (folders / "t.csv").write_text("\n".join(["path,label", *rows]))
        labels, options = "t.csv", {"columns": {"path": "path", "label": "label"}}
    check(tk.load_splits(folders, labels=labels, **options), SIZES)
    if by == "table":
        with pytest.warns(UserWarning, match="columns were read as") as caught:
            tk.load_splits(folders, labels=labels)
        shown = eval(re.search(r"columns=(\{.*?\})", str(caught[0].message))[1])
        check(tk.load_splits(folders, labels=labels, columns=shown), SIZES)


def test_nothing_is_guessed_beside_named_columns(tmp_path: Path) -> None:
    row = lambda n: (f"img_{n:03d}", CLASSES[n % 2], "train", n // 4, "x" * 300)  # noqa: E731
    path = table_of(flat(tmp_path), "t.csv", "id,label,split,patient_id,text", row)
    splits = tk.load_splits(path, columns={"path": "id", "label": "label"})
    check(splits, {"train": 12, "val": 4, "test": 4})
    assert splits["train"].groups is None


def test_numbers_that_are_labels_are_no_file_names(tmp_path: Path) -> None:
    for number in range(20):
        save(tmp_path / f"{number}.png", number % 2, number)
    table_of(tmp_path, "t.csv", "label,id", lambda n: (n % 2, n))
    with pytest.warns(UserWarning, match="'path': 'id', 'label': 'label'"):
        check(tk.load_splits(tmp_path / "t.csv"), {"train": 12, "val": 4, "test": 4}, "01")


class Frame:
    """The least that data frames have in common."""

    def __init__(self, **columns):
        self.held = columns
        self.columns = list(columns)

    def __dataframe__(self):
        raise NotImplementedError

    def __getitem__(self, name):
        return self.held[name]


def frames():
    yield Frame
    for name in ("pandas", "polars"):
        try:
            module = __import__(name)
        except ImportError:
            continue
        yield lambda module=module, **columns: module.DataFrame(columns)


@pytest.mark.parametrize("make", [*frames()])
def test_data_frames(tmp_path: Path, make, monkeypatch: pytest.MonkeyPatch) -> None:
    root = flat(tmp_path)
    columns = {"path": "file", "label": "label", "group": "patient"}
    frame = make(
        file=[f"images/img_{n:03d}.png" for n in range(20)],
        label=[CLASSES[n % 2] for n in range(20)],
        patient=[float(n // 4) if n < 16 else None for n in range(20)],
    )
    splits = tk.load_splits(root, labels=frame, columns=columns)
    check(splits, {name: len(data) for name, data in splits.items()})
    groups = [group for data in splits.values() for group in data.groups]
    assert len({*groups} - {None}) == groups.count(None) == 4
    assert "3" in groups
    monkeypatch.chdir(root)
    long = make(file=["x" * 5000], label=["cat"])
    with pytest.raises(tk.DataError, match="names images that are there"):
        tk.load_splits(long)
    alone = tk.load_splits(frame, columns=columns)
    assert alone["train"].names == splits["train"].names


# Arrays


def stacks(count: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % 2
    return np.stack([pixels_of(label, n) for n, label in enumerate(labels)]), labels


KEYS = [
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "Y_train", "X_test", "Y_test"),
    ("train_x", "train_y", "test_x", "test_y"),
    ("images_train", "targets_train", "images_test", "targets_test"),
]


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("packed", [True, False])
def test_arrays_of_images_and_labels(tmp_path: Path, keys: tuple[str, ...], packed: bool) -> None:
    arrays = dict(zip(keys, (*stacks(10), *stacks(6)), strict=True))
    arrays["mean"] = np.zeros((6, 7))
    if packed:
        np.savez(tmp_path / "x.npz", **arrays)
    else:
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
    splits = tk.load_splits(tmp_path / "x.npz" if packed else tmp_path, val_share=0)
    check(splits, {"train": 10, "test": 6}, "01")
    assert [file.path for file in splits.skipped] == ["mean"]


@pytest.mark.parametrize("kind", ["texts", "booleans", "one-hot", "from 1", "255", "named"])
def test_labels_of_arrays(tmp_path: Path, kind: str) -> None:
    images, labels = stacks(20)
    value, classes = {
        "texts": (np.array(CLASSES)[labels], CLASSES),
        "booleans": (labels == 1, ("0", "1")),
        "one-hot": (np.eye(2)[labels], ("0", "1")),
        "from 1": (labels + 1, ("1", "2")),
        "255": (labels * 255, ("0", "255")),
        "named": (labels, CLASSES),
    }[kind]
    more = {"class_names": np.array(CLASSES)} if kind == "named" else {}
    np.savez(tmp_path / "x.npz", images=images, labels=value, **more)
    check(tk.load_splits(tmp_path / "x.npz"), {"train": 12, "val": 4, "test": 4}, classes)


def test_an_empty_split_of_an_archive(tmp_path: Path) -> None:
    images, labels = stacks(10)
    np.savez(
        tmp_path / "x.npz",
        train_images=images,
        train_labels=labels,
        test_images=images[:0],
        test_labels=labels[:0],
    )
    with pytest.raises(tk.DataError, match="test split has no images"):
        tk.load_splits(tmp_path / "x.npz")


@pytest.mark.parametrize("stem", ["train1_cat", "trainval_cat", "fold2_cat", "masks", "train"])
def test_class_arrays_whose_names_say_something_else_are_asked_about(
    tmp_path: Path, stem: str
) -> None:
    images, _ = stacks(10)
    for name in ("cat", "dog", stem):
        np.save(tmp_path / f"{name}.npy", images)
    with pytest.raises(tk.DataError, match=r"Say what the files are: class_files=\{"):
        tk.load_splits(tmp_path)


def test_a_stray_array_does_not_hijack_a_folder(folders: Path) -> None:
    np.save(folders / "masks.npy", np.zeros((3, 4, 4)))
    np.save(folders / "._x.npy", np.zeros(3))
    splits = tk.load_splits(folders)
    check(splits, SIZES)
    assert [file.path for file in splits.skipped] == ["masks.npy"]


# Datasets


class Pairs(torch.utils.data.Dataset):
    def __init__(self, count: int = 20, texts: bool = False) -> None:
        self.count, self.texts = count, texts

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int):
        if not 0 <= row < self.count:
            raise IndexError(row)
        label = CLASSES[row % 2] if self.texts else row % 2
        return torch.from_numpy(pixels_of(row % 2, row)[None] / np.float32(255)), label


def test_datasets_of_torch(folders: Path) -> None:
    check(tk.load_splits(Pairs()), {"train": 12, "val": 4, "test": 4}, "01")
    check(tk.load_splits(Pairs(texts=True)), {"train": 12, "val": 4, "test": 4})
    parts = {"train": Pairs(10, texts=True), "test": folders / "test"}
    check(tk.load_splits(parts, val_share=0), {"train": 10, "test": 6})
    subset = torch.utils.data.Subset(ImageFolder(folders / "train"), [0, 1, 9, 8])
    check(tk.load_splits({"train": subset}, val_share=0), {"train": 4})
    folder = {name: ImageFolder(folders / name) for name in SIZES}
    check(tk.load_splits(folder), SIZES)
    assert tk.load_splits(folder)["test"].names[3] == "test[3]"


class MedMNIST(Pairs):
    """The fields that the datasets of MedMNIST have."""

    info = {"label": {"0": "normal", "1": "pneumonia"}}  # noqa: RUF012
    labels = np.arange(20)[:, None] % 2


def test_more_datasets(tmp_path: Path) -> None:
    parts = {"train": 12, "val": 4, "test": 4}
    check(tk.load_splits(MedMNIST()), parts, ("normal", "pneumonia"))
    images, labels = stacks(20)
    tensors = torch.utils.data.TensorDataset(torch.tensor(images[:, None]), torch.tensor(labels))
    check(tk.load_splits(tensors), parts, "01")
    check(
        tk.load_splits([(Image.fromarray(pixels_of(n % 2, n)), n % 2) for n in range(20)]),
        parts,
        "01",
    )
    flat(tmp_path)
    listed = sorted((tmp_path / "images").iterdir())
    check(tk.load_splits([(str(path), CLASSES[n % 2]) for n, path in enumerate(listed)]), parts)


def test_tables_of_other_kinds(tmp_path: Path) -> None:
    (flat(tmp_path) / "t.parquet").write_bytes(b"PAR1")
    for call in (
        lambda: tk.load_splits(tmp_path, labels="t.parquet"),
        lambda: tk.load_splits(tmp_path / "t.parquet"),
    ):
        with pytest.raises(tk.DataError, match=r"give (the|a) data frame"):
            call()


def test_datasets_that_are_no_datasets() -> None:
    with pytest.raises(tk.ConfigError, match=r"DataLoader give its \.dataset"):
        tk.load_splits(torch.utils.data.DataLoader(Pairs()))
    with pytest.raises(tk.DataError, match=r"tk\.ImageData\(images, labels\)"):
        tk.load_splits(np.zeros((3, 4, 4)))
    with pytest.raises(tk.ConfigError, match="a length and an index"):
        tk.load_splits(iter([]))
    with pytest.raises(tk.DataError, match=r"tk\.load_splits\(dataset\)"):
        tk.ImageData(Pairs())


def test_a_dataset_that_fails_is_told_by_its_own_error() -> None:
    class Broken(Pairs):
        targets = (0, 1) * 10

        def __getitem__(self, row: int):
            if row == 7:
                raise RuntimeError("the disk is gone")
            return super().__getitem__(row)

    with pytest.raises(tk.DataError, match=r"Cannot read all\[7\]: RuntimeError: the disk is gone"):
        tk.load_splits(Broken())
    splits = tk.load_splits(Broken(), on_error="skip")
    assert sum(map(len, splits.values())) == 19


class ClassLabel:
    def __init__(self, names):
        self.names = names


class HuggingFace:
    """The least that a Hugging Face Dataset has; ``Image`` and ``ClassLabel`` by their names."""

    def __init__(self, count: int, labelled: bool = True) -> None:
        self.features = {"image": type("Image", (), {})(), "label": ClassLabel(list(CLASSES))}
        self.column_names = list(self.features)
        self.rows = [
            {"image": Image.fromarray(pixels_of(n % 2, n)), "label": n % 2 if labelled else -1}
            for n in range(count)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key):
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]


def test_datasets_of_hugging_face() -> None:
    parts = {"train": HuggingFace(10), "validation": HuggingFace(4), "test": HuggingFace(6)}
    check(tk.load_splits(parts), SIZES)
    hidden = tk.load_splits({"train": HuggingFace(10), "test": HuggingFace(6, labelled=False)})
    assert hidden["test"].labels is None


@pytest.mark.skipif("datasets" not in sys.modules, reason="Hugging Face datasets is not loaded")
def test_the_real_hugging_face() -> None:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    parts = {
        name: datasets.Dataset.from_dict(
            {
                "image": [Image.fromarray(pixels_of(n % 2, n)) for n in range(count)],
                "label": [n % 2 for n in range(count)],
            },
            features=features,
        )
        for name, count in SIZES.items()
    }
    check(tk.load_splits(datasets.DatasetDict(parts)), SIZES)
