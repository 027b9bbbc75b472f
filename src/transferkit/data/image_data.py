"""Labelled images: one split (``ImageData``) and several (``Splits``)."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import ArrayLike

from transferkit._format import describe, table
from transferkit._typing import JSON, Int64Array, UInt8Array
from transferkit.data.array_conversion import (
    Indices,
    TensorLike,
    check_label_range,
    check_lengths,
    to_class_names,
    to_images,
    to_labels,
    to_rows,
    to_sizes,
)
from transferkit.data.value_range import chunks, report_depth
from transferkit.errors import DataError

if TYPE_CHECKING:
    import torch


def require_images(what: str, value: object) -> ImageData:
    """Return ``value`` if it is an ImageData; else raise, naming it and how to make one of it."""
    if isinstance(value, ImageData):
        return value
    if isinstance(value, str | os.PathLike):
        path = os.fspath(value)
        advice = f"Load it first: tk.load_splits({path!r}), and give one of the splits."
    elif isinstance(value, Mapping):
        named = ", ".join(map(repr, value)) or "none"
        advice = f'Give one of its parts, such as splits["train"]; it has {named}.'
    elif isinstance(value, TensorLike) or hasattr(value, "__array__"):
        advice = "Put pixels and class numbers together: tk.ImageData(images, labels)."
    else:
        advice = "Make one of arrays, tk.ImageData(images, labels), or files, tk.load_splits(path)."
    raise DataError(f"{what} must be an ImageData, got {describe(value)}. {advice}")


def require_splits(value: object) -> Splits:
    """Return ``value`` as Splits, from any mapping of ImageData; else raise DataError."""
    return value if isinstance(value, Splits) else Splits(cast("Mapping[str, ImageData]", value))


@dataclass(frozen=True, slots=True, eq=False, init=False, repr=False)
class ImageData:
    """A labelled set of images of one size: the type of every split.

    Attributes:
        images: uint8 (N, H, W, C), C being 1, 3 or ``channels``; may be a memory map.
        labels: int64 (N,) in [0, K), or None where the images have no labels.
        classes: K class names.
        names: N file names, relative to the folder that holds the splits, or ``"train[17]"``.
        sizes: int64 (N, 2), the height and width of each image before it came to one size.
        groups: N group names (patients, films), or None. A group must not straddle splits.
        bits: Bit depth that the values had before they became uint8: 8, or up to 16.

    Example:
        >>> import numpy as np
        >>> import transferkit as tk
        >>> pixels = np.zeros((4, 28, 28), dtype=np.uint8)
        >>> data = tk.ImageData(pixels, [0, 1, 1, 0], classes=["cat", "dog"])
        >>> data
        ImageData(4 images 28x28x1, classes ['cat', 'dog'])
        >>> data.class_counts().tolist()
        [2, 2]
        >>> data.subset([1, 2]).batch([0]).shape
        torch.Size([1, 1, 28, 28])
    """

    images: UInt8Array
    labels: Int64Array | None
    classes: tuple[str, ...]
    names: tuple[str, ...]
    sizes: Int64Array
    groups: tuple[str, ...] | None
    bits: int

    def __init__(
        self,
        images: ArrayLike | TensorLike,
        labels: ArrayLike | TensorLike | None = None,
        *,
        classes: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        sizes: ArrayLike | None = None,
        groups: Sequence[str] | None = None,
        bits: int | None = None,
        channels: int | None = None,
    ) -> None:
        """Check and convert.

        Args:
            images: (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels; where both
                ends look like channels, the last axis is taken.
                Types: uint8; bool (0 and 255); uint16, of which ``bits`` become 0..255; other
                integers in 0..255; floats in [0, 1] (times 255) or in [0, 255].
            labels: Class numbers, (N,) or (N, 1).
            classes: Class names; ``"0"``, ``"1"``, ... if None.
            names: Names of the images; ``"image[0]"``, ... if None.
            sizes: Original (height, width) of each image; the size of ``images`` if None.
            groups: Group of each image.
            bits: Bit depth of integers of more than 8 bits, such as 12 for 0..4095. By default
                that of uint16 is the least of 10, 12, 14 and 16 that holds the largest value.
            channels: Number of channels to keep, such as 4 for a network of ``in_channels=4``. By
                default 1, 3 or 4 are taken, the fourth being alpha, which is composited on black.

        Raises:
            DataError: Lengths differ, a label is out of range, or pixels cannot be understood.

        Warns:
            UserWarning: A bit depth below 16 was inferred.
        """
        pixels, depth = to_images(images, bits, channels)
        report_depth(depth, bits, stacklevel=2)
        count = len(pixels)
        numbers = None if labels is None else to_labels(labels)
        if names is None:
            names = [f"image[{i}]" for i in range(count)]
        if sizes is None:
            sizes = np.broadcast_to(np.array(pixels.shape[1:3], np.int64), (count, 2))
        check_lengths(count, {"labels": numbers, "names": names, "sizes": sizes, "groups": groups})
        titles = to_class_names(classes, numbers)
        check_label_range(numbers, titles, names)
        grouping = None if groups is None else tuple(map(str, groups))
        originals = to_sizes(sizes, count)
        set_fields(self, pixels, numbers, titles, tuple(names), originals, grouping, depth)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[UInt8Array, int]:
        """Return one image (H, W, C) and its label; images without labels are a DataError."""
        return self.images[index], int(self.require_labels("Indexing")[index])

    def __repr__(self) -> str:
        size = "x".join(map(str, self.images.shape[1:]))
        labelled = "" if self.labels is not None else ", no labels"
        depth = "" if self.bits == 8 else f", read from {self.bits} bits"
        return (
            f"ImageData({len(self)} images {size}, classes {list(self.classes)}{labelled}{depth})"
        )

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.classes)

    def subset(self, indices: Indices) -> ImageData:
        """Return the images at ``indices`` (numbers, or a mask of length N), in that order."""
        rows = to_rows(indices, len(self))
        return trusted_images(
            self.images[rows],
            None if self.labels is None else self.labels[rows],
            self.classes,
            [self.names[i] for i in rows],
            self.sizes[rows],
            None if self.groups is None else [self.groups[i] for i in rows],
            self.bits,
        )

    def with_classes(self, classes: Sequence[str]) -> ImageData:
        """Return the same images, with labels that number the classes in the order of ``classes``.

        Labels follow the names. Where one side has no names but ``"0"``, ``"1"``, ..., the labels
        stay, under the names of the other side.

        Args:
            classes: Class names, such as those of a classifier; classes without images may be among
                them.

        Raises:
            DataError: The images have other classes.

        Example:
            >>> import numpy as np
            >>> import transferkit as tk
            >>> data = tk.ImageData(np.zeros((3, 8, 8)), [0, 1, 1], classes=["dog", "cat"])
            >>> data.with_classes(["cat", "dog"]).labels.tolist()
            [1, 0, 0]
        """
        names, labels = to_class_names(classes, None), self.labels
        if set(self.classes) <= set(names):
            order = np.array([names.index(name) for name in self.classes], np.int64)
            labels = None if labels is None else order[labels]
        elif len(names) == self.num_classes and are_numbers(names):
            names = self.classes
        elif labels is not None and not (are_numbers(self.classes) and len(names) > labels.max()):
            raise DataError(
                f"The images have {self.num_classes} classes {list(self.classes)}, expected "
                f"{len(names)} classes {list(names)} in any order. Give images of these classes, "
                "or set model.classes where only the names differ."
            )
        if self.classes == names:
            return self
        return trusted_images(
            self.images, labels, names, self.names, self.sizes, self.groups, self.bits
        )

    def batch(self, indices: Indices) -> torch.Tensor:
        """Return the images at ``indices`` as a uint8 tensor (B, C, H, W), channels last."""
        import torch

        rows = to_rows(indices, len(self))
        return torch.from_numpy(np.ascontiguousarray(self.images[rows])).permute(0, 3, 1, 2)

    def require_labels(self, purpose: str) -> Int64Array:
        """Return the labels.

        Args:
            purpose: What needs them, the first words of the error: ``"Evaluation"``.

        Raises:
            DataError: There are none.
        """
        if self.labels is None:
            raise DataError(f"{purpose} needs labels, but these {len(self)} images have none.")
        return self.labels

    def class_counts(self) -> Int64Array:
        """Return the number of images of each class, (K,)."""
        labels = self.require_labels("Counting classes")
        return np.bincount(labels, minlength=self.num_classes).astype(np.int64)

    def fingerprint(self) -> str:
        """Return a hash of pixels, labels, classes and shape (BLAKE2b, about 1 s per GB)."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.images.shape, self.classes, self.labels is None)).encode())
        for part in chunks(self.images):
            digest.update(np.ascontiguousarray(self.images[part]).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, "<i8").data)
        return digest.hexdigest()


def set_fields(data: ImageData, *values: object) -> None:
    """Fill in the fields of a frozen ImageData, in their order."""
    for field, value in zip(dataclasses.fields(data), values, strict=True):
        object.__setattr__(data, field.name, value)


def trusted_images(
    images: UInt8Array,
    labels: Int64Array | None,
    classes: tuple[str, ...],
    names: Iterable[str],
    sizes: Int64Array,
    groups: Iterable[str] | None,
    bits: int = 8,
) -> ImageData:
    """Make an ImageData of fields that are right already, without checking them."""
    data = ImageData.__new__(ImageData)
    grouping = None if groups is None else tuple(groups)
    set_fields(data, images, labels, classes, tuple(names), sizes, grouping, bits)
    return data


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
            splits: Name to images, in the order to keep. Unlabelled parts without class names
                take those of the others.
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
    if a.classes != b.classes:
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


def are_numbers(classes: Sequence[str]) -> bool:
    """Whether class names are ``"0"``, ``"1"``, ..., which stand for no names."""
    return tuple(classes) == tuple(map(str, range(len(classes))))


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
