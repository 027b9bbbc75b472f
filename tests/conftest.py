"""Fixtures that every room uses."""

from __future__ import annotations

import os
from pathlib import Path

# Before NumPy and torch are loaded: many small products are far slower on many threads than on
# one, by a factor of 40 where tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_path() -> Path:
    """The folder of real X-rays and real weights beside the project, or a skip."""
    if not SHARED.is_dir():
        pytest.skip(
            f"real data and weights are not here: no folder {SHARED.name} beside the project"
        )
    return SHARED
