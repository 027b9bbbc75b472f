"""A folder tree of images: the split and class of each file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from transferkit.data.pixel_reader import FileSource, Part
from transferkit.data.split_names import (
    SplitFolders,
    assign_splits,
    check_classes_are_none,
    check_left_over,
    split_of,
)
from transferkit.data.value_range import DatasetScale
from transferkit.errors import DataError

SUFFIXES = frozenset(
    f".{name}"
    for name in ("bmp", "gif", "jfif", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm")
) | {".tif", ".tiff", ".webp"}
"""Suffixes of image files, in lower case."""

IGNORED = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
"""Names that systems leave behind, besides all that begin with a dot."""


def scan_folder(
    root: Path, split_folders: SplitFolders | None, bits: int | None
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """List the images below a folder by split, and the classes.

    Without split folders all images are one split named ``"all"``; a split without class folders
    has no labels.
    """
    names = subfolders(root)
    splits = assign_splits(str(root), names, split_folders)
    source = FileSource(root, DatasetScale(bits))
    if not splits:
        classes = classes_without_splits(root, names, confirmed=split_folders is not None)
        return {"all": list_images(source, [root], classes, all_needed=True)}, classes
    if split_folders is None:
        left = [name for name in names if not split_of(name) and image_files(root / name)]
        check_left_over(str(root), splits, left, or_classes=True)
    folders = {split: [root / name for name in own] for split, own in splits.items()}
    found = {split: sorted({*chain(*map(subfolders, own))}) for split, own in folders.items()}
    first = next((split for split, own in found.items() if own), None)
    for split in found.keys() - {first}:
        found[split] = [name for name in found[split] if holds_files(folders[split], name)]
    classes = common_classes({split: own for split, own in found.items() if own})
    parts = {
        split: list_images(
            source, own, classes if found[split] else None, all_needed=split == first
        )
        for split, own in folders.items()
    }
    return parts, classes


def classes_without_splits(root: Path, names: Sequence[str], *, confirmed: bool) -> tuple[str, ...]:
    """Return the classes of a folder that has class folders and no split folders."""
    if not names:
        raise DataError(
            f"{root} has no folders. Expected train, val and test (val may be missing), each with "
            "one folder of images per class; or one folder of images per class."
        )
    inside = {name: subfolders(root / name) for name in names}
    if not confirmed:
        nested = [name for name in names if any(map(split_of, inside[name]))]
        if nested:
            raise DataError(
                f"{root} has no split folders, but {root / nested[0]} has: give that one."
            )
        check_classes_are_none(str(root), inside)
    return tuple(names)


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden and system folders."""
    return sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and not ignored(entry.name)
    )


def holds_files(folders: Sequence[Path], name: str) -> bool:
    """Whether the folder of this name holds a file in any of ``folders``."""
    return any(path.is_file() for folder in folders for path in (folder / name).rglob("*"))


def ignored(name: str) -> bool:
    """Whether a file or folder is hidden or left behind by the system."""
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
    source: FileSource, folders: Sequence[Path], classes: Sequence[str] | None, *, all_needed: bool
) -> Part:
    """List the images of one split, class by class, or without labels if ``classes`` is None."""
    files: list[Path] = []
    labels: list[int] = []
    for label, title in enumerate(classes or [""]):
        found = [file for folder in folders for file in image_files(folder / title)]
        if not found:
            check_empty(folders[0], title if classes else None, all_needed=all_needed)
        files += found
        labels += [label] * len(found)
    names = [file.relative_to(source.root).as_posix() for file in files]
    return Part(source, names, np.array(labels, np.int64) if classes else None)


def check_empty(folder: Path, title: str | None, *, all_needed: bool) -> None:
    """Raise for a folder without images; a class may lack files altogether if not all_needed."""
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
        files += [Path(where, name) for name in names if not ignored(name)]
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES)


def census(folder: Path) -> str:
    """Count the files below a folder by suffix: ``"3 .dcm, 1 .txt"``."""
    kinds = Counter(
        path.suffix or path.name
        for path in folder.rglob("*")
        if path.is_file() and not ignored(path.name)
    )
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
