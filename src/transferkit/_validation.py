"""Checks of options (ConfigError) and of arrays (DataError); a message names the option or array.

Options come in as ``object``, because who passes a text for a number does not run a type checker.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from math import isfinite
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transferkit._typing import Float64Array, FloatArray, Int64Array
from transferkit.errors import ConfigError, DataError

SUM_TOLERANCE = 1e-3
"""How far a row of probabilities may miss 1: a softmax in half precision stays within it."""


def is_number(value: object) -> bool:
    """Whether a value is a finite number; True and False are not."""
    return not isinstance(value, bool) and isinstance(value, Real) and isfinite(value)


def check_whole(option: str, value: object, *, least: int = 0) -> None:
    """Refuse an option that is not a whole number of at least ``least``."""
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
    """Refuse an option that is not a finite number within bounds (above and below: strictly)."""
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
        named = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        kind = f"a number {named}" if named else "a finite number"
        raise ConfigError(f"{option} must be {kind}, got {value!r}.")


def check_text(option: str, value: object) -> None:
    """Refuse an option that is not a string."""
    if not isinstance(value, str):
        raise ConfigError(f"{option} must be a string, got {value!r}.")


def check_among(option: str, value: object, known: Collection[object]) -> None:
    """Refuse an option that is none of the ``known`` values; 1, 1.0 and True are different."""
    if not any(type(value) is type(one) and value == one for one in known):
        raise ConfigError(f"{option} must be one of {tuple(known)}, got {value!r}.")


def check_sequence(option: str, value: object) -> None:
    """Refuse an option that is not a list or tuple; a string is neither."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{option} must be a list, got {value!r}.")


def to_sides(option: str, value: object) -> tuple[int, int]:
    """Return height and width: two whole numbers from 1, or one for both."""
    sides = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(sides) != 2:
        raise ConfigError(f"{option} must be one side, or height and width, got {value!r}.")
    for side in sides:
        check_whole(option, side, least=1)
    return int(sides[0]), int(sides[1])


def to_path(option: str, value: object) -> Path:
    """Return a path from a string or path that is not empty."""
    if isinstance(value, str | os.PathLike) and os.fspath(value):
        return Path(value)
    raise ConfigError(f"{option} must be the path of a file or folder, got {value!r}.")


def check_finite(features: FloatArray, *, what: str, images: Sequence[str]) -> None:
    """Refuse features ``(N, D)`` with NaN or infinity; ``images`` are their names."""
    bad = np.argwhere(~np.isfinite(features))
    if len(bad):
        row, column = map(int, bad[0])
        raise DataError(
            f"{what} must be finite, got {features[row, column]} in {images[row]!r}, column "
            f"{column}; {len(set(bad[:, 0].tolist()))} of {len(features)} images have such values. "
            "Remove these images, or look into the model that made the features."
        )


def check_labels(labels: ArrayLike, *, num_classes: int | None = None) -> Int64Array:
    """Return class numbers as int64 ``(N,)``, N at least 1, each in ``[0, num_classes)``."""
    array = np.asarray(labels)
    if array.ndim != 1 or len(array) == 0:
        raise DataError(f"Labels must be an array (N,) that is not empty, got {array.shape}.")
    if array.dtype.kind not in "biu":
        raise DataError(f"Labels must be integers (class numbers), got {array.dtype}.")
    whole = array.astype(np.int64)
    outside = whole < 0 if num_classes is None else (whole < 0) | (whole >= num_classes)
    if outside.any():
        index = int(np.argmax(outside))
        allowed = "at least 0" if num_classes is None else f"in 0..{num_classes - 1}"
        raise DataError(f"Labels must be {allowed}, got {whole[index]} as labels[{index}].")
    return whole


def check_probabilities(probabilities: ArrayLike) -> Float64Array:
    """Return probabilities as float64 ``(N, K)``, K at least 2, rows summing to one."""
    array = _as_floats("Probabilities", probabilities)
    if array.ndim != 2 or array.shape[0] == 0 or array.shape[1] < 2:
        raise DataError(
            "Probabilities must have shape (N, K) with an image and at least two classes, got "
            f"shape {array.shape}. For one positive score p pass columns 1 - p, p."
        )
    for bad, demand in (
        (~np.isfinite(array).all(axis=1), "be finite"),
        ((np.abs(array - 0.5) > 0.5 + SUM_TOLERANCE).any(axis=1), "lie in [0, 1]"),
        (np.abs(array.sum(axis=1) - 1) > SUM_TOLERANCE, "sum to 1 in each row"),
    ):
        if bad.any():
            index = int(np.argmax(bad))
            row = np.array2string(array[index], precision=4, threshold=8)
            raise DataError(
                f"Probabilities must {demand}, got {row} as probabilities[{index}]. "
                "Apply a softmax to logits."
            )
    return array


def check_same_length(**arrays: NDArray[np.generic]) -> None:
    """Refuse arrays of different lengths; the keywords name them in the error."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        named = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise DataError(f"Arrays must have one row per image, in the same order; {named}.")


def check_classes(classes: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """Return the K class names as strings; without names ``"0"`` to ``"K-1"``."""
    if classes is None:
        return tuple(map(str, range(num_classes)))
    names = tuple(map(str, classes))
    if len(names) != num_classes or len(set(names)) != num_classes:
        raise DataError(f"Expected {num_classes} different class names, got {names}.")
    return names


def _as_floats(what: str, values: ArrayLike) -> Float64Array:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} must be an array of numbers: {error}.") from error
