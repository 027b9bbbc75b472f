"""Named parts of one dataset: ``Splits``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from transferkit._format import describe, table
from transferkit._typing import JSON
from transferkit.data.image_data import ImageData, require_images
from transferkit.errors import DataError


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that was left out because it could not be read, and why."""

    path: str
    reason: str


class Splits(Mapping[str, ImageData]):
    """Named parts of one dataset (train, val, test) that share classes and channels.

    Attributes:
        skipped: Files that were left out on loading.

    Example:
        >>> import numpy as np
        >>> import transferkit as tk
        >>> train = tk.ImageData(np.zeros((4, 28, 28)), [0, 1, 1, 0])
        >>> test = tk.ImageData(np.zeros((2, 28, 28)), [0, 1])
        >>> splits = tk.Splits({"train": train, "test": test})
        >>> print(splits)
        split  images     size  0  1
        -----  ------  -------  -  -
        train       4  28x28x1  2  2
        test        2  28x28x1  1  1
        >>> splits.require("train", "val")
        Traceback (most recent call last):
            ...
        transferkit.errors.DataError: There is no 'val' split; there are: train, test.
    """

    skipped: tuple[SkippedFile, ...]

    def __init__(
        self, splits: Mapping[str, ImageData], *, skipped: Sequence[SkippedFile] = ()
    ) -> None:
        """Check that the parts fit together.

        Args:
            splits: Name to images, in the order to keep. All parts take the class order of the
                first; unlabelled parts without class names take those of the others.
            skipped: Files that were left out.

        Raises:
            DataError: No split, an empty split, or classes or channels that differ.
        """
        value: object = splits
        if not isinstance(value, Mapping):
            advice = 'Give a mapping from names to images: {"train": ..., "val": ..., "test": ...}.'
            if isinstance(value, str | os.PathLike):
                advice = f"Load the folder or file first: tk.load_splits({os.fspath(value)!r})."
            raise DataError(f"Expected splits, got {describe(value)}. {advice}")
        parts = {str(k): require_images(f"The {k!r} split", data) for k, data in value.items()}
        if not parts:
            raise DataError("Expected at least one split, got none.")
        for name, data in parts.items():
            if len(data) == 0:
                raise DataError(f"The {name!r} split has no images.")
        first, *others = [name for name, data in parts.items() if data.classes] or parts
        for other in others:
            check_pair(first, parts[first], other, parts[other])
        titles = parts[first].classes
        self._splits = {name: data.with_classes(titles) for name, data in parts.items()}
        self.skipped = tuple(skipped)

    def __getitem__(self, name: str) -> ImageData:
        return self._splits[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names that all splits share."""
        return next(iter(self.values())).classes

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.classes)

    @property
    def bits(self) -> int:
        """Largest bit depth that the values had before they became uint8: 8, or up to 16."""
        return max(data.bits for data in self.values())

    def require(self, *names: str) -> tuple[ImageData, ...]:
        """Return the splits of these names.

        Raises:
            DataError: One is absent; the message says which there are.
        """
        for name in names:
            if name not in self:
                raise DataError(f"There is no {name!r} split; there are: {', '.join(self)}.")
        return tuple(self[name] for name in names)

    def with_classes(self, classes: Sequence[str]) -> Splits:
        """Return these splits with their labels in the order of ``classes``; see ImageData."""
        parts = {name: data.with_classes(classes) for name, data in self.items()}
        return Splits(parts, skipped=self.skipped)

    def with_split(self, name: str, data: ImageData) -> Splits:
        """Return these splits with one added or replaced."""
        return Splits({**self._splits, name: data}, skipped=self.skipped)

    def __repr__(self) -> str:
        return f"Splits({self._splits!r})"

    def __str__(self) -> str:
        header = ["split", "images", "size", *self.classes]
        text = table(header, [table_row(name, data) for name, data in self.items()])
        if self.bits > 8:
            text += f"\n{self.bits}-bit values, 0..{2**self.bits - 1}, read as 0..255"
        return f"{text}\n{len(self.skipped)} files skipped" if self.skipped else text

    def to_dict(self) -> dict[str, JSON]:
        """Return the figures of the table, ready for JSON."""
        return {
            "classes": list(self.classes),
            "bits": self.bits,
            "splits": {name: to_figures(data) for name, data in self.items()},
            "skipped": [{"path": file.path, "reason": file.reason} for file in self.skipped],
        }


def check_pair(first: str, a: ImageData, second: str, b: ImageData) -> None:
    """Raise if two splits differ in classes, channels or the scale of their pixels."""
    if set(a.classes) != set(b.classes):
        raise DataError(
            f"The classes differ between splits: {first} has {list(a.classes)}, "
            f"{second} has {list(b.classes)}."
        )
    if a.images.shape[3] != b.images.shape[3]:
        raise DataError(
            f"{first} has {a.images.shape[3]} channels per image and {second} has "
            f"{b.images.shape[3]}; load them with the same number of channels."
        )
    if a.bits != b.bits and min(a.bits, b.bits) > 8:
        raise DataError(
            f"{first} was read as {a.bits}-bit values and {second} as {b.bits}-bit values, which "
            f"makes one brighter; read both with bits={max(a.bits, b.bits)}."
        )


def table_row(name: str, data: ImageData) -> list[str]:
    """Return one row of the table of splits."""
    counts = ["-"] * data.num_classes if data.labels is None else map(str, data.class_counts())
    return [name, str(len(data)), "x".join(map(str, data.images.shape[1:])), *counts]


def to_figures(data: ImageData) -> dict[str, JSON]:
    """Return one split's figures, ready for JSON."""
    height, width, channels = data.images.shape[1:]
    counts = None if data.labels is None else data.class_counts().tolist()
    groups = None if data.groups is None else len(set(data.groups))
    return {
        "images": len(data),
        "size": [height, width, channels],
        "class_counts": counts,
        "groups": groups,
    }


def require_splits(value: object) -> Splits:
    """Return ``value`` as Splits, from any mapping of ImageData; else raise DataError."""
    return value if isinstance(value, Splits) else Splits(cast("Mapping[str, ImageData]", value))
