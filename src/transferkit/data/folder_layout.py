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
        return {"all": list_images(source, root, classes)}, classes
    found = {name: subfolders(folder) for name, folder in folders.items()}
    classes = common_classes({name: names for name, names in found.items() if names})
    parts = {
        name: list_images(source, folder, classes if found[name] else None)
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


def ignored(name: str) -> bool:
    """Say whether a file or folder is hidden or left behind by the system."""
    return name.startswith(".") or name.lower() in IGNORED


def common_classes(found: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the class names that all splits have; DataError where they differ."""
    if not found:
        return ()
    first, *others = found
    for other in others:
        extra = sorted(set(found[other]) - set(found[first]))
        absent = sorted(set(found[first]) - set(found[other]))
        if extra or absent:
            raise DataError(
                f"The classes differ between splits: only {first} has {absent or 'none'}, only "
                f"{other} has {extra or 'none'}. Each split needs one folder for every class."
            )
    return tuple(found[first])


def list_images(source: FileSource, folder: Path, classes: Sequence[str] | None) -> Part:
    """List the images of one split, class by class, or without labels if ``classes`` is None."""
    files: list[Path] = []
    labels: list[int] = []
    for label, title in enumerate(classes or [""]):
        found = image_files(folder / title)
        if not found:
            problem = f"The class folder {folder / title} is empty"
            if classes is None:
                problem = f"The split folder {folder} has neither class folders nor images"
            raise DataError(f"{problem}: {census(folder / title)}")
        files += found
        labels += [label] * len(found)
    names = [file.relative_to(source.root).as_posix() for file in files]
    return Part(source, names, np.array(labels, np.int64) if classes else None)


def image_files(folder: Path) -> list[Path]:
    """Return all image files below a folder, sorted by path."""
    files = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not ignored(name)]
        kept = [n for n in names if not ignored(n) and Path(n).suffix.lower() in SUFFIXES]
        files += [Path(where, name) for name in kept]
    return sorted(files)


def census(folder: Path) -> str:
    """Count the files by suffix, for the message that there are no images."""
    kinds = Counter(path.suffix or path.name for path in folder.rglob("*") if path.is_file())
    if not kinds:
        return "it holds no files. Remove it, or put images there."
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    return f"no image files, only {listed}. Known: {' '.join(sorted(SUFFIXES))}."
