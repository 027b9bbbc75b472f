"""What holds wherever pytest runs something, in ``tests`` or in the examples of ``src``."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Before NumPy and torch are loaded: many small products are far slower on many threads than on
# one, by a factor of 40 where tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is cached away from the caches of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFERKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
