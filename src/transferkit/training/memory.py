"""Memory that one training step gives back, kept for the next one.

The C library of most Linux systems returns large free blocks to the system at once and gets them
again page by page: on a CPU, hundreds of thousands of page faults in each step of a network on
images of 256 x 256. While a training runs, what is free stays with the process.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGE = 32 << 20
_USUAL = 2 * _LARGE
_NEVER = 2**31 - 1
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Keep freed blocks of up to 32 MB in the process until the end of the block.

    Where blocks are larger, more would be faster still, but free memory would lie in pieces and
    the process would take more than without this. At the end the C library is told to give back
    what is free, and has the thresholds that it comes to by itself in a process of large blocks.
    Does nothing on a GPU, with another C library, or where the user's environment chooses.
    """
    library = _glibc() if device.type == "cpu" else None
    if library is None:
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _LARGE)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        library.mallopt(_TRIM_THRESHOLD, _USUAL)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _CHOSEN):
        return None
    library = ctypes.CDLL(None)
    known = all(hasattr(library, name) for name in ("gnu_get_libc_version", "mallopt"))
    return library if known else None
