"""Running every image of a split once through a frozen part, into memory or onto the disk."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn

from transferkit._validation import check_whole
from transferkit.data.disk_cache import ArrayStore, CacheWarning, default_folder
from transferkit.data.image_data import ImageData
from transferkit.errors import ConfigError, DataError, OutputError, UnknownNameError
from transferkit.models.classifier import Classifier
from transferkit.models.device import has_room

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


Prefix: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]
"""A batch of uint8 images (B, C, H, W) to one or more tensors with B rows each."""

Encoded: TypeAlias = tuple[Tensor, ...]
"""What a prefix makes of a split: tensors with one row an image."""

Allocate: TypeAlias = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""Makes room for one encoded tensor of the whole split, given its shape and type."""

OnBatch: TypeAlias = Callable[[int], object]
"""Told the number of images of each batch that is done."""


def in_memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Room in main memory."""
    return torch.empty(shape, dtype=dtype)


PIXELS_AT_ONCE = 2**18
"""Pixels of input that a CPU runs a frozen part on at once: 4 images of 256 x 256, 16 of 128 x 128.

The maps of more do not stay in its cache, and go through main memory from layer to layer.
"""


def images_at_once(model: Classifier, most: int, device: torch.device) -> int:
    """How many images to run through ``model`` at once where nothing is learnt from them.

    Args:
        model: The classifier.
        most: As many at the most.
        device: Where it computes; only on a CPU are fewer better.

    Raises:
        ConfigError: ``most`` is not a whole number from 1.
    """
    check_whole("batch_size", most, least=1)
    height, width = model.preprocess.image_size
    few = max(1, PIXELS_AT_ONCE // (height * width))
    return min(most, few) if device.type == "cpu" else most


def ignore(count: int) -> None:
    """Take no notice of progress."""


def encode(
    prefix: Prefix,
    data: ImageData,
    *,
    device: torch.device,
    batch_size: int = 64,
    allocate: Allocate = in_memory,
    on_batch: OnBatch = ignore,
) -> Encoded:
    """Run ``prefix`` over all images, in their order.

    Args:
        prefix: The frozen part; its modules must be in eval mode.
        data: N images.
        device: Where the prefix computes.
        batch_size: Images a batch.
        allocate: Makes room for the results.
        on_batch: Told of each batch that is done.

    Returns:
        For each tensor of the prefix, one with N rows, where ``allocate`` put it.

    Raises:
        DataError: There are no images.
    """
    check_whole("batch_size", batch_size, least=1)
    if len(data) == 0:
        raise DataError("There are no images to encode.")
    room: Encoded = ()
    for start in range(0, len(data), batch_size):
        rows = np.arange(start, min(start + batch_size, len(data)))
        with torch.inference_mode():
            parts = prefix(data.batch(rows).to(device, non_blocking=True))
        if not room:
            room = tuple(allocate((len(data), *part.shape[1:]), part.dtype) for part in parts)
        for whole, part in zip(room, parts, strict=True):
            whole[start : start + len(rows)].copy_(part)
        on_batch(len(rows))
    return room


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A split, and what is to be made of it.

    Attributes:
        prefix: The frozen part; its modules must be in eval mode.
        data: The split.
        key: What the result goes by on disk; see ``marks.prefix_key``. None where nothing says
            what the prefix does, so that the result cannot be found again.
    """

    prefix: Prefix
    data: ImageData
    key: Callable[[], str] | None


def keep(
    jobs: Sequence[Job],
    cache: Cache,
    *,
    device: torch.device,
    batch_size: int = 64,
    on_batch: OnBatch = ignore,
) -> list[Encoded] | None:
    """Encode some splits and keep the results as ``cache`` says.

    Args:
        jobs: What is to be made of which images; each image becomes as many numbers in all.
        cache: Where to keep the results, and how much of them.
        device: Where the prefixes compute.
        batch_size: Images a batch.
        on_batch: Told of each batch that is done.

    Returns:
        For each job the encoded tensors, on a GPU that has ample room and else on the CPU; None
        where there is no room for them, said by a :class:`CacheWarning`.

    Raises:
        ConfigError: ``cache`` is told to be in memory, and its budget is too small; or on disk,
            and a job has no key.
    """
    shapes = _shapes(jobs[0], device)
    needed = sum(map(prod, shapes)) * cache.dtype.itemsize * sum(len(job.data) for job in jobs)
    fits, named = needed <= cache.memory_budget(), all(job.key for job in jobs)
    _check_room(cache, needed, fits=fits, named=named)

    def run(job: Job, allocate: Allocate) -> Encoded:
        return encode(
            job.prefix,
            job.data,
            device=device,
            batch_size=batch_size,
            allocate=allocate,
            on_batch=on_batch,
        )

    if named and (cache.where == "disk" or not fits):
        try:
            return [_on_disk(run, job, shapes, cache) for job in jobs]
        except OutputError as error:
            instead = "is kept in memory instead" if fits else "runs in every epoch"
            warnings.warn(f"{error} The frozen part {instead}.", CacheWarning, stacklevel=2)
    home = device if has_room(device, needed) else torch.device("cpu")
    return [_in_memory(run, job, cache, home) for job in jobs] if fits else None


