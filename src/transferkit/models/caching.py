"""The cache of what the frozen part makes of every image: where it is, and how large."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from transferkit.data.arraystore import ArrayStore, default_folder
from transferkit.errors import UnknownNameError

Where: TypeAlias = Literal["auto", "memory", "disk"]
CachePrecision: TypeAlias = Literal["float32", "float16"]

_DISK_LIMIT = 20_000_000_000
_SHARE_OF_MEMORY = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """How the results of the frozen part are kept between epochs.

    Attributes:
        where: ``"memory"``; ``"disk"``, which later runs on the same weights and data use again;
            or ``"auto"``: memory where it fits, else disk.
        precision: ``"float16"`` takes half the room and rounds to three digits.
        memory: Bytes of memory that it may take; a quarter of the machine's by default.
        folder: On disk; ``$TRANSFERKIT_CACHE`` or the user's cache folder by default.
        limit: Bytes on disk that all entries may take; the least recently used give way.
    """

    where: Where = "auto"
    precision: CachePrecision = "float32"
    memory: int | None = None
    folder: str | os.PathLike[str] | None = None
    limit: int = _DISK_LIMIT

    def __post_init__(self) -> None:
        if self.where not in get_args(Where):
            raise UnknownNameError.among("cache", str(self.where), get_args(Where))
        if self.precision not in get_args(CachePrecision):
            raise UnknownNameError.among(
                "cache precision", str(self.precision), get_args(CachePrecision)
            )

    @property
    def dtype(self) -> torch.dtype:
        """The type that is stored."""
        return torch.float16 if self.precision == "float16" else torch.float32

    def allocate(self, device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Room in memory for one tensor; what is not a float keeps its type."""
        kept = self.dtype if dtype.is_floating_point else dtype
        return torch.empty(shape, dtype=kept, device=device)

    def memory_budget(self) -> int:
        """Bytes of memory that it may take."""
        return machine_memory() // _SHARE_OF_MEMORY if self.memory is None else self.memory

    def store(self) -> ArrayStore:
        """The store on disk."""
        folder = default_folder() / "boundary" if self.folder is None else Path(self.folder)
        return ArrayStore(folder, self.limit)


def cache_named(cache: Cache | Where | None) -> Cache | None:
    """The cache that goes by a name; one of the caller's own goes through."""
    if cache is None or isinstance(cache, Cache):
        return cache
    return Cache(where=cache)


def machine_memory() -> int:
    """Bytes of memory of this machine, or of the container that this process runs in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return min(total, int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return total
