"""Labelled images of one size: ``ImageData``, the type of every split."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from transferkit._format import describe
from transferkit._typing import Int64Array, UInt8Array
from transferkit.data.array_conversion import (
    Indices,
    TensorLike,
    check_label_range,
    check_lengths,
    renumber,
    to_class_names,
    to_group_names,
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
        groups: Sequence[object] | None = None,
        bits: int | None = None,
        channels: int | None = None,
    ) -> None:
        """Check and convert.

        Args:
            images: (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels; where both
                ends look like channels, the last axis is taken. (N, H, 3) and (N, H, 4), which
                may be one colour image, need ``channels=1``.
                Types: uint8; bool (0 and 255); uint16, of which ``bits`` become 0..255; other
                integers in 0..255; floats in [0, 1] (times 255) or in [0, 255].
            labels: Class numbers, (N,) or (N, 1).
            classes: Class names; ``"0"``, ``"1"``, ... if None.
            names: Names of the images; ``"image[0]"``, ... if None.
            sizes: Original (height, width) of each image; the size of ``images`` if None.
            groups: Group of each image: texts or numbers. 3 and 3.0 are one group; an image whose
                group is missing (None, NaN) is a group of its own.
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
        grouping = None if groups is None else tuple(to_group_names(groups, names))
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
        names, labels = renumber(self.labels, self.classes, to_class_names(classes, None))
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
