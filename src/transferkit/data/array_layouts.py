"""Datasets stored as NumPy arrays: a MedMNIST ``.npz``, or a folder of ``.npy`` files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transferkit._typing import Int64Array
from transferkit.data.array_conversion import to_labels
from transferkit.data.folder_layout import common_classes, ignored
from transferkit.data.pixel_reader import ArraySource, Part
from transferkit.data.split_names import (
    SPLITS,
    SplitFolders,
    assign_splits,
    check_left_over,
    split_of,
)
from transferkit.data.value_range import DatasetScale
from transferkit.errors import ConfigError, DataError

DAMAGED = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
"""The errors that NumPy raises on damaged files."""


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


def read_npz(
    path: Path, split_folders: SplitFolders | None, bits: int | None
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """List the splits of an archive, in the order train, val, test, and its class numbers."""
    arrays = load_npz(path)
    names = [key.removesuffix("_images") for key in arrays if key.endswith("_images")]
    splits = assign_splits(path.name, names, split_folders)
    if not splits:
        raise DataError(
            f"{path.name} has no images: expected train_images, train_labels, val_images, ... (the "
            f"MedMNIST layout), got {', '.join(arrays) or 'nothing'}."
        )
    if split_folders is None:
        left = [name for name in names if split_of(name) is None]
        check_left_over(path.name, splits, left, or_classes=False)
    labels = {split: read_labels(path, own, arrays) for split, own in splits.items()}
    classes = number_classes(path, labels)
    source, parts = ArraySource(DatasetScale(bits)), {}
    for split, own in splits.items():
        listed: list[str] = []
        for name in own:
            stem, key = split if len(own) == 1 else name, f"{name}_images"
            listed += source.add(stem, arrays[key], title=f"{key} of {path.name}")
        parts[split] = Part(source, listed, labels[split])
    source.settle()
    return parts, classes


def load_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    """Load all arrays of an archive, without unpickling."""
    with named_errors(path), path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.lib.npyio.NpzFile):
            return {key: archive[key] for key in archive.files}
    raise DataError(f"{path.name} is a single array, not an archive of several.")


def read_labels(
    path: Path, names: Sequence[str], arrays: Mapping[str, NDArray[np.generic]]
) -> Int64Array | None:
    """Return the labels (N,) of the arrays of one split, or None if there are none."""
    keys = [f"{name}_labels" for name in names]
    if not any(key in arrays for key in keys):
        return None
    found = []
    for name, key in zip(names, keys, strict=True):
        try:
            found.append(to_labels(arrays[key]))
        except KeyError as error:
            raise DataError(f"{path.name} has {name}_images, but no {key}.") from error
        except DataError as error:
            raise DataError(f"{key} of {path.name}: {error}") from error
        images = arrays[f"{name}_images"]
        if images.ndim == 0 or len(images) != len(found[-1]):
            raise DataError(
                f"{path.name}: {name}_images has shape {images.shape}, but {key} has "
                f"{len(found[-1])} labels; each image needs exactly one."
            )
    return np.concatenate(found)


def number_classes(path: Path, labels: Mapping[str, Int64Array | None]) -> tuple[str, ...]:
    """Name the classes by their numbers, 0 to the largest label of train."""
    known = {name: values for name, values in labels.items() if values is not None and len(values)}
    if not known:
        return ()
    first = next(iter(known))
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


def read_npy_folder(
    root: Path, class_files: Mapping[str, tuple[str, str]] | None, bits: int | None
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """List the class arrays of a folder, memory-mapped, by split, and the class names."""
    mapping = guess_class_files(root) if class_files is None else check_class_files(class_files)
    classes = tuple(dict.fromkeys(title for _, title in mapping.values()))
    if class_files is None:
        classes = tuple(sorted(classes))
    for stem, (split, _) in mapping.items():
        if not (root / f"{stem}.npy").is_file():
            there = ", ".join(sorted(path.name for path in root.glob("*.npy"))) or "none"
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
    source = ArraySource(DatasetScale(bits))
    parts = {
        split: stack_classes(source, root, [stems.get((split, title)) for title in classes])
        for split in found
    }
    source.settle()
    return parts, classes


def check_class_files(class_files: object) -> dict[str, tuple[str, str]]:
    """Return ``class_files`` if it maps names to pairs."""
    pairs = dict(class_files) if isinstance(class_files, Mapping) else {}
    if not pairs or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs.values()):
        raise ConfigError(
            'class_files must map names without .npy to (split, class), such as {"test_normal": '
            f'("test", "normal")}}, got {class_files!r}.'
        )
    return pairs


def guess_class_files(root: Path) -> dict[str, tuple[str, str]]:
    """Return split and class by file name: ``test_normal`` is of test, ``normal`` of train."""
    mapping = {}
    for path in sorted(root.iterdir()):
        if path.suffix.lower() != ".npy" or ignored(path.name):
            continue
        head, _, rest = path.stem.partition("_")
        split = split_of(head)
        mapping[path.stem] = (split, rest) if split and rest else ("train", path.stem)
    return mapping


def stack_classes(source: ArraySource, root: Path, stems: list[str | None]) -> Part:
    """Put the arrays of all classes one after the other, labelled 0 to K-1; None is skipped."""
    names: list[str] = []
    labels: list[int] = []
    for label, stem in enumerate(stems):
        if stem is None:
            continue
        names += source.add(stem, map_npy(root / f"{stem}.npy"), title=f"{stem}.npy")
        labels += [label] * (len(names) - len(labels))
    return Part(source, names, np.array(labels, np.int64))


def map_npy(path: Path) -> NDArray[np.generic]:
    """Map one .npy file, without unpickling."""
    with named_errors(path):
        array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim == 0 or len(array) == 0:
        raise DataError(f"{path.name} holds no images: its shape is {array.shape}.")
    return array
