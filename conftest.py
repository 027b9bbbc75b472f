"""What holds wherever pytest runs something, in ``tests`` or in the examples of ``src``."""

from __future__ import annotations

import os

# Before NumPy and torch are loaded: many small products are far slower on many threads than on
# one, by a factor of 40 where tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
