"""Content hashes: equal for images whose decoded pixels are equal, whatever the files are like."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from transferkit._typing import Int64Array, UInt8Array
from transferkit.errors import DataError

_DIGEST = 16  # bytes; two different images of a billion collide with probability 1e-21


def content_hashes(images: UInt8Array, *, sizes: Int64Array | None = None) -> NDArray[np.bytes_]:
    """Hash the pixels of every image.

    Args:
        images: uint8 (N, H, W, C); may be a memory map, one image is read at a time.
        sizes: Original (height, width) of each image (N, 2). If given, images that only became
            equal by being brought to one size keep different hashes.

    Returns:
        BLAKE2b digests (N,) of 16 bytes as hexadecimal text.

    Raises:
        DataError: ``images`` is not (N, H, W, C) uint8.
    """
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(
            f"expected images as uint8 (N, H, W, C), got {images.dtype} of shape {images.shape}"
        )
    shape = repr(images.shape[1:]).encode()
    hashes = np.zeros(len(images), f"S{2 * _DIGEST}")
    for index, image in enumerate(images):
        digest = hashlib.blake2b(shape, digest_size=_DIGEST)
        digest.update(np.ascontiguousarray(image).data)
        if sizes is not None:
            digest.update(np.ascontiguousarray(sizes[index], "<i8").data)
        hashes[index] = digest.hexdigest()
    return hashes
