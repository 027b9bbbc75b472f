"""Named parts of one dataset, and dividing images into them: by class, each group in one part."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from transferkit._format import describe, table
from transferkit._sampling import deal_rows, group_codes, quotas
from transferkit._typing import JSON, Int64Array
from transferkit._validation import check_whole
from transferkit.data.array_conversion import to_group_names
from transferkit.data.image_data import ImageData, require_images, trusted_images
from transferkit.data.split_names import search_path
from transferkit.errors import ConfigError, DataError, UnknownNameError


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file or folder that was left out, and why; ``broken`` if it is an unreadable image."""

    path: str
    reason: str
    broken: bool = True


class UnknownSplitError(UnknownNameError, KeyError):
    """A split that is not there; a KeyError, so that mappings work as they should."""

    __str__ = Exception.__str__  # that of KeyError would show the message in quotes


class Splits(Mapping[str, ImageData]):
    """Named parts of one dataset (train, val, test) that share classes and channels.

    Attributes:
        skipped: Files and folders that were left out on loading, each with its reason.

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
        """Return one split; of an unknown name an UnknownNameError, which is a KeyError too."""
        try:
            return self._splits[name]
        except KeyError:
            raise UnknownSplitError.among("split", str(name), self) from None

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
        rows = []
        for name, data in self.items():
            counts = "-" * data.num_classes if data.labels is None else data.class_counts()
            rows.append(
                [name, str(len(data)), "x".join(map(str, data.images.shape[1:])), *map(str, counts)]
            )
        text = table(header, rows)
        if self.bits > 8:
            text += f"\n{self.bits}-bit values, 0..{2**self.bits - 1}, read as 0..255"
        if self.skipped:
            reasons = Counter(file.reason for file in self.skipped).most_common(5)
            named = "; ".join(f"{count}: {reason}" for reason, count in reasons)
            text += f"\n{len(self.skipped)} files skipped ({named})"
        return text

    def to_dict(self) -> dict[str, JSON]:
        """Return the figures of the table, ready for JSON."""
        return {
            "classes": list(self.classes),
            "bits": self.bits,
            "splits": {
                name: {
                    "images": len(data),
                    "size": list(data.images.shape[1:]),
                    "class_counts": None if data.labels is None else data.class_counts().tolist(),
                    "groups": None
                    if data.groups is None
                    else int(group_codes(data.groups, len(data)).max()) + 1,
                }
                for name, data in self.items()
            },
            "skipped": [{"path": file.path, "reason": file.reason} for file in self.skipped],
        }


def check_pair(first: str, a: ImageData, second: str, b: ImageData) -> None:
    """Raise if two splits differ in classes, channels or the scale of their pixels."""
    if set(b.classes) - set(a.classes):
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


def require_splits(value: object) -> Splits:
    """Return ``value`` as Splits, from any mapping of ImageData; else raise DataError."""
    return value if isinstance(value, Splits) else Splits(cast("Mapping[str, ImageData]", value))


def resplit(
    splits: Mapping[str, ImageData],
    *,
    seed: int,
    groups: Sequence[object] | str | Literal[True] | None = None,
) -> Splits:
    """Pool all images and split again, with the same sizes, stratified by class.

    Args:
        splits: Labelled splits with images of one size.
        seed: Which division.
        groups: What must not straddle splits. None divides at random, whatever groups the data
            have; True takes the data's own groups; a string is a regular expression whose match in
            a file name, or else in its folders, is the group (a file without a match is a group of
            its own); a sequence gives one group for each image, in the order of the splits, where
            None and NaN are groups of their own. With groups, the sizes are met only nearly.

    Raises:
        DataError: Labels or groups are missing, image sizes differ, or there are too few groups.

    Example:
        >>> import transferkit as tk
        >>> splits = tk.phantom_splits(sizes=(60, 30, 30), image_size=32, images_per_patient=2)
        >>> random = tk.resplit(splits, seed=0)
        >>> bool(set(random["train"].groups) & set(random["test"].groups))  # patients in both
        True
        >>> honest = tk.resplit(splits, seed=0, groups=True)
        >>> bool(set(honest["train"].groups) & set(honest["test"].groups))
        False
    """
    whole = require_splits(splits)
    check_whole("seed", seed)
    pooled = pool(whole)
    labels = pooled.require_labels("Splitting again")
    named = resolve_groups(pooled, groups)
    sizes = [len(data) for data in whole.values()]
    parts = divide(labels, sizes, seed=seed, groups=named)
    fresh = {name: pooled.subset(rows) for name, rows in zip(whole, parts, strict=True)}
    return Splits(fresh, skipped=whole.skipped)


def pool(splits: Splits) -> ImageData:
    """Put all labelled splits together, in their order."""
    shapes = {name: data.images.shape[1:] for name, data in splits.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"Image sizes differ between splits: {shapes}. Load at one image_size.")
    every = list(splits.values())
    groups = None
    if all(data.groups is not None for data in every):
        groups = [group for data in every for group in data.groups or ()]
    return trusted_images(
        np.concatenate([data.images for data in every]),
        np.concatenate([data.require_labels("Pooling splits") for data in every]),
        splits.classes,
        [name for data in every for name in data.names],
        np.concatenate([data.sizes for data in every]),
        groups,
        splits.bits,
        every[0].resize,
    )


def resolve_groups(pooled: ImageData, groups: object) -> Sequence[str | None] | None:
    """Return one group for each image, or None, from the ``groups`` option of ``resplit``."""
    if groups is None:
        return None
    if isinstance(groups, str):
        return groups_from_names(pooled.names, groups)
    if groups is True:
        if pooled.groups is None:
            raise DataError("groups=True, but not every split has groups. Pass them, or a pattern.")
        return pooled.groups
    if not isinstance(groups, Sequence | np.ndarray):
        raise ConfigError(
            "groups must be None, True, a regular expression, or one group for each image, "
            f"got {groups!r}."
        )
    if len(groups) != len(pooled):
        raise DataError(f"{len(pooled)} images but {len(groups)} groups; give one for each image.")
    return to_group_names(groups)


def groups_from_names(names: Sequence[str], pattern: str) -> list[str | None]:
    """Return the match of ``pattern`` in each file name, else in its folders, else the path."""
    try:
        finder = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"groups is no regular expression: {pattern!r}: {error}.") from error
    found = [search_path(finder, name) for name in names]
    if names and not any(found):
        raise ConfigError(f"groups {pattern!r} matches no file name, such as {names[0]!r}.")
    times = Counter(names)  # images of arrays may share a name, such as image[0]
    return [
        hit.group(0) if hit else name if times[name] == 1 else None
        for hit, name in zip(found, names, strict=True)
    ]


def divide(
    labels: Int64Array,
    sizes: Sequence[int] | Int64Array,
    *,
    seed: int,
    groups: Sequence[str | None] | None = None,
) -> list[Int64Array]:
    """Divide rows into parts of ``sizes``, with the class shares of the whole, in ascending order.

    Rows of one group (N,) stay together; the sizes are then met only nearly.
    """
    rng = np.random.default_rng(seed)
    classes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    if groups is None:
        part = deal_rows(classes, stratified_counts(classes, sizes), rng)
    else:
        part = deal_large_groups_first(classes, group_codes(groups, len(labels)), sizes, rng)
    parts = [np.flatnonzero(part == number).astype(np.int64) for number in range(len(sizes))]
    if any(len(rows) == 0 for rows in parts):
        unit = "images" if groups is None else "groups"
        got = [len(rows) for rows in parts]
        raise DataError(
            f"Too few {unit} to split: parts of {list(map(int, sizes))} became {got}. Give more, "
            "or load them without a val split (val_share=0)."
        )
    return parts


def stratified_counts(classes: Int64Array, sizes: Sequence[int] | Int64Array) -> Int64Array:
    """Return how many images of each class each part gets, (S, K), the first of each class one."""
    left = np.bincount(classes)
    counts: list[Int64Array] = []
    for size in sizes[:-1]:
        wanted = quotas(left.astype(float), size)
        if not counts and size >= len(left):  # a class of a few images is to be learnt
            short = wanted == 0
            wanted = short + quotas(np.where(short, 0.0, left), size - int(short.sum()))
        counts.append(wanted)
        left = left - wanted
    return np.array([*counts, left], np.int64)


def deal_large_groups_first(
    classes: Int64Array,
    groups: Int64Array,
    sizes: Sequence[int] | Int64Array,
    rng: np.random.Generator,
) -> Int64Array:
    """Give each group, large ones first, to the part that lacks its classes most; (N,)."""
    counts = np.zeros((int(groups.max()) + 1, int(classes.max()) + 1))
    np.add.at(counts, (groups, classes), 1)
    target = np.outer(np.asarray(sizes) / np.sum(sizes), counts.sum(0))
    filled = np.zeros_like(target)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    part = np.empty(len(counts), np.int64)
    only = np.any(counts[:, np.sum(counts > 0, 0) == 1], 1)  # holds all images of some class
    for group in order:
        lack = ((target - filled) / np.maximum(target, 1)) @ counts[group]
        part[group] = 0 if only[group] else int(np.argmax(lack))
        filled[part[group]] += counts[group]
    return part[groups]
