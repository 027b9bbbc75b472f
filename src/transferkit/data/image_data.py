"""Labelled images: one split (``ImageData``) and several (``Splits``)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transferkit._format import describe, table
from transferkit._typing import JSON, Int64Array, UInt8Array
from transferkit.data.array_conversion import TensorLike, chunks, to_images, to_labels
from transferkit.errors import DataError

if TYPE_CHECKING:
    import torch


Indices: TypeAlias = "Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]"


def as_rows(indices: Indices, count: int) -> Int64Array:
    """Turn numbers or a mask into row numbers."""
    rows = np.asarray(indices)
    if rows.dtype == bool:
        if rows.shape != (count,):
            raise DataError(f"A mask must have one entry an image, {count}, got {rows.shape}.")
        return np.flatnonzero(rows).astype(np.int64)
    if rows.dtype.kind not in "iu" and rows.size:
        raise DataError(f"Images are chosen by whole numbers or a mask, got {indices!r}.")
    numbers = rows.astype(np.int64).reshape(-1)
    if numbers.size and not -count <= numbers.min() <= numbers.max() < count:
        raise DataError(f"There is no image {numbers[np.argmax(np.abs(numbers))]} of {count}.")
    return numbers


def check_lengths(count: int, fields: Mapping[str, object]) -> None:
    """Raise unless every field has one entry an image."""
    for key, value in fields.items():
        length = len(value) if hasattr(value, "__len__") else -1
        if length != count:
            raise DataError(f"{count} images but {length} {key}; each image needs exactly one.")


def as_sizes(sizes: ArrayLike, count: int) -> Int64Array:
    """Return the original sizes as whole numbers (N, 2)."""
    try:
        return np.asarray(sizes, np.int64).reshape(count, 2)
    except (TypeError, ValueError) as error:
        raise DataError(f"sizes must be a height and a width for each image: {error}.") from error


def class_names(labels: Int64Array | None, classes: object) -> tuple[str, ...]:
    """Return the class names, by default the numbers up to the largest label."""
    if classes is None:
        top = -1 if labels is None or len(labels) == 0 else int(labels.max())
        return tuple(map(str, range(top + 1)))
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise DataError(f"classes must be a list of class names, got {classes!r}.")
    titles = tuple(map(str, classes))
    if len(set(titles)) < len(titles):
        raise DataError(f"Class names must differ, got {', '.join(titles)}.")
    return titles


def check_range(labels: Int64Array | None, classes: tuple[str, ...], names: Sequence[str]) -> None:
    """Raise if a label is not in [0, K), naming the first image that has one."""
    if labels is None:
        return
    bad = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(bad):
        first = int(bad[0])
        raise DataError(
            f"Label {labels[first]} of {names[first]} is outside 0..{len(classes) - 1} "
            f"(classes: {', '.join(classes)}); {len(bad)} labels are."
        )


def no_images(what: str, value: object) -> DataError:
    """Build the error for ``value`` in the place of images.

    Args:
        what: What was wanted, to begin the sentence with: ``"The train split"``.
        value: What came.
    """
    return DataError(f"{what} must be an ImageData, got {describe(value)}. {_instead(value)}")


def no_splits(value: object) -> DataError:
    """Build the error for ``value`` in the place of splits."""
    if isinstance(value, str | os.PathLike):
        hint = f"Load the folder or file first: tk.load_splits({os.fspath(value)!r})."
    else:
        hint = 'Give a mapping from names to images: {"train": ..., "val": ..., "test": ...}.'
    return DataError(f"Expected splits, got {describe(value)}. {hint}")


def _instead(value: object) -> str:
    """Say how to make images of a value."""
    if isinstance(value, str | os.PathLike):
        return f"Load it first: tk.load_splits({os.fspath(value)!r}), and give one of the splits."
    if isinstance(value, Mapping):
        named = ", ".join(map(repr, value)) or "none"
        return f'Give one of its parts, such as splits["train"]; it has {named}.'
    if isinstance(value, TensorLike) or hasattr(value, "__array__"):
        return "Put pixels and class numbers together: tk.ImageData(images, labels)."
    return "Make one of arrays, tk.ImageData(images, labels), or of files, tk.load_splits(path)."


@dataclass(frozen=True, slots=True, eq=False, init=False, repr=False)
class ImageData:
    """A labelled set of images of one size: the type of every split.

    Attributes:
        images: uint8 (N, H, W, C), C being 1 or 3; may be a memory map.
        labels: int64 (N,) in [0, K), or None where the images have no labels.
        classes: K class names.
        names: N file names, relative to the folder that holds the splits, or ``"train[17]"``.
        sizes: int64 (N, 2), the height and width of each image before it came to one size.
        groups: N names of what must not straddle splits (patients, films), or None.

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

    def __init__(
        self,
        images: ArrayLike | TensorLike,
        labels: ArrayLike | TensorLike | None = None,
        *,
        classes: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        sizes: ArrayLike | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        """Check and convert; see ``arrays.to_images`` for the layouts and types taken.

        Args:
            images: (N, H, W), (N, H, W, C) or (N, C, H, W).
            labels: Class numbers, (N,) or (N, 1).
            classes: Class names; ``"0"``, ``"1"``, ... if None.
            names: Names of the images; ``"image[0]"``, ... if None.
            sizes: Original (height, width) of each image; the size of ``images`` if None.
            groups: Group of each image.

        Raises:
            DataError: Lengths differ, a label is out of range, or pixels cannot be understood.
        """
        pixels = to_images(images)
        count = len(pixels)
        numbers = None if labels is None else to_labels(labels)
        if names is None:
            names = [f"image[{i}]" for i in range(count)]
        if sizes is None:
            sizes = np.broadcast_to(np.array(pixels.shape[1:3], np.int64), (count, 2))
        lengths = {"labels": numbers, "names": names, "sizes": sizes, "groups": groups}
        check_lengths(count, {key: value for key, value in lengths.items() if value is not None})
        titles = class_names(numbers, classes)
        check_range(numbers, titles, names)
        fields = {
            "images": pixels,
            "labels": numbers,
            "classes": titles,
            "names": tuple(names),
            "sizes": as_sizes(sizes, count),
            "groups": None if groups is None else tuple(map(str, groups)),
        }
        for key, value in fields.items():
            object.__setattr__(self, key, value)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[UInt8Array, int]:
        """Return one image (H, W, C) and its label.

        Raises:
            IndexError: There is no such image.
            DataError: The images have no labels (take ``data.images[index]``).
        """
        return self.images[index], int(self.require_labels("Indexing")[index])

    def __repr__(self) -> str:
        size = "x".join(map(str, self.images.shape[1:]))
        labelled = "" if self.labels is not None else ", no labels"
        return f"ImageData({len(self)} images {size}, classes {list(self.classes)}{labelled})"

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.classes)

    def subset(self, indices: Indices) -> ImageData:
        """Return the images at ``indices`` (numbers, or a mask of length N), in that order."""
        rows = as_rows(indices, len(self))
        return ImageData(
            self.images[rows],
            None if self.labels is None else self.labels[rows],
            classes=self.classes,
            names=[self.names[i] for i in rows],
            sizes=self.sizes[rows],
            groups=None if self.groups is None else [self.groups[i] for i in rows],
        )

    def batch(self, indices: Indices) -> torch.Tensor:
        """Return the images at ``indices`` as a uint8 tensor (B, C, H, W).

        The memory is laid out channels last, as the images are; nothing is moved for it.
        """
        import torch

        rows = as_rows(indices, len(self))
        return torch.from_numpy(np.ascontiguousarray(self.images[rows])).permute(0, 3, 1, 2)

    def require_labels(self, purpose: str) -> Int64Array:
        """Return the labels.

        Args:
            purpose: What needs them, to begin the sentence of the error with.

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
        parts = check_splits(splits)
        titles = next((data.classes for data in parts.values() if data.classes), ())
        self._splits = {name: with_classes(data, titles) for name, data in parts.items()}
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

    def require(self, *names: str) -> tuple[ImageData, ...]:
        """Return the splits of these names.

        Raises:
            DataError: One is absent; the message says which there are.
        """
        for name in names:
            if name not in self:
                raise DataError(f"There is no {name!r} split; there are: {', '.join(self)}.")
        return tuple(self[name] for name in names)

    def with_split(self, name: str, data: ImageData) -> Splits:
        """Return these splits with one added or replaced."""
        return Splits({**self._splits, name: data}, skipped=self.skipped)

    def __repr__(self) -> str:
        return f"Splits({self._splits!r})"

    def __str__(self) -> str:
        header = ["split", "images", "size", *self.classes]
        text = table(header, [table_row(name, data) for name, data in self.items()])
        return f"{text}\n{len(self.skipped)} files skipped" if self.skipped else text

    def to_dict(self) -> dict[str, JSON]:
        """Return what the table shows, ready for JSON."""
        return {
            "classes": list(self.classes),
            "splits": {name: split_facts(data) for name, data in self.items()},
            "skipped": [{"path": file.path, "reason": file.reason} for file in self.skipped],
        }


def require_images(what: str, value: object) -> ImageData:
    """Return images that a caller has given.

    Args:
        what: What they are, to begin the sentence of the error with.
        value: What came.

    Raises:
        DataError: Something else came; the message says how to make images of it.
    """
    if isinstance(value, ImageData):
        return value
    raise no_images(what, value)


def require_splits(value: object) -> Splits:
    """Return splits that a caller has given, as such or as any mapping.

    Raises:
        DataError: Something else came, or the parts do not fit together.
    """
    return value if isinstance(value, Splits) else Splits(check_splits(value))


def check_splits(value: object) -> dict[str, ImageData]:
    """Return the parts of a mapping: at least one, none empty, of the same classes and channels.

    Raises:
        DataError: They are not.
    """
    if not isinstance(value, Mapping):
        raise no_splits(value)
    splits = {str(k): require_images(f"The {k!r} split", data) for k, data in value.items()}
    if not splits:
        raise DataError("Expected at least one split, got none.")
    empty = [name for name, data in splits.items() if len(data) == 0]
    if empty:
        raise DataError(f"The {empty[0]!r} split has no images.")
    named = {name: data for name, data in splits.items() if data.classes}
    first, *others = named or splits
    for other in others:
        check_pair(first, splits[first], other, splits[other])
    return splits


def check_pair(first: str, a: ImageData, second: str, b: ImageData) -> None:
    """Raise if two splits differ in classes or channels."""
    if a.classes != b.classes:
        raise DataError(
            f"The classes differ between splits: {first} has {list(a.classes)}, "
            f"{second} has {list(b.classes)}."
        )
    if a.images.shape[3] != b.images.shape[3]:
        raise DataError(
            f"{first} has {a.images.shape[3]} channels an image and {second} has "
            f"{b.images.shape[3]}; load them with the same number of channels."
        )


def with_classes(data: ImageData, classes: tuple[str, ...]) -> ImageData:
    """Give class names to unlabelled images that have none."""
    if data.classes == classes:
        return data
    return ImageData(
        data.images, classes=classes, names=data.names, sizes=data.sizes, groups=data.groups
    )


def table_row(name: str, data: ImageData) -> list[str]:
    """Return one row of the table of splits."""
    counts = ["-"] * data.num_classes if data.labels is None else map(str, data.class_counts())
    return [name, str(len(data)), "x".join(map(str, data.images.shape[1:])), *counts]


def split_facts(data: ImageData) -> dict[str, JSON]:
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
