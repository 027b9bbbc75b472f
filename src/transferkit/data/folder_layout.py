"""A folder tree of images: the split and class of each file."""

from __future__ import annotations

import os
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from transferkit.data.image_decoding import probe, quiet_pillow
from transferkit.data.listing import FileSource, Listing, Part
from transferkit.data.split_names import (
    FILLERS,
    SplitFolders,
    assign_splits,
    check_classes_are_none,
    split_of,
)
from transferkit.data.value_range import DatasetScale
from transferkit.errors import DataError

SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("avif", "bmp", "dib", "gif", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg", "mpo", "pbm"),
        *("pcx", "pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)
"""Suffixes of image files, in lower case."""

OTHERS = {
    ".dcm": "DICOM is not read; convert it to PNG, for instance with pydicom",
    ".nii": "a NIfTI volume; save its slices as PNG, for instance with nibabel",
    ".npy": "an array among image files",
}
"""Why files of other kinds are left out."""

IGNORED = frozenset(
    ("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information")
)
"""Names that systems leave behind, besides all that begin with a dot."""

MASKS = frozenset(("annotations", "ground_truth", "groundtruth", "masks", "segmentations"))
"""Folders of pictures that belong to other pictures."""

UNKNOWN = FILLERS | {"all", "unknown", "unlabeled", "unlabelled"}
"""Names of folders that say nothing of the class of what they hold."""


class Tree:
    """All that lies below a folder, in sorted order, by paths relative to it, with slashes."""

    def __init__(self, root: Path, leave_out: Sequence[str] | None = None) -> None:
        self.root = root
        self.asked = leave_out is None  # nobody has said yet what is to be left out
        self.images: list[str] = []
        self.folders: dict[str, list[str]] = {}  # the names in each folder
        self.left_out: dict[str, str] = {}
        patterns = leave_out or ()
        # each folder and all that hold it, without links
        above: dict[str, tuple[str, ...]] = {"": (os.path.realpath(root),)}
        for where, names, files in os.walk(root, onerror=self._refused, followlinks=True):
            here = self._relative(where)
            self.folders[here], names[:] = [], sorted(names)
            for name in list(names):
                path = join(here, name)
                target = os.path.realpath(Path(where, name))
                if ignored(name):
                    pass
                elif matches(path, patterns):
                    self.left_out[path] = "named by leave_out"
                elif target in above[here]:
                    self.left_out[path] = "the link leads back to a folder that holds it"
                else:
                    above[path] = (*above[here], target)
                    self.folders[here].append(name)
                    continue
                names.remove(name)
            for name in files:
                path = join(here, name)
                if ignored(name):
                    continue
                reason = why_no_image(Path(where, name))
                reason = "named by leave_out" if matches(path, patterns) else reason
                if reason:
                    self.left_out[path] = reason
                else:
                    self.images.append(path)
        self.images.sort(key=split_path)
        self.holding = {path.rpartition("/")[0] for path in self.images}  # images directly
        self._keys = [split_path(path) for path in self.images]

    def below(self, folder: str) -> list[str]:
        """Return the images in a folder and all below it; "" is the root."""
        if not folder:
            return self.images
        *above, last = split_path(folder)
        ends = ([*above, last], [*above, f"{last}\0"])  # between which the paths below it sort
        first, end = (bisect_left(self._keys, key) for key in ends)
        return self.images[first:end]

    def others(self, folder: str) -> dict[str, str]:
        """Return what is left out below a folder."""
        above = join(folder, "")
        return {path: why for path, why in self.left_out.items() if path.startswith(above)}

    def innermost(self, folder: str, *, into_splits: bool) -> str:
        """Descend while a folder holds one folder only, whose name says nothing: test/test/cat."""
        while len(self.folders[folder]) == 1 and folder not in self.holding:
            name = self.folders[folder][0]
            if name.lower() not in UNKNOWN and not (into_splits and split_of(name)):
                break
            folder = join(folder, name)
        return folder

    def _relative(self, path: str) -> str:
        return Path(os.path.relpath(path, self.root)).as_posix().removeprefix(".")

    def _refused(self, error: OSError) -> None:
        if str(error.filename) == str(self.root):
            raise DataError(f"Cannot read the folder {self.root}: {error.strerror}.") from error
        path = self._relative(error.filename)
        self.left_out[path] = f"cannot be read: {error.strerror}"
        self.folders[path] = []


def nfc(text: str) -> str:
    """Return a text with each accented letter as one character, as some systems do not write it."""
    return unicodedata.normalize("NFC", text)


def join(folder: str, name: str) -> str:
    """Return the relative path of what lies in a folder; "" is the root."""
    return f"{folder}/{name}" if folder else name


def split_path(path: str) -> list[str]:
    """Return the names along a path, by which paths are sorted."""
    return path.split("/")


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern fits a relative path or its last name."""
    name = path.rpartition("/")[2]
    return any(fnmatch(path, pattern) or fnmatch(name, pattern) for pattern in patterns)


def ignored(name: str) -> bool:
    """Whether a file or folder is hidden or left behind by the system."""
    return name.startswith(".") or name.lower() in IGNORED


def why_no_image(path: Path) -> str | None:
    """Return why a file is not taken for an image, or None if it is; without a suffix, look."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return None
    with quiet_pillow():
        if not suffix and probe(path) is not None:
            return None
    if path.is_symlink() and not path.exists():
        return "the link leads nowhere"
    return OTHERS.get(suffix, f"no image ({suffix or 'no suffix'})")


def list_folder(
    tree: Tree, split_folders: SplitFolders | None, scale: DatasetScale, whole: str
) -> Listing:
    """List the images of a folder by split, and the classes.

    Without split folders all images are one part of the name ``whole``; what has no class folders
    has no labels.
    """
    check_masks(tree)
    base = tree.innermost("", into_splits=False)
    root, names = str(tree.root / base), tree.folders[base]
    places = {name: join(base, name) for name in names}
    empty = [name for name, place in places.items() if not tree.below(place)]
    splits = assign_splits(root, names, split_folders, empty=empty, or_classes=True)
    if not splits:
        check_folders(tree, places, confirmed=split_folders is not None)
    splits = {
        split: [tree.innermost(places[name], into_splits=True) for name in own]
        for split, own in splits.items()
    } or {whole: [base]}
    found = {
        split: sorted({nfc(name) for folder in own for name in tree.folders[folder]})
        for split, own in splits.items()
    }
    first = next((split for split, own in found.items() if own), None)
    for split in found.keys() - {first}:
        found[split] = [title for title in found[split] if holds_files(tree, splits[split], title)]
    classes = common_classes({split: own for split, own in found.items() if own})
    source = FileSource(tree.root, scale)
    parts = {}
    for split, own in splits.items():
        parts[split] = list_images(
            source, tree, own, classes if found[split] else None, all_needed=split == first
        )
    used = {name for part in parts.values() for name in part.names}
    lost = {name: "in no class folder of a split" for name in tree.images if name not in used}
    return Listing(parts, classes, {**tree.left_out, **lost})


def check_masks(tree: Tree) -> None:
    """Raise if masks lie beside images, unless the caller has said what to leave out."""
    for folder, names in tree.folders.items() if tree.asked else ():
        for name in names:
            beside = [other for other in names if other != name]
            single = name.lower() == "mask" and FILLERS & {other.lower() for other in beside}
            if not (single or (name.lower() in MASKS and (beside or folder in tree.holding))):
                continue
            path = join(folder, name)
            if tree.below(path):
                raise DataError(
                    f"{tree.root} holds {path} beside {', '.join(beside) or 'images'}. If these "
                    f"are masks of the images, pass leave_out=[{name!r}]; if they are images to "
                    "classify, pass leave_out=[]."
                )


def check_folders(tree: Tree, places: Mapping[str, str], *, confirmed: bool) -> None:
    """Raise if a folder without split folders holds nothing, or if its folders are no classes."""
    if not places and not tree.images:
        raise DataError(
            f"{tree.root} has no folders and no images. Expected train, val and test (val may be "
            "missing), each with one folder of images per class; or one folder of images per "
            f"class; or images whose labels a table gives.{census(tree, '')}"
        )
    inside = {
        name: [inner for inner in tree.folders[place] if inner.lower() not in UNKNOWN | MASKS]
        for name, place in places.items()
    }
    if places and not confirmed:
        nested = [places[name] for name, inner in inside.items() if any(map(split_of, inner))]
        if nested:
            raise DataError(
                f"{tree.root} has no split folders, but {tree.root / nested[0]} has: give that one."
            )
        check_classes_are_none(str(tree.root), inside)


def holds_files(tree: Tree, folders: Sequence[str], name: str) -> bool:
    """Whether the folder of this name holds a file in any of ``folders``."""
    places = class_folders(tree, folders, name)
    return any(tree.below(place) or tree.others(place) for place in places)


def class_folders(tree: Tree, folders: Sequence[str], title: str) -> list[str]:
    """Return the folders of a class, whichever way an accented letter of their name is written."""
    return [
        join(folder, name)
        for folder in folders
        for name in tree.folders[folder]
        if nfc(name) == title
    ]


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
    source: FileSource,
    tree: Tree,
    folders: Sequence[str],
    classes: Sequence[str] | None,
    *,
    all_needed: bool,
) -> Part:
    """List the images of one split, class by class, or without labels if ``classes`` is None."""
    names: list[str] = []
    labels: list[int] = []
    for label, title in enumerate(classes or [""]):
        places = class_folders(tree, folders, title) if classes else list(folders)
        places = places or [join(folders[0], title)]
        found = [name for place in places for name in tree.below(place)]
        others = {path for place in places for path in tree.others(place)}
        if not found and classes is None:
            raise DataError(
                f"The split folder {tree.root / folders[0]} has neither class folders nor images."
                f"{census(tree, folders[0])} Put images there, or remove it."
            )
        if not found and (others or all_needed):
            raise DataError(
                f"The class folder {tree.root / places[0]} is empty.{census(tree, places[0])} Put "
                f"images there, or remove the class {title} from every split."
            )
        names += found
        labels += [label] * len(found)
    return Part(source, names, np.array(labels, np.int64) if classes else None)


def census(tree: Tree, folder: str) -> str:
    """Count what is left out below a folder, as a sentence; empty if there is nothing."""
    itself = [tree.left_out[folder]] if folder in tree.left_out else []
    kinds = Counter([*itself, *tree.others(folder).values()])
    listed = ", ".join(f"{count} files: {reason}" for reason, count in kinds.most_common(5))
    return f" Left out: {listed}." if listed else ""
