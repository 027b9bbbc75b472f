"""MedMNIST archives: one .npz with ``train_images``, ``train_labels``, ``val_images``, ..."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transferkit._typing import Int64Array
from transferkit.data.array_conversion import to_labels
from transferkit.data.folder_layout import ALIASES, common_classes, ignored
from transferkit.data.pixel_reader import ArraySource, Part
from transferkit.errors import ConfigError, DataError

DAMAGED = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


def read_npz(path: Path) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Read an archive without unpickling anything.

    Returns:
        The splits in the order train, val, test, and the class names ``"0"``, ``"1"``, ...

    Raises:
        DataError: Keys are missing, lengths differ, an array holds Python objects, labels are out
            of range or several an image.
    """
    arrays = load_arrays(path)
    named = [name for name in ("train", "val", "test") if f"{name}_images" in arrays]
    if not named:
        raise DataError(
            f"{path.name} has no images: expected train_images, train_labels, val_images, ... (the "
            f"MedMNIST layout), got {', '.join(arrays) or 'nothing'}."
        )
    labels = {name: read_labels(path, name, arrays) for name in named}
    classes = number_classes(path, labels)
    return {name: read_split(path, name, arrays, labels[name]) for name in named}, classes


def load_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Load all arrays of an archive."""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path.name} is a single array, not an archive of several.")
            return {key: archive[key] for key in archive.files}
    except DataError:
        raise
    except DAMAGED as error:
        if "allow_pickle" in str(error) or "pickle" in str(error).lower():
            raise DataError(
                f"{path.name} holds Python objects, which are never unpickled because they can run "
                "code. Save numeric arrays instead: np.savez(path, train_images=..., ...)."
            ) from error
        raise DataError(f"{path.name} is no readable .npz archive: {error}.") from error


def read_labels(
    path: Path, name: str, arrays: Mapping[str, NDArray[np.generic]]
) -> Int64Array | None:
    """Return a split's labels (N,), or None if there are none."""
    key = f"{name}_labels"
    if key not in arrays:
        return None
    try:
        labels = to_labels(arrays[key])
    except DataError as error:
        raise DataError(f"{key} of {path.name}: {error}") from error
    images = arrays[f"{name}_images"]
    if images.ndim == 0 or len(images) != len(labels):
        raise DataError(
            f"{path.name}: {name}_images has shape {images.shape}, but {key} has {len(labels)} "
            "labels; each image needs exactly one."
        )
    return labels


def number_classes(path: Path, labels: Mapping[str, Int64Array | None]) -> tuple[str, ...]:
    """Name the classes by their numbers, 0 to the largest label of train.

    Raises:
        DataError: A class in between has no images, or a label lies outside.
    """
    known = {name: values for name, values in labels.items() if values is not None and len(values)}
    if not known:
        return ()
    first = "train" if "train" in known else next(iter(known))
    present = np.unique(known[first])
    count = int(present[-1]) + 1
    if len(present) != count or present[0] < 0:
        raise DataError(
            f"{path.name}: labels must run from 0 without gaps, but those of {first} are "
            f"{present.tolist()[:20]}."
        )
    for name, values in known.items():
        wrong = np.flatnonzero((values < 0) | (values >= count))
        if len(wrong):
            raise DataError(
                f"{path.name}: label {values[wrong[0]]} of {name}[{wrong[0]}] is outside "
                f"0..{count - 1}, the labels of {first}."
            )
    return tuple(map(str, range(count)))


def read_split(
    path: Path,
    name: str,
    arrays: Mapping[str, NDArray[np.generic]],
    labels: Int64Array | None,
) -> Part:
    """Make one split of its array."""
    key = f"{name}_images"
    names = [f"{name}[{row}]" for row in range(len(arrays[key]))]
    return Part.whole(ArraySource.of([(f"{key} of {path.name}", arrays[key])], names, labels))


SPLITS = ("train", "val", "test")


