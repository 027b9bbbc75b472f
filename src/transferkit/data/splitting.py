"""Dividing images into splits: stratified by class, and each group in one split."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from transferkit._sampling import deal_rows, group_codes, quotas
from transferkit._typing import Int64Array
from transferkit._validation import check_whole
from transferkit.data.array_conversion import to_group_names
from transferkit.data.image_data import ImageData, trusted_images
from transferkit.data.splits import Splits, require_splits
from transferkit.errors import ConfigError, DataError


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
    )


def resolve_groups(pooled: ImageData, groups: object) -> Sequence[str] | None:
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
    return to_group_names(groups, pooled.names)


def groups_from_names(names: Sequence[str], pattern: str) -> list[str]:
    """Return the match of ``pattern`` in each path, or the path where there is none.

    The file name counts before the folders, and a folder before those that hold it.
    """
    try:
        finder = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"groups is no regular expression: {pattern!r}: {error}.") from error
    found = [
        next(filter(None, map(finder.search, [*reversed(name.split("/")), name])), None)
        for name in names
    ]
    if names and not any(found):
        raise ConfigError(f"groups {pattern!r} matches no file name, such as {names[0]!r}.")
    times = Counter(names)  # images of arrays may share a name, such as image[0]
    groups = [
        hit.group(0) if hit else name if times[name] == 1 else None
        for hit, name in zip(found, names, strict=True)
    ]
    return to_group_names(groups, names)


def divide(
    labels: Int64Array,
    sizes: Sequence[int] | Int64Array,
    *,
    seed: int,
    groups: Sequence[str] | None = None,
) -> list[Int64Array]:
    """Divide rows into parts of ``sizes``, each with the class shares of the whole.

    Rows of one group (N,) stay together; the sizes are then met only nearly. Returns the rows of
    each part, ascending.

    Raises:
        DataError: A part would have no rows.
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
        raise DataError(f"Too few {unit} to split: parts of {list(map(int, sizes))} became {got}.")
    return parts


def stratified_counts(classes: Int64Array, sizes: Sequence[int] | Int64Array) -> Int64Array:
    """Return how many images of each class each part gets, (S, K)."""
    left = np.bincount(classes)
    counts = []
    for size in sizes[:-1]:
        counts.append(quotas(left.astype(float), size))
        left = left - counts[-1]
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
    for group in order:
        lack = ((target - filled) / np.maximum(target, 1)) @ counts[group]
        part[group] = int(np.argmax(lack))
        filled[part[group]] += counts[group]
    return part[groups]
