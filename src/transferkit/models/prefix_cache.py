"""The outputs of the frozen stages, computed once per image and kept in memory or on disk."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from transferkit._validation import check_whole
from transferkit.data.disk_cache import ArrayStore, CacheWarning, default_folder
from transferkit.data.image_data import ImageData
from transferkit.errors import ConfigError, DataError, OutputError, UnknownNameError
from transferkit.models.classifier import Classifier
from transferkit.models.device import CPU, has_room, plain_context

Where: TypeAlias = Literal["auto", "memory", "disk"]
CachePrecision: TypeAlias = Literal["float32", "float16"]

_UNKNOWN_MEMORY = 8_000_000_000


class Held:
    """The tensors that a cache holds in memory, by key; empty in another process."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Tensor, ...]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Held], tuple[()]]:
        """Pickle without the tensors."""
        return Held, ()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> tuple[Tensor, ...] | None:
        """The tensors of ``key``, which is now the most recently used."""
        with self._lock:
            found = self._entries.pop(key, None)
            if found is not None:
                self._entries[key] = found
            return found

    def put(self, key: str, tensors: tuple[Tensor, ...], budget: int) -> None:
        """Hold ``tensors``; drop the least recently used until ``budget`` bytes are enough."""
        with self._lock:
            self._entries.pop(key, None)
            self._entries[key] = tensors
            sizes = {k: sum(t.nbytes for t in entry) for k, entry in self._entries.items()}
            while len(sizes) > 1 and sum(sizes.values()) > budget:
                oldest = next(iter(sizes))
                del self._entries[oldest], sizes[oldest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Where the outputs of the frozen stages are kept between epochs, and between uses.

    One cache that is passed to several trainings, rankings and audits is shared by them: results of
    one, in memory or on disk, are found by the next. A name (``cache="auto"``) makes a new cache
    each time, which shares only the disk.

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
        precision: ``"float16"`` takes half the space and rounds to three digits.
        memory: Largest size in memory, in bytes; a quarter of the machine's by default. The least
            recently used entries are dropped first.
        folder: On disk; ``$TRANSFERKIT_CACHE`` or the user's cache folder by default.
        limit: Largest size on disk, in bytes; the least recently used entries are dropped first.
        views: Under random augmentation, how many augmented views of each training image are
            kept; the epochs take turns on them. With 0, every epoch augments anew, and nothing
            is kept. The views take that many times the space.
        held: The tensors in memory; None shares none.
    """

    where: Where = "auto"
    precision: CachePrecision = "float32"
    memory: int | None = None
    folder: str | os.PathLike[str] | None = None
    limit: int = 20_000_000_000
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
        """The type that floats are stored in."""
        return torch.float16 if self.precision == "float16" else torch.float32

    def memory_budget(self) -> int:
        """Largest size in memory, in bytes."""
        return machine_memory() // 4 if self.memory is None else self.memory

    def store(self) -> ArrayStore:
        """The store on disk."""
        folder = default_folder() / "boundary" if self.folder is None else Path(self.folder)
        return ArrayStore(folder, self.limit)


def cache_named(cache: Cache | Where | None, *, shared: bool = False) -> Cache | None:
    """The cache that a name stands for; a ``shared`` one keeps results in memory for later uses."""
    if cache is None or isinstance(cache, Cache):
        return cache
    return Cache(where=cache) if shared else Cache(where=cache, held=None)


def machine_memory() -> int:
    """Bytes of memory of this machine, or of the container that this process runs in."""
    try:
        size, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows; systems that do not tell
        size = pages = -1
    total = size * pages if min(size, pages) > 0 else _UNKNOWN_MEMORY
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return min(total, int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return total


Prefix: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]
"""The frozen stages: uint8 images (B, C, H, W) to one or more tensors with B rows each."""

Encoded: TypeAlias = tuple[Tensor, ...]
"""The outputs of a prefix for a whole split: tensors with one row per image."""

PIXELS_AT_ONCE = 2**18
"""Pixels of input that a CPU runs a frozen part on at once: 4 images of 256 x 256, 16 of 128 x 128.

The maps of more do not stay in its cache, and go through main memory from layer to layer.
"""


def images_at_once(model: Classifier, most: int, device: torch.device) -> int:
    """How many images, at most ``most``, to run through ``model`` at once without gradients."""
    check_whole("batch_size", most, least=1)
    height, width = model.preprocess.image_size
    few = max(1, PIXELS_AT_ONCE // (height * width))
    return min(most, few) if device.type == "cpu" else most


def encode(
    prefix: Prefix,
    data: ImageData,
    *,
    device: torch.device,
    batch_size: int = 64,
    allocate: Callable[[tuple[int, ...], torch.dtype], Tensor] | None = None,
    on_batch: Callable[[int], object] | None = None,
) -> Encoded:
    """Run ``prefix``, in eval mode, over all images in order; ``on_batch`` gets how many it ran."""
    if len(data) == 0:
        raise DataError("There are no images to encode.")
    whole: Encoded = ()
    with plain_context(device):
        for start in range(0, len(data), batch_size):
            rows = np.arange(start, min(start + batch_size, len(data)))
            with torch.inference_mode():
                parts = prefix(data.batch(rows).to(device, non_blocking=True))
            if not whole:
                new = allocate or (lambda shape, dtype: torch.empty(shape, dtype=dtype))
                whole = tuple(new((len(data), *part.shape[1:]), part.dtype) for part in parts)
            for tensor, part in zip(whole, parts, strict=True):
                tensor[start : start + len(rows)].copy_(part)
            if on_batch is not None:
                on_batch(len(rows))
    return whole


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A split to encode."""

    prefix: Prefix
    data: ImageData
    key: Callable[[], str] | None  # None where nothing identifies the prefix


def keep(
    jobs: Sequence[Job],
    cache: Cache,
    *,
    device: torch.device,
    batch_size: int = 64,
    on_batch: Callable[[int], object] | None = None,
) -> list[Encoded] | None:
    """Encode some splits, and keep the results where ``cache`` says; None if there is no room.

    In memory they are on the GPU where that has ample room, and else on the CPU.
    """
    with plain_context(device), torch.inference_mode():
        one = jobs[0].prefix(jobs[0].data.batch([0]).to(device))
    images = sum(len(job.data) for job in jobs)
    needed = images * sum(part.numel() for part in one) * cache.dtype.itemsize
    fits, named = needed <= cache.memory_budget(), all(job.key for job in jobs)
    _check_room(cache, needed, fits=fits, named=named)

    run = partial(encode, device=device, batch_size=batch_size, on_batch=on_batch)
    if named and (cache.where == "disk" or not fits):
        try:
            return [_on_disk(run, job, cache) for job in jobs]
        except OutputError as error:
            instead = "is kept in memory instead" if fits else "runs in every epoch"
            warnings.warn(f"{error} The frozen part {instead}.", CacheWarning, stacklevel=2)
    home = device if has_room(device, needed) else CPU
    return [_in_memory(run, job, cache, home) for job in jobs] if fits else None


def _check_room(cache: Cache, needed: int, *, fits: bool, named: bool) -> None:
    """Refuse an impossible choice of the cache; warn where ``"auto"`` finds no room."""
    too_small = (
        f"The cache needs {needed / 1e6:.1f} MB of memory, and its budget is "
        f"{cache.memory_budget() / 1e6:.1f} MB."
    )
    if cache.where == "memory" and not fits:
        raise ConfigError(
            f"{too_small} Raise Cache(memory=...), or take cache='disk' or cache=None."
        )
    if cache.where == "disk" and not named:
        raise ConfigError(
            "The results of an augment function of your own cannot be found again on disk; pass a "
            "tk.Augment, or take cache='memory'."
        )
    if not fits and not named:
        warnings.warn(
            f"{too_small} The frozen part runs in every epoch.", CacheWarning, stacklevel=3
        )


def _in_memory(run: partial[Encoded], job: Job, cache: Cache, home: torch.device) -> Encoded:
    """The tensors that the cache holds of this job, or new ones."""

    def allocate(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        kept = cache.dtype if dtype.is_floating_point else dtype
        return torch.empty(shape, dtype=kept, device=home)

    if cache.held is None or job.key is None:
        return run(job.prefix, job.data, allocate=allocate)
    key = f"{job.key()}-{cache.precision}-{home}"
    found = cache.held.get(key)
    if found is None:
        found = run(job.prefix, job.data, allocate=allocate)
        cache.held.put(key, found, cache.memory_budget())
    return found


def _on_disk(run: partial[Encoded], job: Job, cache: Cache) -> Encoded:
    """The tensors that the store on disk has of this job, or new ones, mapped from their files."""
    assert job.key is not None  # the caller has seen to it
    store, key = cache.store(), f"{job.key()}-{cache.precision}"
    arrays = store.get(key)
    if arrays is None:
        with store.adding(key) as entry:

            def allocate(shape: tuple[int, ...], _: torch.dtype) -> Tensor:
                return torch.from_numpy(entry.add(shape, cache.precision))

            run(job.prefix, job.data, allocate=allocate)
        arrays = store.get(key)
    if arrays is None:
        raise OutputError(f"The cache {store.folder} lost what was written to it.")
    return tuple(map(torch.from_numpy, arrays))


def backbone_tensors(model: Classifier) -> dict[str, Tensor]:
    """All parameters and buffers that the features depend on."""
    state = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}


def tensor_versions(tensors: Mapping[str, Tensor]) -> tuple[tuple[str, int, int], ...]:
    """Changes when a tensor is replaced or written to; means nothing in another process."""
    return tuple((name, t.data_ptr(), t._version) for name, t in tensors.items())


def prefix_key(model: Classifier, tensors: Mapping[str, Tensor], data: ImageData, *how: str) -> str:
    """The key of the outputs of a part of ``model`` for ``data``, the same in every process.

    ``how`` says where the part ends, the precision and the kind of device.
    """
    preprocess = sorted(model.preprocess.recipe().items())
    facts = (torch.__version__, model.name, preprocess, data.fingerprint(), how)
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=16)
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
