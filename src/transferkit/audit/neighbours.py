"""Exact search for similar rows, in blocks: linear memory and one matrix product a block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from transferkit._typing import FloatArray, Int64Array
from transferkit.errors import ConfigError, DataError

Float32Array: TypeAlias = NDArray[np.float32]
Found: TypeAlias = tuple[Int64Array, Int64Array, Float32Array]

ROWS, COLUMNS = 2048, 8192


def unit_rows(features: FloatArray, *, centre: FloatArray | None = None) -> Float32Array:
    """Return features (N, D), less their ``centre`` (their own mean if None), of length 1.

    Centring spreads out features that are all positive, whose cosines are all near 1. Rows that
    equal the centre stay zero and are similar to nothing.

    Raises:
        DataError: NaN or infinity, named by row.
    """
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad)} feature rows hold NaN or infinity, the first in row {bad[0]}; "
            "remove or repair these images first"
        )
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
        most: How many partners a row may get in each block of 8192 rows, the most similar ones.
        queries: (N, D) changed versions of the same rows (flipped, say) to look up in ``units``;
            None looks up the rows themselves, each pair once.

    Returns:
        Query rows (P,), partner rows (P,) and cosines (P,); a row is not its own partner.
    """
    if not 0 < floor <= 1 or most < 1:
        raise ConfigError(f"need 0 < floor <= 1 and most >= 1, got {floor} and {most}")
    parts = list(_scan(units, queries, floor, most))
    if not parts:
        none = np.zeros(0, np.int64)
        return none, none.copy(), np.zeros(0, np.float32)
    first, second, cosine = (np.concatenate(part) for part in zip(*parts, strict=True))
    return first, second, cosine


def _scan(
    units: Float32Array, queries: Float32Array | None, floor: float, most: int
) -> Iterator[Found]:
    rows = units if queries is None else queries
    buffer = np.empty((min(ROWS, len(rows)), min(COLUMNS, len(units))), np.float32)
    for top in range(0, len(rows), ROWS):
        block = rows[top : top + ROWS]
        for left in range(top if queries is None else 0, len(units), COLUMNS):
            other = units[left : left + COLUMNS]
            view = buffer.reshape(-1)[: len(block) * len(other)].reshape(len(block), len(other))
            np.matmul(block, other.T, out=view)
            yield from _hits(view, top, left, floor, most, ordered=queries is None)


def _hits(
    cosines: Float32Array, top: int, left: int, floor: float, most: int, *, ordered: bool
) -> Iterator[Found]:
    """Yield the pairs of one block, of which those on or (if ordered) below the diagonal drop."""
    _blank(cosines, left - top, ordered=ordered)
    rows = np.flatnonzero(cosines.max(axis=1) >= floor)
    if not len(rows):
        return
    some = cosines[rows]
    most = min(most, some.shape[1])
    columns = np.argpartition(-some, most - 1, axis=1)[:, :most]
    values = np.take_along_axis(some, columns, axis=1)
    keep = values >= floor
    partners = columns[keep].astype(np.int64) + left
    yield np.repeat(rows + top, keep.sum(axis=1)), partners, values[keep]


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
