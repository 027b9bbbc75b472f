"""Two samples of features, checked once: what every two-sample test of this room starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from transferkit._typing import BoolArray, FloatArray, Int64Array
from transferkit.errors import DataError

Groups: TypeAlias = "tuple[ArrayLike, ArrayLike] | None"
"""One group name per row of the first sample, and of the second: patients, videos."""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two checked samples over the same features.

    Attributes:
        pooled: ``(N, D)`` finite floats, the n_a rows of the first sample before the rest.
        n_a: Rows of the first sample.
        names: D feature names.
        groups: ``(N,)`` group codes, or None where every row stands for itself.
    """

    pooled: FloatArray
    n_a: int
    names: tuple[str, ...]
    groups: Int64Array | None

    @property
    def n_b(self) -> int:
        """Rows of the second sample."""
        return len(self.pooled) - self.n_a

    @property
    def member(self) -> BoolArray:
        """``(N,)`` whether a row belongs to the first sample."""
        return np.arange(len(self.pooled)) < self.n_a

    def units(self) -> tuple[int, int]:
        """Independent units of each sample: its groups, or its rows."""
        if self.groups is None:
            return self.n_a, self.n_b
        return len(np.unique(self.groups[: self.n_a])), len(np.unique(self.groups[self.n_a :]))


def check_pair(
    a: ArrayLike,
    b: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    groups: Groups = None,
    least: int = 2,
) -> Pair:
    """Check two samples and pool them.

    Args:
        a: ``(n_a, D)`` features of the first sample; ``(n_a,)`` is one feature.
        b: ``(n_b, D)`` features of the second.
        names: D feature names, for messages.
        groups: Group of each row of ``a``, and of ``b``.
        least: Rows that each sample must have.

    Raises:
        DataError: Too few rows, other widths, not numbers, NaN or infinity (named by row and
            feature), names or groups that do not fit.
    """
    first, second = _matrix(a, "first"), _matrix(b, "second")
    if first.shape[1] != second.shape[1]:
        raise DataError(
            "Both samples need the same features, but the first has "
            f"{first.shape[1]} and the second {second.shape[1]}."
        )
    named = _names(names, first.shape[1])
    for sample, which in ((first, "first"), (second, "second")):
        check_rows(len(sample), which, least)
        _refuse_unfinite(sample, which, named)
    pooled = np.concatenate([first, second])
    return Pair(pooled, len(first), named, group_codes(groups, len(first), len(second)))


def check_rows(n: int, which: str, least: int) -> None:
    """Demand at least ``least`` rows.

    Raises:
        DataError: There are fewer.
    """
    if n < least:
        raise DataError(
            f"The {which} sample has {n} row(s), but the test needs at least {least}; "
            "leave this comparison out or add images."
        )


def group_codes(groups: Groups, n_a: int, n_b: int) -> Int64Array | None:
    """Return one code per pooled row ``(n_a + n_b,)``; equal names get equal codes.

    Raises:
        DataError: Not one group per row.
    """
    if groups is None:
        return None
    first, second = np.asarray(groups[0]), np.asarray(groups[1])
    if first.shape != (n_a,) or second.shape != (n_b,):
        raise DataError(
            f"Groups must name one group per row: ({n_a},) and ({n_b},); "
            f"{first.shape} and {second.shape} came."
        )
    joined = np.concatenate([first.astype(str), second.astype(str)])
    return np.unique(joined, return_inverse=True)[1].astype(np.int64)


def _matrix(sample: ArrayLike, which: str) -> FloatArray:
    array = np.asarray(sample)
    if array.dtype.kind not in "biuf":
        raise DataError(f"The {which} sample must be numbers, but came as {array.dtype}.")
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0:
        raise DataError(
            f"The {which} sample must be features (rows, features), but came with shape "
            f"{array.shape}; flatten images or extract features first."
        )
    kept = array.dtype in (np.float32, np.float64)
    small = array.dtype.itemsize <= 2
    floats: FloatArray = array.astype(
        array.dtype if kept else np.float32 if small else np.float64, copy=False
    )
    return floats


def _names(names: Sequence[str] | None, width: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"feature[{i}]" for i in range(width))
    if len(names) != width:
        raise DataError(f"Expected {width} feature names, but {len(names)} came.")
    return tuple(names)


def _refuse_unfinite(sample: FloatArray, which: str, names: tuple[str, ...]) -> None:
    bad = ~np.isfinite(sample)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"Features must be finite, but {names[column]} of row {row} of the {which} sample is "
            f"{sample[row, column]} ({int(bad.any(axis=1).sum())} row(s) are affected); "
            "leave out those rows or repair the features."
        )
