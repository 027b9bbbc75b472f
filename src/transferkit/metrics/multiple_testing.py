"""Many tests at once: p-values adjusted, so that alpha keeps its meaning."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from transferkit._typing import Float64Array, Int64Array
from transferkit.errors import ConfigError, DataError

Correction: TypeAlias = Literal["holm", "benjamini_hochberg"]


def holm(p_values: ArrayLike) -> Float64Array:
    """Adjust p-values so that any false alarm at all has a chance of at most alpha.

    With the p-values in rising order, the i-th becomes ``max_{j <= i} (m - j + 1) p_j``. Valid
    under any dependence. Source: S. Holm, "A simple sequentially rejective multiple test
    procedure", Scandinavian Journal of Statistics 6 (1979).

    Args:
        p_values: ``(m,)`` p-values.

    Returns:
        ``(m,)`` adjusted p-values, in the order given.

    Raises:
        DataError: A p-value outside [0, 1] or NaN.

    Example:
        >>> from transferkit.metrics.multiple_testing import holm
        >>> holm([0.01, 0.04, 0.30]).round(2).tolist()
        [0.03, 0.08, 0.3]
    """
    p = _check(p_values)
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return _restore(raised, order)


def benjamini_hochberg(p_values: ArrayLike) -> Float64Array:
    """Adjust p-values so that at most a share alpha of the alarms is false, on average.

    With the p-values in rising order, the i-th becomes ``min_{j >= i} m p_j / j``. Valid under
    independence and positive dependence. Source: Y. Benjamini and Y. Hochberg, "Controlling the
    false discovery rate", JRSS B 57 (1995).

    Args:
        p_values: ``(m,)`` p-values.

    Returns:
        ``(m,)`` adjusted p-values, in the order given.

    Raises:
        DataError: A p-value outside [0, 1] or NaN.
    """
    p = _check(p_values)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    lowered = np.minimum.accumulate(scaled[::-1])[::-1]
    return _restore(lowered, order)


def adjust(p_values: ArrayLike, correction: Correction) -> Float64Array:
    """Adjust p-values by the named correction.

    Raises:
        ConfigError: No such correction.
        DataError: A p-value outside [0, 1] or NaN.
    """
    if correction == "holm":
        return holm(p_values)
    if correction == "benjamini_hochberg":
        return benjamini_hochberg(p_values)
    raise ConfigError(f"correction must be 'holm' or 'benjamini_hochberg'; {correction!r} came.")


def _check(p_values: ArrayLike) -> Float64Array:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise DataError(f"Expected p-values (m,) in [0, 1], but {p} came.")
    return p


def _restore(adjusted: Float64Array, order: Int64Array) -> Float64Array:
    result = np.empty_like(adjusted)
    result[order] = np.minimum(adjusted, 1.0)
    return result
