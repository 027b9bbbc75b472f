"""Dividing images: stratified by class, and without tearing groups apart where there are groups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from transferkit._sampling import group_codes, quotas, rows_by_class
from transferkit._typing import Int64Array
from transferkit._validation import check_whole
from transferkit.data.image_data import ImageData, Splits, require_splits
from transferkit.errors import ConfigError, DataError


def split(
    data: ImageData,
    shares: Mapping[str, float],
    *,
    seed: int,
    by_group: bool = True,
) -> Splits:
    """Divide one set of images into named splits, stratified by class.

    Args:
        data: Labelled images.
        shares: Share of each split; they are brought to a sum of 1.
        seed: Which division.
        by_group: Keep each of ``data.groups`` in one split, where there are groups. The shares are
            then met only nearly.

    Raises:
        ConfigError: A share is not above 0.
        DataError: No labels, or too few images or groups for a split.
    """
    if not shares or not all(share > 0 for share in shares.values()):
        raise ConfigError(f"Shares must be above 0, got {dict(shares)}.")
    labels = data.require_labels("Splitting")
    weights = np.array(list(shares.values()), float)
    sizes = quotas(weights, len(data))
    groups = data.groups if by_group else None
    parts = divide(labels, sizes, seed=seed, groups=groups)
    return Splits({name: data.subset(rows) for name, rows in zip(shares, parts, strict=True)})


def resplit(
    splits: Mapping[str, ImageData],
    *,
    seed: int,
    groups: Sequence[str] | str | Literal[True] | None = None,
) -> Splits:
    """Pool all images and split again, with the same sizes, stratified by class.

    Args:
        splits: Labelled splits with images of one size.
        seed: Which division.
        groups: What must not straddle splits. None divides at random, whatever groups the data
            have; True takes the data's own groups; a string is a regular expression whose match in
            a file name is the group (a file without a match is a group of its own); a sequence
            gives one group for each image, in the order of the splits. With groups, the sizes are
            met only nearly.

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
    """Put all splits together, in their order.

    Raises:
        DataError: A split has no labels, or image sizes differ.
    """
    shapes = {name: data.images.shape[1:] for name, data in splits.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"Image sizes differ between splits: {shapes}. Load at one image_size.")
    every = list(splits.values())
    groups = None
    if all(data.groups is not None for data in every):
        groups = [group for data in every for group in data.groups or ()]
    return ImageData(
        np.concatenate([data.images for data in every]),
        np.concatenate([data.require_labels("Pooling splits") for data in every]),
        classes=splits.classes,
        names=[name for data in every for name in data.names],
        sizes=np.concatenate([data.sizes for data in every]),
        groups=groups,
    )


def resolve_groups(pooled: ImageData, groups: object) -> Sequence[str] | None:
    """Turn what ``resplit`` was given into one group for each image, or None.

    Raises:
        ConfigError: It is nothing that groups can be made of.
        DataError: There are no groups, or not one for each image.
    """
    if groups is None:
        return None
    if isinstance(groups, str):
        return groups_from_names(pooled.names, groups)
    if groups is True:
        if pooled.groups is None:
            raise DataError("groups=True, but not every split has groups; give them, or a pattern.")
        return pooled.groups
    if not isinstance(groups, Sequence | np.ndarray):
        raise ConfigError(
            "groups must be None, True, a regular expression, or one group for each image, "
            f"got {groups!r}."
        )
    if len(groups) != len(pooled):
        raise DataError(f"{len(pooled)} images but {len(groups)} groups; give one for each image.")
    return list(map(str, groups))


def groups_from_names(names: Sequence[str], pattern: str) -> list[str]:
    r"""Return the part of each file name that ``pattern`` matches.

    Args:
        names: Paths with slashes; only the last component counts.
        pattern: A regular expression such as ``r"person\d+"``. A file without a match is a group
            of its own.

    Raises:
        ConfigError: The pattern is no regular expression, or matches nothing at all.
    """
    try:
        finder = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"groups is no regular expression: {pattern!r}: {error}.") from error
    found = [finder.search(name.rpartition("/")[2]) for name in names]
    if names and not any(found):
        raise ConfigError(f"groups {pattern!r} matches no file name, such as {names[0]!r}.")
    return [hit.group(0) if hit else name for hit, name in zip(found, names, strict=True)]


def divide(
    labels: Int64Array,
    sizes: Sequence[int] | Int64Array,
    *,
    seed: int,
    groups: Sequence[str] | None = None,
) -> list[Int64Array]:
    """Divide rows into parts, each with the class shares of the whole.

    Args:
        labels: Class numbers, (N,).
        sizes: Rows of each part; they add up to N.
        seed: Which division.
        groups: What must stay together, (N,); the sizes are then met only nearly.

    Returns:
        The rows of each part, ascending; each row in exactly one part.

    Raises:
        DataError: A part would have no rows.
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        parts = divide_rows(labels, list(sizes), rng)
    else:
        parts = divide_groups(labels, np.asarray(sizes, np.int64), np.asarray(groups), rng)
    if any(len(part) == 0 for part in parts):
        what = "images" if groups is None else "groups"
        got = [len(part) for part in parts]
        raise DataError(f"Too few {what} to split: parts of {list(map(int, sizes))} became {got}.")
    return parts


def divide_rows(labels: Int64Array, sizes: list[int], rng: np.random.Generator) -> list[Int64Array]:
    """Split off one part after the other, with each class's quota drawn at random."""
    left = rows_by_class(labels, rng)
    parts = []
    for size in sizes[:-1]:
        take = quotas(np.array([len(rows) for rows in left], float), size)
        parts.append(np.sort(np.concatenate([r[:n] for r, n in zip(left, take, strict=True)])))
        left = [rows[n:] for rows, n in zip(left, take, strict=True)]
    return [*parts, np.sort(np.concatenate(left))]


def divide_groups(
    labels: Int64Array,
    sizes: Int64Array,
    groups: np.ndarray[tuple[int, ...], np.dtype[np.str_]],
    rng: np.random.Generator,
) -> list[Int64Array]:
    """Give each group, large ones first, to the part that lacks its classes most."""
    classes, numbers = np.unique(labels, return_inverse=True)
    member = group_codes(groups, len(labels))
    counts = np.zeros((int(member.max()) + 1, len(classes)))
    np.add.at(counts, (member, numbers), 1)
    target = np.outer(sizes / sizes.sum(), counts.sum(0))
    filled = np.zeros_like(target)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    home = np.empty(len(counts), np.int64)
    for group in order:
        lack = ((target - filled) / np.maximum(target, 1)) @ counts[group]
        home[group] = int(np.argmax(lack))
        filled[home[group]] += counts[group]
    return [np.flatnonzero(home[member] == part).astype(np.int64) for part in range(len(sizes))]