def _check_room(cache: Cache, needed: int, *, fits: bool, named: bool) -> None:
    """Raise where ``cache`` asks for what cannot be; warn where it leaves the choice."""
    where = (
        f"The cache needs {needed / 1e6:.1f} MB of memory, and its budget is "
        f"{cache.memory_budget() / 1e6:.1f} MB."
    )
    if cache.where == "memory" and not fits:
        raise ConfigError(f"{where} Raise Cache(memory=...), or take cache='disk' or cache=None.")
    if cache.where == "disk" and not named:
        raise ConfigError(
            "What a function of your own makes of the images cannot be found again on disk; give "
            "augment an Augment, or take cache='memory'."
        )
    if not fits and not named:
        warnings.warn(f"{where} The frozen part runs in every epoch.", CacheWarning, stacklevel=3)


def _shapes(job: Job, device: torch.device) -> list[tuple[int, ...]]:
    """The shape of each tensor that one image becomes."""
    with torch.inference_mode():
        return [tuple(part.shape[1:]) for part in job.prefix(job.data.batch([0]).to(device))]


def _in_memory(
    run: Callable[[Job, Allocate], Encoded], job: Job, cache: Cache, home: torch.device
) -> Encoded:
    """What the cache holds of this job, computed if it holds nothing or shares nothing."""
    if cache.held is None or job.key is None:
        return run(job, partial(cache.allocate, home))
    key = f"{job.key()}-{cache.precision}-{home}"
    found = cache.held.get(key)
    if found is None:
        found = run(job, partial(cache.allocate, home))
        cache.held.put(key, found, cache.memory_budget())
    return found


def _on_disk(
    run: Callable[[Job, Allocate], Encoded],
    job: Job,
    shapes: Sequence[tuple[int, ...]],
    cache: Cache,
) -> Encoded:
    """What the store has of this job, computed if it has nothing."""
    assert job.key is not None  # the caller has seen to it
    store, key = cache.store(), f"{job.key()}-{cache.precision}"
    arrays = store.get(key)
    if arrays is None:
        with store.writing(key, [((len(job.data), *s), cache.precision) for s in shapes]) as room:
            left = list(room)
            run(job, lambda shape, dtype: torch.from_numpy(left.pop(0)))
        arrays = store.get(key)
    if arrays is None:
        raise OutputError(f"The cache {store.folder} lost what was written to it.")
    return tuple(map(torch.from_numpy, arrays))


QuickMark: TypeAlias = tuple[tuple[str, int, int], ...]


def changing(model: nn.Module) -> dict[str, Tensor]:
    """What a training step may change: trainable parameters, and buffers of modules that train.

    Args:
        model: In train mode, frozen as it is to be used.
    """
    lasting = model.state_dict().keys()
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                found[dot + name] = parameter
        if module.training:
            found |= {dot + name: buffer for name, buffer in module.named_buffers(recurse=False)}
    return {name: tensor for name, tensor in found.items() if name in lasting}


def frozen(model: nn.Module) -> dict[str, Tensor]:
    """All weights and buffers that a training step cannot change; ``model`` is in train mode."""
    live = changing(model)
    state = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if name not in live}


def backbone(model: Classifier) -> dict[str, Tensor]:
    """All weights and buffers behind the features, frozen or not."""
    state = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}


def quick_mark(tensors: Mapping[str, Tensor]) -> QuickMark:
    """Changes when a tensor is replaced or written to, or another set of them comes.

    Costs no look at the values, so it holds within one process only.
    """
    return tuple((name, t.data_ptr(), t._version) for name, t in tensors.items())


def prefix_key(model: Classifier, tensors: Mapping[str, Tensor], data: ImageData, *how: str) -> str:
    """The key of what a part of ``model`` makes of ``data``.

    A hash of weights, preprocessing and pixels, of torch's version and of ``how``.

    Args:
        model: The classifier.
        tensors: The weights and buffers of the part.
        data: The images.
        how: What else the numbers depend on: where the part ends, the precision.
    """
    digest = hashlib.blake2b(digest_size=16)
    preprocess = sorted(model.preprocess.recipe().items())
    facts = (torch.__version__, model.name, preprocess, data.fingerprint(), how)
    digest.update(repr(facts).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
