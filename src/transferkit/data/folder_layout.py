"""A folder tree of images: the split and class of each file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from transferkit.data.pixel_reader import FileSource, Part
from transferkit.data.value_range import DatasetScale
from transferkit.errors import DataError

SPLITS = ("train", "val", "test")

ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Folder names of splits, in lower case."""

SUFFIXES = frozenset(
    f".{name}"
    for name in ("bmp", "gif", "jfif", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm")
) | {".tif", ".tiff", ".webp"}
"""File names that are taken for images, in lower case."""

IGNORED = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
"""Names that systems leave behind, besides all that begin with a dot."""


def scan_folder(root: Path, bits: int | None) -> tuple[dict[str, Part], tuple[str, ...]]:
    """List the images below a folder by split, in the order train, val, test, and the classes.

    The folder holds split folders (see ``ALIASES``; any case), each with one folder per class, or
    with images only (then the split has no labels). Without split folders, the folders are classes,
    and all is one split named ``"all"``.

    Raises:
        DataError: No images, an empty class, or classes that differ between splits.
    """
    folders = split_folders(root)
    source = FileSource(root, DatasetScale(bits))
    if not folders:
        classes = classes_without_splits(root)
        return {"all": list_images(source, root, classes, all_needed=True)}, classes
    found = {name: subfolders(folder) for name, folder in folders.items()}
    first = next((name for name, names in found.items() if names), None)
    for name in found.keys() - {first}:
        found[name] = filled_folders(folders[name], found[name])
    classes = common_classes({name: names for name, names in found.items() if names})
    parts = {
        name: list_images(
            source, folder, classes if found[name] else None, all_needed=name == first
        )
        for name, folder in folders.items()
    }
    return parts, classes


def classes_without_splits(root: Path) -> tuple[str, ...]:
    """Return the classes of a folder that has class folders and no split folders."""
    classes = tuple(subfolders(root))
    if not classes:
        raise DataError(
            f"{root} has no folders. Expected train, val and test (val may be missing), each with "
            "one folder of images per class; or one folder of images per class."
        )
    nested = [name for name in classes if split_folders(root / name)]
    if nested:
        raise DataError(f"{root} has no split folders, but {root / nested[0]} has: give that one.")
    return classes


def split_folders(root: Path) -> dict[str, Path]:
    """Find the folders named like splits, in the order train, val, test."""
    found: dict[str, Path] = {}
    for name in subfolders(root):
        split = ALIASES.get(name.lower())
        if split in found:
            raise DataError(f"{root} has two folders for {split}: {found[split].name} and {name}.")
        if split is not None:
            found[split] = root / name
    return {split: found[split] for split in SPLITS if split in found}


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden and system folders."""
    return sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and not ignored(entry.name)
    )


def filled_folders(folder: Path, names: list[str]) -> list[str]:
    """Return the names of the folders that hold files."""
    return [name for name in names if any(path.is_file() for path in (folder / name).rglob("*"))]


def ignored(name: str) -> bool:
    """Say whether a file or folder is hidden or left behind by the system."""
    return name.startswith(".") or name.lower() in IGNORED


def common_classes(found: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the classes of the first split, which the others must not exceed."""
    if not found:
        return ()
    first, *others = found
    for other in others:
        extra = sorted(set(found[other]) - set(found[first]))
        absent = sorted(set(found[first]) - set(found[other]))
        if extra:
            raise DataError(
                f"The classes differ between splits: only {first} has {absent or 'none'}, only "
                f"{other} has {extra}. Each class needs images in {first}."
            )
    return tuple(found[first])


def list_images(
    source: FileSource, folder: Path, classes: Sequence[str] | None, *, all_needed: bool
) -> Part:
    """List the images of one split, class by class, or without labels if ``classes`` is None.

    A class may have no file at all unless ``all_needed``; files that are no images are an error.
    """
    files: list[Path] = []
    labels: list[int] = []
    for label, title in enumerate(classes or [""]):
        found = image_files(folder / title)
        if not found:
            check_empty(folder, title if classes else None, all_needed=all_needed)
        files += found
        labels += [label] * len(found)
    names = [file.relative_to(source.root).as_posix() for file in files]
    return Part(source, names, np.array(labels, np.int64) if classes else None)


def check_empty(folder: Path, title: str | None, *, all_needed: bool) -> None:
    """Raise for a split or class folder without images, unless it may lack files altogether."""
    others = census(folder / (title or ""))
    listed = f"only {others}" if others else "and no others"
    known = f"Known: {' '.join(sorted(SUFFIXES))}."
    if title is None:
        raise DataError(
            f"The split folder {folder} has neither class folders nor images: no image files, "
            f"{listed}. Put images there, or remove it. {known}"
        )
    if others or all_needed:
        raise DataError(
            f"The class folder {folder / title} is empty: no image files, {listed}. Put images "
            f"there, or remove the class {title} from every split. {known}"
        )


def image_files(folder: Path) -> list[Path]:
    """Return all image files below a folder, sorted by path."""
    files = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not ignored(name)]
        kept = [n for n in names if not ignored(n) and Path(n).suffix.lower() in SUFFIXES]
        files += [Path(where, name) for name in kept]
    return sorted(files)


def census(folder: Path) -> str:
    """Count the files below a folder by suffix: ``"3 .dcm, 1 .txt"``."""
    kinds = Counter(
        path.suffix or path.name
        for path in folder.rglob("*")
        if path.is_file() and not ignored(path.name)
    )
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
