"""Small pictures of images, for reports."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from transferkit._typing import UInt8Array

SIDE = 128


def thumbnail(image: UInt8Array, *, side: int = SIDE) -> bytes:
    """Shrink an image (H, W, C) to at most ``side`` pixels, as a JPEG; small ones as a PNG."""
    plain = image[:, :, 0] if image.shape[2] == 1 else image
    picture = Image.fromarray(np.ascontiguousarray(plain))
    buffer = io.BytesIO()
    if max(picture.size) <= side // 2:
        picture.save(buffer, "PNG")
    else:
        picture.thumbnail((side, side), Image.Resampling.BOX)
        picture.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()
