"""What every score demands of its arrays, said once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from transferkit._typing import Float64Array, Int64Array
from transferkit.errors import DataError
from transferkit.metrics._checks import check_labels, check_probabilities, check_same_length


def check_features(features: ArrayLike) -> Float64Array:
    """Return ``features`` as finite float64 ``(N, D)``, at least two rows, not all of them equal.

    Raises:
        DataError: Another shape, NaN or infinity (named), or constant in every column.
    """
    array = np.asarray(features, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] < 2 or array.shape[1] < 1:
        raise DataError(f"Features must be (N, D) with at least two rows; {array.shape} came.")
    bad = ~np.isfinite(array)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"Features must be finite, but features[{row}, {column}] is {array[row, column]} "
            f"({int(bad.sum())} of {array.size} values are not finite). "
            "Check the extractor, or extract in float32."
        )
    if (array == array[0]).all():
        raise DataError(
            f"All {len(array)} rows of features are equal, so they tell no class from another. "
            "Check the extractor and its preprocessing."
        )
    return array


def check_task(features: ArrayLike, labels: ArrayLike) -> tuple[Float64Array, Int64Array]:
    """Return features ``(N, D)`` and labels ``(N,)`` renumbered over the classes that occur.

    Raises:
        DataError: Arrays that do not fit each other, or fewer than two classes with images.
    """
    matrix, truth = check_features(features), check_labels(labels)
    check_same_length(features=matrix, labels=truth)
    return matrix, _renumber(truth)


def check_source(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Float64Array, Int64Array]:
    """Return source-class probabilities ``(N, S)`` and renumbered labels ``(N,)``.

    Raises:
        DataError: Arrays that do not fit each other, or fewer than two classes with images.
    """
    matrix, truth = check_probabilities(probabilities), check_labels(labels)
    check_same_length(source_probabilities=matrix, labels=truth)
    return matrix, _renumber(truth)


def one_hot(labels: Int64Array) -> Float64Array:
    """Return indicators ``(N, K)`` of labels in ``[0, K)``."""
    indicators: Float64Array = np.eye(int(labels.max()) + 1)[labels]
    return indicators


def _renumber(labels: Int64Array) -> Int64Array:
    present, codes = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        raise DataError(f"Scores need at least two classes; every label is {present[0]}.")
    return codes.astype(np.int64)
