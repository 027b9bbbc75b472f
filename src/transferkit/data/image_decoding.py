"""Decoding one image file of any mode to an array."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from transferkit._typing import UInt8Array
from transferkit._validation import check_among, check_whole, to_sides
from transferkit.errors import DataError

Resize: TypeAlias = Literal["squash", "crop", "pad"]

VERSION = 3
"""To be raised whenever the same file becomes other pixels than before."""

BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    IndexError,
    KeyError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""Errors that Pillow raises on damaged files."""

TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
"""Pillow's modes with an alpha channel; the others may name one transparent colour."""

ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held; 5 to 8 swap height and width."""

WIDTH, HEIGHT, PHOTOMETRIC = 256, 257, 262
"""Tags of a TIFF; a PHOTOMETRIC of 0 says that 0 is white."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image upright, by its orientation."""


def decode(path: Path, *, alpha: bool = False) -> NDArray[np.generic]:
    """Read the first frame upright: (H, W) or (H, W, 3), uint8, uint16 or float32.

    With ``alpha`` a transparent image is (H, W, 4); else it is composited on black.
    A DataError says why the file cannot be read, not which.
    """
    try:
        # by its name Pillow maps an uncompressed file, and so misreads a TIFF that lies on its side
        with path.open("rb") as file, Image.open(file) as image:
            return to_array(image, alpha=alpha)
    except BROKEN as error:
        empty = path.is_file() and path.stat().st_size == 0
        reason = "the file is empty" if empty else str(error) or type(error).__name__
        if isinstance(error, Image.DecompressionBombError):
            reason = f"{reason.rstrip('.')}; if you trust it, raise PIL.Image.MAX_IMAGE_PIXELS"
        raise DataError(reason.replace(str(path), path.name)) from error


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings of odd metadata and large images, in all threads: both are read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def probe(path: Path) -> tuple[int, int] | None:
    """Read the upright height and width from the file's header, or None if it is damaged."""
    try:
        with Image.open(path) as image:
            tags = getattr(image, "tag_v2", {})  # the size of a TIFF may be that of it upright
            height, width = tags.get(HEIGHT, image.height), tags.get(WIDTH, image.width)
            return (width, height) if orientation(image) > 4 else (height, width)
    except BROKEN:
        return None


def orientation(image: Image.Image) -> int:
    """Return how an image lies, 1 to 8; upright where its EXIF data cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except BROKEN:
        return 1


def to_array(image: Image.Image, *, alpha: bool = False) -> NDArray[np.generic]:
    """Bring one image of any mode, upright, to uint8, uint16 or float32; see :func:`decode`."""
    image.load()  # which in some versions of Pillow brings a TIFF upright
    inverted = image.mode[0] in "IF" and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0
    turn = TURNS.get(orientation(image))
    image = image if turn is None else image.transpose(turn)
    mode = image.mode
    if mode.startswith("I"):
        values = to_uint16(np.asarray(image))
        return 65535 - values if inverted else values
    if mode == "F":
        floats = np.asarray(image)
        return (1 if floats.max() <= 1 else 255) - floats if inverted else floats
    if mode in TRANSPARENT or "transparency" in image.info:
        pixels = np.asarray(image.convert("RGBA"))
        return pixels if alpha else drop_equal_channels(drop_alpha(pixels))
    if mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    return drop_equal_channels(np.asarray(image.convert("RGB")))


def to_uint16(values: NDArray[np.generic]) -> NDArray[np.uint16]:
    """Check 16-bit values, which Pillow hands out as uint16 or as int32."""
    numbers = values.astype(np.int64)
    if numbers.size and (numbers.min() < 0 or numbers.max() > 65535):
        raise DataError(
            f"Expected 16-bit values, 0..65535, got {numbers.min()} to {numbers.max()}."
        )
    return numbers.astype(np.uint16)


def drop_alpha(images: UInt8Array) -> UInt8Array:
    """Composite the fourth channel, if there is one, on black; works on any (..., C) array."""
    if images.shape[-1] != 4:
        return images
    alpha = images[..., 3:].astype(np.uint16)
    composite: UInt8Array = ((images[..., :3] * alpha + 127) // 255).astype(np.uint8)
    return composite


def drop_equal_channels(image: UInt8Array) -> UInt8Array:
    """Turn grey that is stored as (H, W, 1) or as equal red, green and blue into (H, W)."""
    if image.ndim == 2:
        return image
    first = image[..., 0]
    if all(np.array_equal(first, image[..., c]) for c in range(1, image.shape[2])):
        return first
    return image


def widen(image: NDArray[np.generic], channels: int) -> NDArray[np.generic]:
    """Turn (H, W), (H, W, 3) or (H, W, 4) into so many channels or more; new alpha is opaque."""
    colour = image if image.ndim == 3 else image[..., None]
    if colour.shape[2] == 1 and channels > 1:
        colour = np.repeat(colour, 3, axis=2)
    if colour.shape[2] == 3 and channels == 4:
        white = {"uint8": 255, "uint16": 65535}.get(colour.dtype.name, 1)
        colour = np.concatenate([colour, np.full_like(colour[..., :1], white)], axis=2)
    return colour


def luminance(image: UInt8Array) -> UInt8Array:
    """Turn (H, W, 3) into grey (H, W) by ITU-R BT.601; grey stays as it is."""
    return image if image.ndim == 2 else np.asarray(Image.fromarray(image).convert("L"))


@dataclass(frozen=True, slots=True)
class Reading:
    """How image files became the images of a dataset, so that others can be read alike.

    Attributes:
        size: Height and width that they were brought to.
        resize: How: ``"squash"``, ``"crop"`` or ``"pad"``.
        channels: 1 where colours were made grey or there were none, else 3.
        bits: Bit depth of their values.
    """

    size: tuple[int, int]
    resize: Resize
    channels: int
    bits: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", to_sides("size", self.size))
        check_among("resize", self.resize, get_args(Resize))
        check_among("channels", self.channels, (1, 3))
        check_whole("bits", self.bits, least=8)

    def apply(self, image: UInt8Array) -> UInt8Array:
        """Bring one image, (H, W, 1) or (H, W, 3), to size and channels: (H, W, C)."""
        plain = image[..., 0] if image.shape[2] == 1 else image
        fitted = fit(luminance(plain) if self.channels == 1 else plain, self.size, self.resize)
        return fitted if fitted.ndim == 3 else fitted[..., None]


def fit(image: UInt8Array, size: tuple[int, int], how: Resize) -> UInt8Array:
    """Bring one image, (H, W) or (H, W, 3), to a height and width, antialiased (bilinear)."""
    if image.shape[:2] == size:
        return image
    ways: dict[Resize, Callable[..., Image.Image]]
    ways = {"squash": Image.Image.resize, "crop": ImageOps.fit, "pad": ImageOps.pad}
    return np.asarray(ways[how](Image.fromarray(image), size[::-1], Image.Resampling.BILINEAR))