def read_npy_folder(
    root: Path, class_files: Mapping[str, tuple[str, str]] | None
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Read the class arrays of a folder, memory-mapped.

    Args:
        root: The folder.
        class_files: File name without ``.npy`` to (split, class). If None, a name that begins with
            a split (``test_normal``, ``val_normal``) belongs to it and any other to train; the
            rest of the name is the class.

    Returns:
        The splits in the order train, val, test, and the class names: sorted, or in the order of
        ``class_files``.

    Raises:
        DataError: A file is missing or no array of images, or classes differ between splits.
    """
    mapping = guess_class_files(root) if class_files is None else checked_mapping(class_files)
    classes = tuple(dict.fromkeys(title for _, title in mapping.values()))
    if class_files is None:
        classes = tuple(sorted(classes))
    check_mapping(root, mapping)
    found = {
        split: [title for title in classes if (split, title) in mapping.values()]
        for split in SPLITS
        if any(split == name for name, _ in mapping.values())
    }
    common_classes(found)
    return {split: read_split_npy(root, split, mapping, classes) for split in found}, classes


def checked_mapping(class_files: object) -> dict[str, tuple[str, str]]:
    """Return what the caller gave, if it maps names to pairs.

    Raises:
        ConfigError: It does not.
    """
    pairs = dict(class_files) if isinstance(class_files, Mapping) else {}
    if not pairs or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs.values()):
        raise ConfigError(
            'class_files must map names without .npy to (split, class), such as {"test_normal": '
            f'("test", "normal")}}, got {class_files!r}.'
        )
    return pairs


def guess_class_files(root: Path) -> dict[str, tuple[str, str]]:
    """Tell split and class from each file's name."""
    mapping = {}
    for path in sorted(root.iterdir()):
        if path.suffix.lower() != ".npy" or ignored(path.name):
            continue
        head, _, rest = path.stem.partition("_")
        split = ALIASES.get(head.lower())
        mapping[path.stem] = (split, rest) if split and rest else ("train", path.stem)
    return mapping


def check_mapping(root: Path, mapping: Mapping[str, tuple[str, str]]) -> None:
    """Raise unless every file is there and every split is known."""
    for stem, (split, _) in mapping.items():
        if not (root / f"{stem}.npy").is_file():
            there = ", ".join(sorted(path.name for path in root.glob("*.npy"))) or "none"
            raise DataError(f"{root} has no {stem}.npy; .npy files there: {there}.")
        if split not in SPLITS:
            raise DataError(f"class_files maps {stem!r} to the split {split!r}, not to {SPLITS}.")
    pairs = list(mapping.values())
    if len(set(pairs)) < len(pairs):
        raise DataError(f"Two .npy files belong to the same split and class: {dict(mapping)}.")


def read_split_npy(
    root: Path, split: str, mapping: Mapping[str, tuple[str, str]], classes: tuple[str, ...]
) -> Part:
    """Put the classes of one split one after the other."""
    stems = {title: stem for stem, (name, title) in mapping.items() if name == split}
    arrays = [(f"{stems[title]}.npy", map_array(root / f"{stems[title]}.npy")) for title in classes]
    counts = [len(array) for _, array in arrays]
    names = [
        f"{stems[title]}[{row}]"
        for title, count in zip(classes, counts, strict=True)
        for row in range(count)
    ]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
    return Part.whole(ArraySource.of(arrays, names, labels))


def map_array(path: Path) -> NDArray[np.generic]:
    """Map one .npy file, never unpickling.

    Raises:
        DataError: It is damaged, empty, or holds Python objects.
    """
    try:
        array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        if "object" in str(error).lower() or "pickle" in str(error).lower():
            raise DataError(
                f"{path.name} holds Python objects or pickled data, which are never unpickled "
                "because they can run code. Save a numeric array of images with np.save."
            ) from error
        raise DataError(f"{path.name} is no readable .npy array: {error}.") from error
    if array.ndim == 0 or len(array) == 0:
        raise DataError(f"{path.name} holds no images: its shape is {array.shape}.")
    return array
