"""Datasets stored as NumPy arrays: an ``.npz`` archive, or a folder of ``.npy`` files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from transferkit.data.array_conversion import label_texts, number_labels
from transferkit.data.folder_layout import MASKS, common_classes, ignored
from transferkit.data.listing import ItemSource, Listing, Part
from transferkit.data.split_names import (
    NUMBERED,
    SPLITS,
    SplitFolders,
    assign_splits,
    split_of,
)
from transferkit.data.value_range import DatasetScale
from transferkit.errors import ConfigError, DataError

DAMAGED = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
"""The errors that NumPy raises on damaged files."""

ROLES = {
    **dict.fromkeys(("images", "image", "imgs", "x"), "images"),
    **dict.fromkeys(("labels", "label", "targets", "y"), "labels"),
    **dict.fromkeys(("classes", "names"), "classes"),
}
"""Words in the name of an array, and what it holds: ``train_images``, ``y_test``, ``labels``."""

Arrays: TypeAlias = Mapping[str, NDArray[np.generic]]


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn errors of NumPy on a damaged or pickled file into a DataError that names it."""
    try:
        yield
    except DAMAGED as error:
        if "pickle" in str(error).lower() or "object" in str(error).lower():
            raise DataError(
                f"{path.name} holds Python objects or pickled data, which are never unpickled "
                "because they can run code. Save numeric arrays with np.save or np.savez."
            ) from error
        raise DataError(f"{path.name} is no readable {path.suffix} file: {error}.") from error


def load_npz(path: Path) -> Arrays:
    """Load all arrays of an archive, without unpickling."""
    with named_errors(path), path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.lib.npyio.NpzFile):
            return {key: archive[key] for key in archive.files}
    raise DataError(f"{path.name} is a single array, not an archive of several.")


def map_npy_files(root: Path) -> Arrays:
    """Map all ``.npy`` files of a folder, by their names without the suffix."""
    found = sorted(p for p in root.iterdir() if p.suffix.lower() == ".npy" and not ignored(p.name))
    return {path.stem: map_npy(path) for path in found}


def map_npy(path: Path) -> NDArray[np.generic]:
    """Map one .npy file, without unpickling."""
    with named_errors(path):
        array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim == 0 or len(array) == 0:
        raise DataError(f"{path.name} holds no images: its shape is {array.shape}.")
    return array


def split_and_role(key: str) -> tuple[str, str] | None:
    """Return what stands beside the one word that says what an array holds, and what that is."""
    words = key.split("_")
    told = [word for word in words if word.lower() in ROLES]
    if len(told) != 1:
        return None
    return "_".join(word for word in words if word != told[0]), ROLES[told[0].lower()]


def list_arrays(
    place: str,
    arrays: Arrays,
    split_folders: SplitFolders | None,
    scale: DatasetScale,
    whole: str,
) -> Listing:
    """List the splits of arrays of images and labels, in the order train, val, test."""
    keys: dict[tuple[str, str], str] = {}
    for key in arrays:
        if (found := split_and_role(key)) and keys.setdefault(found, key) != key:
            raise DataError(f"{place} has two arrays for the same: {keys[found]} and {key}.")
    names = [name for name, role in keys if role == "images"]
    splits = assign_splits(place, names, split_folders)
    if not splits and names == [""]:
        splits = {whole: [""]}
    if not splits:
        raise DataError(
            f"{place} has no images: expected train_images, train_labels, val_images, ... (the "
            "MedMNIST layout), x_train, y_train, x_test, ... or images and labels, got "
            f"{', '.join(arrays) or 'nothing'}."
        )
    texts = {split: read_labels(place, own, keys, arrays) for split, own in splits.items()}
    given = arrays.get(keys.get(("class", "classes"), keys.get(("", "classes"), "")))
    numbers, classes = number_labels(place, texts)
    if given is not None and given.ndim == 1 and len(given) == len(classes):
        classes = tuple(map(str, given.tolist()))
    source, parts, used = ItemSource(scale), {}, {*keys.values()}
    for split, own in splits.items():
        listed: list[str] = []
        for name in own:
            stem, key = split if len(own) == 1 else name, keys[name, "images"]
            listed += source.add_array(stem, arrays[key], f"{key} of {place}")
        parts[split] = Part(source, listed, numbers[split])
    lost = {key: "neither images nor labels by its name" for key in arrays if key not in used}
    return Listing(parts, classes, lost)


