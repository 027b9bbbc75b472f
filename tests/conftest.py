"""Fixtures that every room uses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# An example may take long where the machine is busy, and the first call of torch always does.
settings.register_profile("transferkit", deadline=None)
settings.load_profile("transferkit")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_path() -> Path:
    """The folder of real X-rays and real weights beside the project, or a skip."""
    if not SHARED.is_dir():
        pytest.skip(
            f"real data and weights are not here: no folder {SHARED.name} beside the project"
        )
    return SHARED
