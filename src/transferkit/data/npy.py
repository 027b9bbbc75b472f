"""One .npy file a class and split: ``normal.npy``, ``pneumonia.npy``, ``test_normal.npy``, ..."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transferkit.data.folder import ALIASES, common_classes, ignored
from transferkit.data.source import ArraySource, Part
from transferkit.errors import ConfigError, DataError

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
    return {split: read_split(root, split, mapping, classes) for split in found}, classes


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


def read_split(
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
