"""MedMNIST archives: one .npz with ``train_images``, ``train_labels``, ``val_images``, ..."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transferkit._typing import Int64Array
from transferkit.data.arrays import to_labels
from transferkit.data.source import ArraySource, Part
from transferkit.errors import DataError

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
