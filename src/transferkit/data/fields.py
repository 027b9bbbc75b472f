"""The fields of labelled images, checked and brought to one form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transferkit._typing import Int64Array
from transferkit.errors import DataError

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
