"""Results as plain values, ready for ``json.dumps``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from transferkit._typing import JSON


def plain(value: object) -> JSON:
    """Turn arrays, tuples, mappings and NumPy numbers into lists, dicts and Python numbers.

    What is not finite has no place in JSON and becomes None.

    Raises:
        TypeError: A value with no plain form.
    """
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    raise TypeError(f"No plain form for {type(value).__name__}.")