def read_labels(
    place: str, names: Sequence[str], keys: Mapping[tuple[str, str], str], arrays: Arrays
) -> list[str] | None:
    """Return the labels of the arrays of one split as texts, or None if there are none."""
    if not any((name, "labels") in keys for name in names):
        return None
    found: list[str] = []
    for name in names:
        image_key, key = keys[name, "images"], keys.get((name, "labels"))
        if key is None:
            raise DataError(f"{place} has {image_key}, but no labels of it.")
        try:
            labels = label_texts(arrays[key])
        except DataError as error:
            raise DataError(f"{key} of {place}: {error}") from error
        images = arrays[image_key]
        if images.ndim == 0 or len(images) != len(labels):
            raise DataError(
                f"{place}: {image_key} has shape {images.shape}, but {key} has {len(labels)} "
                "labels; each image needs exactly one."
            )
        found += labels
    return found


def list_class_arrays(
    root: Path,
    arrays: Arrays,
    class_files: Mapping[str, tuple[str, str]] | None,
    scale: DatasetScale,
) -> Listing:
    """List the class arrays of a folder, memory-mapped, by split, and the class names."""
    mapping = guess_class_files(arrays) if class_files is None else check_class_files(class_files)
    classes = tuple(dict.fromkeys(title for _, title in mapping.values()))
    if class_files is None:
        classes = tuple(sorted(classes))
    for stem, (split, _) in mapping.items():
        if stem not in arrays:
            there = ", ".join(f"{name}.npy" for name in arrays) or "none"
            raise DataError(f"{root} has no {stem}.npy; .npy files there: {there}.")
        if split not in SPLITS:
            raise DataError(f"class_files maps {stem!r} to the split {split!r}, not to {SPLITS}.")
    stems = {pair: stem for stem, pair in mapping.items()}
    if len(stems) < len(mapping):
        raise DataError(f"Two .npy files belong to the same split and class: {dict(mapping)}.")
    found = {
        split: [title for title in classes if (split, title) in stems]
        for split in SPLITS
        if any(split == name for name, _ in stems)
    }
    common_classes(found)
    source, parts = ItemSource(scale), {}
    for split in found:
        names: list[str] = []
        labels: list[int] = []
        for label, title in enumerate(classes):
            if (split, title) in stems:
                stem = stems[split, title]
                names += source.add_array(stem, arrays[stem], f"{stem}.npy")
                labels += [label] * (len(names) - len(labels))
        parts[split] = Part(source, names, np.array(labels, np.int64))
    lost = {f"{stem}.npy": "no array of images" for stem in arrays if stem not in mapping}
    return Listing(parts, classes, lost)


def check_class_files(class_files: object) -> dict[str, tuple[str, str]]:
    """Return ``class_files`` if it maps names to pairs."""
    pairs = dict(class_files) if isinstance(class_files, Mapping) else {}
    if not pairs or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs.values()):
        raise ConfigError(
            'class_files must map names without .npy to (split, class), such as {"test_normal": '
            f'("test", "normal")}}, got {class_files!r}.'
        )
    return pairs


def guess_class_files(arrays: Arrays) -> dict[str, tuple[str, str]]:
    """Return split and class by file name: ``test_normal`` is of test, ``normal`` of train."""
    mapping: dict[str, tuple[str, str]] = {}
    for stem, array in arrays.items():
        if array.ndim < 3:  # a mean, labels, or one picture
            continue
        head, _, rest = stem.partition("_")
        split = split_of(head)
        told = split_of(stem) or NUMBERED.fullmatch(head.lower()) or head.lower() == "trainval"
        if not (split and rest) and (told or stem.lower() in MASKS):
            raise DataError(
                f"{stem}.npy names no split and class that are known, or holds masks. Say what the "
                f'files are: class_files={{"{stem}": ("train", "{rest or stem}"), ...}}, with the '
                "name, split and class of each file to read."
            )
        mapping[stem] = (split, rest) if split and rest else ("train", stem)
    return mapping
