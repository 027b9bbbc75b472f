"""Labelled images of one size: ``ImageData``, the type of every split."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transferkit._format import describe
from transferkit._typing import Int64Array, UInt8Array
from transferkit.data.array_conversion import TensorLike, to_group_names, to_images, to_labels
from transferkit.data.image_decoding import Reading, Resize
from transferkit.data.value_range import chunks, report_depth
from transferkit.errors import DataError

if TYPE_CHECKING:
    import torch

Indices: TypeAlias = "Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]"


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
        groups: N group names (patients, films), or None; None too for an image without one, which
            is a group of its own. A group must not straddle splits.
        bits: Bit depth that the values had before they became uint8: 8, or up to 16.
        resize: How files of other sizes were brought to this one; None where they were arrays.

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
    groups: tuple[str | None, ...] | None
    bits: int
    resize: Resize | None

    def __init__(
        self,
        images: ArrayLike | TensorLike,
        labels: ArrayLike | TensorLike | Sequence[str] | None = None,
        *,
        classes: Sequence[str] | None = None,
        names: Sequence[object] | None = None,
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
                Or a list of PIL images of one size, in any modes.
                Types: uint8; bool (0 and 255); uint16, of which ``bits`` become 0..255; other
                integers in 0..255; floats in [0, 1] (times 255) or in [0, 255].
            labels: Class numbers from 0, (N,) or (N, 1); or one-hot, (N, K); or class names.
                Numbers may also run from 1 to K, or be 0 and 255.
            classes: Class names. By default those that ``labels`` hold, sorted, or the numbers.
            names: Names or paths of the images; ``"image[0]"``, ... if None.
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
        titles = () if classes is None else to_class_names(classes)
        numbers = None
        if labels is not None:
            numbers, titles = to_labels(labels, None if classes is None else titles)
        if names is None:
            names = [None] * count
        if sizes is None:
            sizes = np.broadcast_to(np.array(pixels.shape[1:3], np.int64), (count, 2))
        check_lengths(count, {"labels": numbers, "names": names, "sizes": sizes, "groups": groups})
        try:
            originals = np.asarray(sizes, np.int64).reshape(count, 2)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"sizes must be a height and a width for each image: {error}."
            ) from error
        named = tuple(
            f"image[{row}]" if name is None else printable(name) for row, name in enumerate(names)
        )
        if numbers is not None:
            check_label_range(numbers, titles, named)
        grouping = None if groups is None else tuple(to_group_names(groups))
        set_fields(self, pixels, numbers, titles, named, originals, grouping, depth, None)

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
            self.resize,
        )

    def with_classes(self, classes: Sequence[str]) -> ImageData:
        """Return the same images, with labels that number the classes in the order of ``classes``.

        Labels follow the names. Where one side has no names but numbers, the numbers are taken for
        places among the names of the other side.

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
        names, labels = renumber(self.labels, self.classes, to_class_names(classes))
        if self.classes == names:
            return self
        return trusted_images(
            self.images,
            labels,
            names,
            self.names,
            self.sizes,
            self.groups,
            self.bits,
            self.resize,
        )

    def batch(self, indices: Indices) -> torch.Tensor:
        """Return the images at ``indices`` as a uint8 tensor (B, C, H, W), channels last."""
        import torch

        rows = to_rows(indices, len(self))
        return torch.from_numpy(np.ascontiguousarray(self.images[rows])).permute(0, 3, 1, 2)

    @property
    def reading(self) -> Reading | None:
        """How to read other files as these were; None where they were arrays."""
        _, height, width, channels = self.images.shape
        if self.resize is None or channels not in (1, 3):
            return None
        return Reading((height, width), self.resize, channels, self.bits)

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
    groups: Iterable[str | None] | None,
    bits: int = 8,
    resize: Resize | None = None,
) -> ImageData:
    """Make an ImageData of fields that are right already, without checking them."""
    data = ImageData.__new__(ImageData)
    grouping = None if groups is None else tuple(groups)
    set_fields(data, images, labels, classes, tuple(names), sizes, grouping, bits, resize)
    return data


def to_rows(indices: Indices, count: int) -> Int64Array:
    """Turn indices or a mask into row numbers."""
    rows = np.asarray(indices)
    if rows.dtype == bool:
        if rows.shape != (count,):
            raise DataError(f"A mask must have one entry per image, ({count},), got {rows.shape}.")
        return np.flatnonzero(rows).astype(np.int64)
    if rows.dtype.kind not in "iu" and rows.size:
        raise DataError(f"Images are chosen by whole numbers or a mask, got {indices!r}.")
    numbers = rows.astype(np.int64).reshape(-1)
    if numbers.size and not -count <= numbers.min() <= numbers.max() < count:
        raise DataError(f"There is no image {numbers[np.argmax(np.abs(numbers))]} of {count}.")
    return numbers


def to_class_names(classes: object) -> tuple[str, ...]:
    """Return the class names in the order given."""
    if isinstance(classes, str | Set | Mapping) or not isinstance(classes, Iterable):
        raise DataError(
            f"classes must be a list of class names in the order of their numbers, got {classes!r}."
        )
    names = tuple(map(str, classes))
    if len(set(names)) < len(names):
        raise DataError(f"Class names must differ, got {', '.join(names)}.")
    return names


def renumber(
    labels: Int64Array | None, classes: tuple[str, ...], wanted: tuple[str, ...]
) -> tuple[tuple[str, ...], Int64Array | None]:
    """Return class names and labels for another order of classes; see ImageData.with_classes."""
    if set(classes) <= set(wanted):
        order = np.array([wanted.index(name) for name in classes], np.int64)
        return wanted, None if labels is None else order[labels]
    if len(wanted) == len(classes) and are_numbers(wanted):
        return classes, labels
    numbers = [int(name) for name in classes if name.isdecimal()]
    if labels is None or (len(numbers) == len(classes) == len(wanted) <= max(numbers)):
        return wanted, labels
    if len(numbers) < len(classes) or max(numbers) >= len(wanted):
        raise DataError(
            f"The images have {len(classes)} classes {list(classes)}, expected {len(wanted)} "
            f"classes {list(wanted)} in any order. Give images of these classes, or set "
            "model.classes where only the names differ."
        )
    return wanted, np.array(numbers, np.int64)[labels]


def are_numbers(classes: Sequence[str]) -> bool:
    """Whether class names are ``"0"``, ``"1"``, ..., which stand for no names."""
    return tuple(classes) == tuple(map(str, range(len(classes))))


def printable(name: object) -> str:
    """Return a name as text that can be printed and written: bytes that are no UTF-8 are shown."""
    return str(name).encode(errors="backslashreplace").decode()


def check_lengths(count: int, fields: Mapping[str, object]) -> None:
    """Raise unless every field that is not None has one entry per image."""
    for key, value in fields.items():
        length = len(value) if hasattr(value, "__len__") else -1
        if value is not None and length != count:
            raise DataError(f"{count} images but {length} {key}; each image needs exactly one.")


def check_label_range(labels: Int64Array, classes: Sequence[str], names: Sequence[str]) -> None:
    """Raise if a label is not in [0, K), naming the first image that has one."""
    bad = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(bad):
        first = int(bad[0])
        raise DataError(
            f"Label {labels[first]} of {names[first]} is outside 0..{len(classes) - 1} "
            f"(classes: {', '.join(classes)}); {len(bad)} labels are."
        )
