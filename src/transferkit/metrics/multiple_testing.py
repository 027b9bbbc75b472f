"""Many tests at once: p-values adjusted, so that alpha keeps its meaning."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from transferkit._typing import Float64Array


def holm(p_values: ArrayLike) -> Float64Array:
    """Adjust p-values ``(m,)`` so that any false alarm at all has a chance of at most alpha.

    With the p-values in rising order, the i-th becomes ``max_{j <= i} (m - j + 1) p_j``. Valid
    under any dependence. Source: S. Holm, "A simple sequentially rejective multiple test
    procedure", Scandinavian Journal of Statistics 6 (1979).

    Example:
        >>> from transferkit.metrics.multiple_testing import holm
        >>> holm([0.01, 0.04, 0.30]).round(2).tolist()
        [0.03, 0.08, 0.3]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1.0)
