"""Decoded image files kept on disk: decoded by one run, memory-mapped by later ones."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import cast

import numpy as np
import PIL

from transferkit._typing import UInt8Array
from transferkit.data.disk_cache import ArrayStore, CacheWarning, NewEntry, default_folder
from transferkit.data.image_decoding import VERSION
from transferkit.data.listing import FileSource, Part
from transferkit.data.pixel_reader import DecodedImages, ReadOptions, read_images, working_size
from transferkit.errors import OutputError

WORTH_KEEPING = 32 << 20
"""Bytes of image files from which ``"auto"`` keeps them decoded: decoding takes seconds."""

LAYOUT = 1
"""To be raised when entries are laid out in another way."""

SAMPLES = 16
"""Files whose first bytes are part of the key, for archives that set all times alike."""

SAMPLE_BYTES = 1 << 16


def read_or_map(parts: Mapping[str, Part], options: ReadOptions) -> DecodedImages:
    """Map the images that an earlier run kept, or read them, and keep them where it pays."""
    sources = [(part.source, part.names) for part in parts.values()]
    paths = {n: s.root / n for s, names in sources if isinstance(s, FileSource) for n in names}
    place = options.store
    if place.cache is None or not paths:
        return read_images(parts, working_size(parts, options), options, place.reserve)
    key, total = cache_key(paths, options)
    store = ArrayStore(place.folder or default_folder() / "images", place.limit)
    found = look_up(store, key)
    if found is not None:
        return found
    size = working_size(parts, options)
    pixels = prod((len(paths), *size, options.fewest_channels))
    if place.cache == "disk" or total > WORTH_KEEPING or pixels > place.memory_limit:
        try:
            with store.adding(key) as entry:
                write(entry, parts, size, options)
            found = look_up(store, key)
            if found is None:
                raise OutputError(f"The cache {store.folder} lost an entry just written.")
            return found
        except OutputError as error:
            message = f"{error} The images are decoded, but not kept for the next run."
            warnings.warn(message, CacheWarning, stacklevel=3)
            # a temporary file goes elsewhere: in the cache folder there was no room just now
            place = replace(place, folder=None)
    return read_images(parts, size, options, place.reserve)


def cache_key(paths: Mapping[str, Path], options: ReadOptions) -> tuple[str, int]:
    """Return the key of these files once decoded, and their total size in bytes.

    The key covers neither the splits nor the folder's own path, so that another seed, or a copy
    that keeps the times of change, finds the same entry.
    """
    digest = hashlib.blake2b(digest_size=16)
    versions = (LAYOUT, VERSION, PIL.__version__)
    settings = (*versions, options.size, options.resize, options.channels, options.bits)
    digest.update(repr(settings).encode())
    names, total = sorted(paths), 0
    for name in names:
        size = changed = 0  # of a file that cannot be looked at
        with suppress(OSError):
            found = paths[name].stat()
            size, changed = found.st_size, found.st_mtime_ns
        total += size
        digest.update(f"{name}\0{size}\0{changed}\n".encode(errors="surrogateescape"))
    for place in np.linspace(0, len(names) - 1, SAMPLES).astype(int):
        with suppress(OSError), paths[names[place]].open("rb") as file:
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest(), total


def write(
    entry: NewEntry, parts: Mapping[str, Part], size: tuple[int, int], options: ReadOptions
) -> None:
    """Read all images straight into an entry: pixels, original sizes, and a JSON of names."""

    def reserve(shape: tuple[int, ...]) -> UInt8Array:
        entry.restart()  # the grey images before the first coloured one are copied
        return cast(UInt8Array, entry.add(shape, np.uint8))

    images = read_images(parts, size, options, reserve)
    # one row more than images, since a file of no bytes cannot be mapped
    sizes = np.concatenate([np.zeros((1, 2), np.int64), images.sizes])
    facts = {"names": images.names, "skipped": images.skipped, "bits": images.bits}
    text = json.dumps(facts).encode()
    for values in (sizes, np.frombuffer(text, np.uint8)):
        entry.add(values.shape, values.dtype)[:] = values


def look_up(store: ArrayStore, key: str) -> DecodedImages | None:
    """Map the entry of this key; None where there is none, or a damaged one, which is removed."""
    arrays = store.get(key)
    if arrays is None:
        return None
    try:
        pixels, sizes, text = arrays
        found = json.loads(text.tobytes())
        names, skipped, bits = found["names"], found["skipped"], int(found["bits"])
        fits = pixels.ndim == 4 and pixels.dtype == np.uint8 and len(pixels) >= len(names)
        if not fits or sizes.shape != (len(names) + 1, 2):
            raise ValueError("The shapes do not belong together.")
    except (ValueError, KeyError, TypeError):
        store.remove(key)
        return None
    return DecodedImages(cast(UInt8Array, pixels), names, sizes[1:].astype(int), skipped, bits)
