"""Exact search for similar rows, in blocks: linear memory and one matrix product a block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from transferkit._typing import FloatArray, Int64Array
from transferkit._validation import check_finite
from transferkit.errors import ConfigError

Float32Array: TypeAlias = NDArray[np.float32]
Found: TypeAlias = tuple[Int64Array, Int64Array, Float32Array]

ROWS, COLUMNS = 256, 8192
_GROUPS = 128  # of columns, of which the best few are looked at


def unit_rows(features: FloatArray, *, centre: FloatArray | None = None) -> Float32Array:
    """Return features (N, D), less their ``centre`` (their own mean if None), of length 1.

    Centring spreads out features that are all positive, whose cosines are all near 1. Rows that
    equal the centre stay zero and are similar to nothing.

    Raises:
        DataError: NaN or infinity, named by row.
    """
    check_finite(features)
    centred = features - (features.mean(axis=0) if centre is None else centre)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    units: Float32Array = (centred / np.maximum(length, 1e-6)).astype(np.float32)
    return units


def similar_pairs(
    units: Float32Array,
    *,
    floor: float,
    most: int = 4,
    queries: Float32Array | None = None,
) -> Found:
    """Find pairs of rows whose cosine is at least ``floor``.

    10^5 rows of 512 take about 40 s on two threads. Memory grows with the rows and with what is
    found, never with the square of the rows.

    Args:
        units: (N, D) rows of length 1, see :func:`unit_rows`.
        floor: Smallest cosine of a pair.
        most: How many partners a row may get, the most similar ones.
        queries: (N, D) changed versions of the same rows (flipped, say) to look up in ``units``;
            None looks up the rows themselves, each pair once.

    Returns:
        Query rows (P,), partner rows (P,) and cosines (P,); a row is not its own partner.
    """
    if not 0 < floor <= 1 or most < 1:
        raise ConfigError(f"need 0 < floor <= 1 and most >= 1, got {floor} and {most}")
    rows = units if queries is None else queries
    buffer = np.empty(min(ROWS, len(rows)) * min(COLUMNS, len(units)), np.float32)
    return _joined(
        _strongest(_joined(_scan(units, queries, top, floor, most, buffer)), most)
        for top in range(0, len(rows), ROWS)
    )


def places(rows: Int64Array, scores: FloatArray) -> Int64Array:
    """Return the place of each score (P,) among those of the same row (P,): 0 is the highest."""
    order = np.lexsort((-scores, rows))
    lined = rows[order]
    starts = np.flatnonzero(np.diff(lined, prepend=-1))
    counts = np.diff(starts, append=len(lined))
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows)) - np.repeat(starts, counts)
    return place


def _joined(parts: Iterable[Found]) -> Found:
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    first, second, cosine = (np.concatenate(p) for p in zip(none, *parts, strict=True))
    return first, second, cosine


def _strongest(found: Found, most: int) -> Found:
    first, second, cosine = found
    kept = places(first, cosine) < most
    return first[kept], second[kept], cosine[kept]


def _scan(
    units: Float32Array,
    queries: Float32Array | None,
    top: int,
    floor: float,
    most: int,
    buffer: Float32Array,
) -> Iterator[Found]:
    """Look the rows from ``top`` on up, one block of partners after the other."""
    block = (units if queries is None else queries)[top : top + ROWS]
    for left in range(top if queries is None else 0, len(units), COLUMNS):
        other = units[left : left + COLUMNS]
        view = buffer[: len(block) * len(other)].reshape(len(block), len(other))
        np.matmul(block, other.T, out=view)
        yield from _hits(view, top, left, floor, most, ordered=queries is None)


def _hits(
    cosines: Float32Array, top: int, left: int, floor: float, most: int, *, ordered: bool
) -> Iterator[Found]:
    """Yield the pairs of one block, of which those on or (if ordered) below the diagonal drop."""
    _blank(cosines, left - top, ordered=ordered)
    maxima = _group_maxima(cosines)
    rows = np.flatnonzero(maxima.max(axis=1) >= floor)
    if not len(rows):
        return
    columns, values = _largest(cosines, maxima[rows], rows, most)
    keep = values >= floor
    yield np.repeat(rows + top, keep.sum(axis=1)), columns[keep] + left, values[keep]


def _group_maxima(values: Float32Array) -> Float32Array:
    """Return the maximum of every group of columns (N, G): column c belongs to group c modulo G."""
    width = values.shape[1]
    groups = min(_GROUPS, width)
    whole = width - width % groups
    maxima: Float32Array = values[:, :whole].reshape(len(values), -1, groups).max(axis=1)
    np.maximum(maxima[:, : width - whole], values[:, whole:], out=maxima[:, : width - whole])
    return maxima


def _largest(
    values: Float32Array, maxima: Float32Array, rows: Int64Array, most: int
) -> tuple[Int64Array, Float32Array]:
    """Return the columns and the values of the ``most`` largest of some rows, in any order.

    They lie in the groups with the ``most`` largest maxima: no selection from all values.
    """
    width, groups = values.shape[1], maxima.shape[1]
    best = _partition(maxima, most)
    columns = (best[:, :, None] + np.arange(0, width, groups)).reshape(len(rows), -1)
    found = values[rows[:, None], np.minimum(columns, width - 1)]
    found[columns >= width] = -1
    chosen = _partition(found, most)
    return np.take_along_axis(columns, chosen, axis=1), np.take_along_axis(found, chosen, axis=1)


def _partition(values: Float32Array, most: int) -> Int64Array:
    most = min(most, values.shape[1])
    return np.argpartition(-values, most - 1, axis=1)[:, :most].astype(np.int64)


def _blank(cosines: Float32Array, offset: int, *, ordered: bool) -> None:
    """Set what is no pair to -1: row i against column i - offset, and all before it if ordered."""
    rows, columns = cosines.shape
    if offset >= rows or -offset >= columns:
        return
    if ordered:
        for row in range(max(offset, 0), rows):
            cosines[row, : row - offset + 1] = -1
    else:
        own = np.arange(max(offset, 0), min(rows, columns + offset))
        cosines[own, own - offset] = -1
