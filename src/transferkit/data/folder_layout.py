"""A folder tree of images: which file belongs to which split and class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from transferkit._typing import Int64Array
from transferkit.data.pixel_reader import FileSource, Part
from transferkit.errors import DataError

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


def scan_folder(root: Path) -> tuple[dict[str, Part], tuple[str, ...]]:
    """List the images below a folder.

    The folder holds split folders (``train``, ``val``, ``test``; see ``ALIASES``; any case), each
    with one folder a class, or with images only (then the split has no labels). Without split
    folders, the folders are classes, and all is one split named ``"all"``.

    Returns:
        The splits in the order train, val, test, and the class names, sorted.

    Raises:
        DataError: No images, an empty class, or classes that differ between splits.
    """
    folders = split_folders(root)
    if not folders:
        return scan_bare(root)
    found = {name: subfolders(folder) for name, folder in folders.items()}
    classes = common_classes({name: names for name, names in found.items() if names})
    parts = {}
    for name, folder in folders.items():
        if found[name]:
            parts[name] = list_classes(root, folder, classes)
        else:
            parts[name] = list_unlabelled(root, folder)
    return parts, classes


def scan_bare(root: Path) -> tuple[dict[str, Part], tuple[str, ...]]:
    """List a folder of class folders."""
    classes = tuple(subfolders(root))
    if not classes:
        raise DataError(
            f"{root} has no folders. Expected train, val and test (val may be missing), each with "
            "one folder of images a class; or one folder of images a class."
        )
    nested = [name for name in classes if split_folders(root / name)]
    if nested:
        raise DataError(f"{root} has no split folders, but {root / nested[0]} has: give that one.")
    return {"all": list_classes(root, root, classes)}, classes


def split_folders(root: Path) -> dict[str, Path]:
    """Find the folders named like splits, in the order train, val, test."""
    found: dict[str, Path] = {}
    for name in subfolders(root):
        split = ALIASES.get(name.lower())
        if split in found:
            raise DataError(f"{root} has two folders for {split}: {found[split].name} and {name}.")
        if split is not None:
            found[split] = root / name
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without what systems leave behind."""
    return sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and not ignored(entry.name)
    )


def ignored(name: str) -> bool:
    """Say whether a file or folder is none of ours."""
    return name.startswith(".") or name.lower() in IGNORED


def common_classes(found: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the class names that all splits have.

    Raises:
        DataError: They differ; the message says how.
    """
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


def list_classes(root: Path, folder: Path, classes: Sequence[str]) -> Part:
    """List the images of one split, class by class.

    Raises:
        DataError: A class has none.
    """
    names: list[str] = []
    labels: list[int] = []
    for label, title in enumerate(classes):
        files = image_files(folder / title)
        if not files:
            raise DataError(f"The class folder {folder / title} is empty: {census(folder / title)}")
        names += [file.relative_to(root).as_posix() for file in files]
        labels += [label] * len(files)
    numbers: Int64Array = np.array(labels, np.int64)
    return Part.whole(FileSource(root, tuple(names), numbers))


def list_unlabelled(root: Path, folder: Path) -> Part:
    """List the images that lie directly in a split's folder."""
    files = image_files(folder)
    if not files:
        raise DataError(
            f"The split folder {folder} has neither class folders nor images: {census(folder)}"
        )
    names = tuple(file.relative_to(root).as_posix() for file in files)
    return Part.whole(FileSource(root, names, None))


def image_files(folder: Path) -> list[Path]:
    """Return all image files below a folder, sorted by path."""
    files = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not ignored(name)]
        kept = [n for n in names if not ignored(n) and Path(n).suffix.lower() in SUFFIXES]
        files += [Path(where, name) for name in kept]
    return sorted(files)


def census(folder: Path) -> str:
    """Say what files there are, for the message that there are no images."""
    kinds = Counter(path.suffix or path.name for path in folder.rglob("*") if path.is_file())
    if not kinds:
        return "it holds no files. Remove it, or put images there."
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    return f"no image files, only {listed}. Known: {' '.join(sorted(SUFFIXES))}."
