"""Draws that keep class shares or whole groups. The order of the random calls is part of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transferkit._typing import Float64Array, GroupsLike, Int64Array
from transferkit.errors import DataError


def group_codes(groups: GroupsLike | None, count: int) -> Int64Array:
    """Number of each row's group ``(N,)``, from 0 in sorted order; a row without one has its own.

    Raises:
        DataError: Not one group per row.
    """
    if groups is None:
        return np.arange(count, dtype=np.int64)
    array = np.asarray(groups)
    if array.shape != (count,):
        raise DataError(
            f"Expected groups of shape ({count},), one value per image, got {array.shape}."
        )
    if array.dtype != object:
        return np.unique(array, return_inverse=True)[1].astype(np.int64)
    missing = np.array([group is None for group in array])
    names, codes = np.unique(array[~missing].astype(np.str_), return_inverse=True)
    numbers = len(names) - 1 + np.cumsum(missing)
    numbers[~missing] = codes
    return numbers.astype(np.int64)


def shared_groups(groups: GroupsLike | None, count: int) -> Int64Array | None:
    """Group codes ``(N,)``, or None where no two rows share a group."""
    codes = group_codes(groups, count)
    return codes if len(np.unique(codes)) < count else None


def stream(purpose: str, seed: int) -> np.random.Generator:
    """Source of the draws for one purpose; a user's own ``default_rng(seed)`` is another."""
    return np.random.default_rng([seed, *purpose.encode()])


def rows_by_class(labels: Int64Array, rng: np.random.Generator | None = None) -> list[Int64Array]:
    """Rows of each class that occurs, classes ascending; shuffled within each class by ``rng``."""
    pools = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return pools if rng is None else [rng.permutation(rows) for rows in pools]


def quotas(weights: Float64Array, total: int) -> Int64Array:
    """Share out ``total`` in proportion to ``weights``, by largest remainders."""
    exact = weights / weights.sum() * total
    whole: Int64Array = np.floor(exact).astype(np.int64)
    rest = np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]
    whole[rest] += 1
    return whole


def draw_by_class(
    labels: Int64Array, sizes: Sequence[int] | Int64Array, rng: np.random.Generator
) -> Int64Array:
    """Draw ``sizes[i]`` rows of the i-th class that occurs, without repeats; rows ascending."""
    pools = rows_by_class(labels, rng)
    return np.sort(np.concatenate([rows[:size] for rows, size in zip(pools, sizes, strict=True)]))


def interleave(pools: Sequence[Int64Array], *, first: int = 0) -> Int64Array:
    """Merge the rows of all classes so that every beginning holds each class in its share.

    The ``first`` rows of each class come before all others.
    """
    place = np.empty(sum(map(len, pools)))
    for rows in pools:
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
        place[rows[:first]] = -1
    return np.argsort(place, kind="stable").astype(np.int64)


def stratified_order(
    labels: Int64Array,
    groups: Int64Array | None = None,
    *,
    rng: np.random.Generator | None = None,
    first: int = 0,
) -> Int64Array:
    """Rows in an order, shuffled by ``rng``, of which every beginning has the whole's class shares.

    Groups (their codes) stay together, each counted to the class of most of its rows; the
    ``first`` groups, or rows, of each class come before all others.
    """
    if groups is None:
        return interleave(rows_by_class(labels, rng), first=first)
    order = interleave(rows_by_class(group_labels(labels, groups), rng), first=first)
    return np.argsort(np.argsort(order)[groups], kind="stable").astype(np.int64)


def group_labels(labels: Int64Array, groups: Int64Array) -> Int64Array:
    """Class of most rows of each group ``(G,)``, from class and group code of each row."""
    counts = np.zeros((int(groups.max()) + 1, int(labels.max()) + 1))
    np.add.at(counts, (groups, labels), 1)
    labels_of: Int64Array = counts.argmax(axis=1)
    return labels_of


def fold_numbers(
    labels: Int64Array, folds: int, groups: Int64Array | None, *, rng: np.random.Generator
) -> Int64Array:
    """Fold of each row ``(N,)``, groups whole; rows or groups of a class differ by one at most."""
    codes = group_codes(groups, len(labels))
    order = np.concatenate(rows_by_class(group_labels(labels, codes), rng))
    return (np.argsort(order) % folds)[codes]


def deal_rows(labels: Int64Array, counts: Int64Array, rng: np.random.Generator) -> Int64Array:
    """Part of each row ``(N,)``, so that part s gets exactly ``counts[s, k]`` rows of class k."""
    part = np.zeros(len(labels), np.int64)
    for rows in rows_by_class(labels, rng):
        part[rows] = np.repeat(np.arange(len(counts)), counts[:, labels[rows[0]]])
    return part


def deal_groups(
    labels: Int64Array, groups: Int64Array, counts: Int64Array, rng: np.random.Generator
) -> Int64Array:
    """Part of each row ``(N,)``, no group in two parts; ``counts`` (S, K) are met nearly.

    Each group, in random order, goes to a part drawn in proportion to the room that it has left
    for the group's images. With one image per group this is a draw without replacement,
    stratified by class.
    """
    members = np.zeros((int(groups.max()) + 1, counts.shape[1]))
    np.add.at(members, (groups, labels), 1)
    room = counts.astype(np.float64)
    chosen = np.zeros(len(members), np.int64)
    for group in rng.permutation(len(members)):
        left = np.maximum(room, 0) @ members[group]
        total = left.sum()
        pull = left / total if total > 0 else counts.sum(axis=1) / counts.sum()
        chosen[group] = rng.choice(len(counts), p=pull)
        room[chosen[group]] -= members[group]
    return chosen[groups]
