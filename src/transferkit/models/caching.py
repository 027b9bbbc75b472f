"""The cache of what the frozen part makes of every image: where it is, and how large."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from transferkit.data.arraystore import ArrayStore, default_folder
from transferkit.errors import ConfigError, UnknownNameError

Where: TypeAlias = Literal["auto", "memory", "disk"]
CachePrecision: TypeAlias = Literal["float32", "float16"]

_DISK_LIMIT = 20_000_000_000
_SHARE_OF_MEMORY = 4


class Held:
    """What one cache has in memory, by key; empty again in another process."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Tensor, ...]] = {}

    def __reduce__(self) -> tuple[type[Held], tuple[()]]:
        """Travel without what is held."""
        return Held, ()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> tuple[Tensor, ...] | None:
        """What goes by ``key``, which is now the most recently used."""
        found = self._entries.pop(key, None)
        if found is not None:
            self._entries[key] = found
        return found

    def put(self, key: str, tensors: tuple[Tensor, ...], budget: int) -> None:
        """Hold ``tensors``; what was not used for longest gives way to a budget in bytes."""
        self._entries.pop(key, None)
        self._entries[key] = tensors
        while len(self._entries) > 1 and sum(map(_size, self._entries.values())) > budget:
            del self._entries[next(iter(self._entries))]


def _size(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """How the results of the frozen part are kept between epochs, and from one use to the next.

    One cache that is given to several trainings, rankings and audits is shared by them: what one
    has computed, in memory or on disk, the next one finds. A name (``cache="auto"``) makes a new
    one each time, which shares what is on disk only.

    Example:
        >>> import transferkit as tk
        >>> splits = tk.phantom_splits(sizes=(60, 30, 30), image_size=32, seed=0)
        >>> model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32)
        >>> cache = tk.Cache(where="memory")
        >>> result = tk.linear_probe(model, splits, epochs=2, cache=cache, progress=False)
        >>> train = tk.extract_features(model, splits["train"], cache=cache)  # nothing computed

    Attributes:
        where: ``"memory"``; ``"disk"``, which later runs on the same weights and data use again;
            or ``"auto"``: memory where it fits, else disk.
        precision: ``"float16"`` takes half the room and rounds to three digits.
        memory: Bytes of memory that it may take; a quarter of the machine's by default. The least
            recently used give way.
        folder: On disk; ``$TRANSFERKIT_CACHE`` or the user's cache folder by default.
        limit: Bytes on disk that all entries may take; the least recently used give way.
        held: What is in memory; None shares nothing.
        views: Under random augmentation, how many augmented views of each training image are
            kept; the epochs take turns on them. With 0, every epoch augments anew, and nothing
            is kept. The views take that many times the room.
    """

    where: Where = "auto"
    precision: CachePrecision = "float32"
    memory: int | None = None
    folder: str | os.PathLike[str] | None = None
    limit: int = _DISK_LIMIT
    views: int = 0
    held: Held | None = field(default_factory=Held, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.where not in get_args(Where):
            raise UnknownNameError.among("cache", str(self.where), get_args(Where))
        if self.precision not in get_args(CachePrecision):
            raise UnknownNameError.among(
                "cache precision", str(self.precision), get_args(CachePrecision)
            )
        if self.views < 0:
            raise ConfigError(f"views must be 0 or more, got {self.views}.")

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
    return Cache(where=cache, held=None)


def shared(cache: Cache | Where | None) -> Cache | None:
    """A cache for several uses: one of the caller's own, or a new one that goes by a name."""
    return cache if cache is None or isinstance(cache, Cache) else Cache(where=cache)


def machine_memory() -> int:
    """Bytes of memory of this machine, or of the container that this process runs in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return min(total, int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return total
