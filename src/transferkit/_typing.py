"""Array types, named once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

UInt8Array: TypeAlias = NDArray[np.uint8]
Int64Array: TypeAlias = NDArray[np.int64]
Float64Array: TypeAlias = NDArray[np.float64]
FloatArray: TypeAlias = NDArray[np.floating]
BoolArray: TypeAlias = NDArray[np.bool_]

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

GroupsLike: TypeAlias = ArrayLike | Sequence[str | None]
"""Group of each image, by name or number; None for an image without one."""
