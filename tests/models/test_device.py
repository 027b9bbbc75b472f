"""Free memory stays with the process while a training runs, and goes back after it."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from transferkit.models import device as memory
from transferkit.models.device import kept_memory

CPU = torch.device("cpu")
BLOCK = 4 << 20

glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or memory._glibc() is None,
    reason="needs glibc without thresholds in the environment",
)


def faults() -> int:
    """Page faults of taking and giving back 320 MB in blocks of 16 MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.zeros(BLOCK) for _ in range(20)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_a_second_step_takes_the_memory_of_the_first() -> None:
    with kept_memory(CPU):
        first, *later = [faults() for _ in range(4)]
    after = faults()
    assert first > 320e6 / 4096 / 2  # most of the pages are new
    assert min(later) < first / 2
    assert after > first / 2


def test_elsewhere_nothing_happens(monkeypatch) -> None:
    with kept_memory(torch.device("meta")):
        pass
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert memory._glibc() is None
    with kept_memory(CPU):
        pass
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_")
    monkeypatch.setattr("sys.platform", "darwin")
    assert memory._glibc() is None
