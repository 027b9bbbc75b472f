"""What every metric demands of its arrays, said once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transferkit._options import is_number
from transferkit._typing import BoolArray, Float64Array, Int64Array
from transferkit.errors import ConfigError, DataError

SUM_TOLERANCE = 1e-3
"""How far a row of probabilities may miss 1: half precision softmax stays within it."""


def check_labels(labels: ArrayLike, *, num_classes: int | None = None) -> Int64Array:
    """Return ``labels`` as int64 ``(N,)``.

    Raises:
        DataError: Empty, not one-dimensional, not integers, or outside ``[0, num_classes)``.
    """
    array = np.asarray(labels)
    if array.ndim != 1 or len(array) == 0:
        raise DataError(f"Labels must be a filled array (N,), but came with shape {array.shape}.")
    if array.dtype.kind not in "biu":
        raise DataError(f"Labels must be integers (class indices), but came as {array.dtype}.")
    whole = array.astype(np.int64)
    outside = whole < 0 if num_classes is None else (whole < 0) | (whole >= num_classes)
    if outside.any():
        index = int(np.argmax(outside))
        allowed = "at least 0" if num_classes is None else f"in 0..{num_classes - 1}"
        raise DataError(f"Labels must be {allowed}, but labels[{index}] is {whole[index]}.")
    return whole


def check_probabilities(probabilities: ArrayLike) -> Float64Array:
    """Return ``probabilities`` as float64 ``(N, K)``, K at least 2, rows summing to one.

    Raises:
        DataError: Another shape, NaN, infinity, a value outside [0, 1] or a row off one.
    """
    array = _as_floats("Probabilities", probabilities)
    if array.ndim != 2 or array.shape[0] == 0 or array.shape[1] < 2:
        raise DataError(
            "Probabilities must be a filled array (N, K) with at least two classes, "
            f"but came with shape {array.shape}. For one positive score p pass columns 1 - p, p."
        )
    _refuse(~np.all(np.isfinite(array), axis=1), array, "must be finite")
    outside = np.abs(array - 0.5) > 0.5 + SUM_TOLERANCE
    _refuse(np.any(outside, axis=1), array, "must lie in [0, 1]; apply a softmax to logits")
    off = np.abs(array.sum(axis=1) - 1) > SUM_TOLERANCE
    _refuse(off, array, "must sum to 1; apply a softmax to logits")
    return array


def check_scores(scores: ArrayLike) -> Float64Array:
    """Return ``scores`` as finite float64 ``(N,)``.

    Raises:
        DataError: Another shape, NaN or infinity.
    """
    array = _as_floats("Scores", scores)
    if array.ndim != 1 or len(array) == 0:
        raise DataError(f"Expected a filled array (N,) of scores; shape {array.shape} came.")
    bad = ~np.isfinite(array)
    if bad.any():
        index = int(np.argmax(bad))
        raise DataError(f"Scores must be finite, but scores[{index}] is {array[index]}.")
    return array


def check_flags(flags: ArrayLike, name: str) -> BoolArray:
    """Return ``flags`` (right or wrong, image by image) as bool ``(N,)``.

    Raises:
        DataError: Another shape, or values besides 0 and 1.
    """
    array = np.asarray(flags)
    if array.ndim != 1 or len(array) == 0 or not np.isin(array, (0, 1)).all():
        raise DataError(f"{name} must be a filled array (N,) of True and False.")
    return array.astype(np.bool_)


def check_same_length(**arrays: NDArray[np.generic]) -> None:
    """Demand arrays of equal length; the keywords name them in the error.

    Raises:
        DataError: The lengths differ.
    """
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise DataError(f"Arrays must describe the same images in the same order: {said}.")


def check_classes(classes: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """Return class names: those given, or ``"0"`` to ``"K-1"``.

    Raises:
        DataError: Not ``num_classes`` names, or a name given twice.
    """
    if classes is None:
        return tuple(map(str, range(num_classes)))
    names = tuple(map(str, classes))
    if len(names) != num_classes or len(set(names)) != num_classes:
        raise DataError(f"Expected {num_classes} different class names, but {names} came.")
    return names


def check_share(name: str, value: float) -> float:
    """Return ``value`` if it lies strictly between 0 and 1.

    Raises:
        ConfigError: It does not.
    """
    if not is_number(value) or not 0 < value < 1:
        raise ConfigError(f"{name} must lie between 0 and 1, such as 0.95; {value!r} came.")
    return value


def _as_floats(what: str, values: ArrayLike) -> Float64Array:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} must be an array of numbers: {error}.") from error


def _refuse(bad: ArrayLike, array: Float64Array, demand: str) -> None:
    if np.any(bad):
        index = int(np.argmax(bad))
        row = np.array2string(array[index], precision=4, threshold=8)
        raise DataError(f"Rows of probabilities {demand}, but probabilities[{index}] is {row}.")
