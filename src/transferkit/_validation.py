"""Options that callers give, checked: a wrong type or value is a ConfigError that names the option.

Values come in as ``object``, because who passes a text for a number does not run a type checker.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from math import isfinite
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transferkit._typing import BoolArray, Float64Array, Int64Array
from transferkit.errors import ConfigError, DataError


def is_number(value: object) -> bool:
    """Whether a value is a finite number (True and False are none)."""
    return not isinstance(value, bool) and isinstance(value, Real) and isfinite(value)


def check_whole(option: str, value: object, *, least: int = 0) -> None:
    """See that an option is a whole number, ``least`` or more.

    Raises:
        ConfigError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ConfigError(f"{option} must be a whole number, {least} or more, got {value!r}.")


def check_number(
    option: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """See that an option is a finite number within bounds.

    Args:
        option: Its name.
        value: What came.
        least: The smallest that is allowed.
        above: What it must exceed.
        most: The largest that is allowed.
        below: What it must stay below.

    Raises:
        ConfigError: It is not.
    """
    number = float(value) if isinstance(value, Real) else 0.0
    fits = (
        is_number(value)
        and (least is None or number >= least)
        and (above is None or number > above)
        and (most is None or number <= most)
        and (below is None or number < below)
    )
    if not fits:
        bounds = (("at least", least), ("above", above), ("at most", most), ("below", below))
        said = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        kind = f"a number {said}" if said else "a finite number"
        raise ConfigError(f"{option} must be {kind}, got {value!r}.")


def to_sides(option: str, value: object) -> tuple[int, int]:
    """Return the height and width that an option gives: two whole numbers from 1, or one for both.

    Raises:
        ConfigError: It gives something else.
    """
    sides = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(sides) != 2:
        raise ConfigError(f"{option} must be one side, or height and width, got {value!r}.")
    for side in sides:
        check_whole(option, side, least=1)
    return int(sides[0]), int(sides[1])


def check_text(option: str, value: object) -> None:
    """See that an option is a text.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{option} must be a text, got {value!r}.")


def check_among(option: str, value: object, known: Collection[object]) -> None:
    """See that an option is one of a few values.

    Raises:
        ConfigError: It is not.
    """
    if not any(type(value) is type(one) and value == one for one in known):
        raise ConfigError(f"{option} must be one of {tuple(known)}, got {value!r}.")


def check_sequence(option: str, value: object) -> None:
    """See that an option is a list or tuple, which a text is not.

    Raises:
        ConfigError: It is not.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{option} must be a list, got {value!r}.")


def to_path(option: str, value: object) -> Path:
    """Return the path that an option gives.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(value, str | os.PathLike) and os.fspath(value):
        return Path(value)
    raise ConfigError(f"{option} must be the path of a file or folder, got {value!r}.")


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
