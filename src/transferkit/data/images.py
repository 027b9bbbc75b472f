"""Image files by path, without labels: what a trained classifier is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transferkit._typing import UInt8Array
from transferkit.data.dataset import ImageData
from transferkit.data.decode import decode, fit
from transferkit.data.folder import image_files
from transferkit.errors import DataError


def load_images(paths: Sequence[Path], *, image_size: tuple[int, int]) -> ImageData:
    """Read image files, and all those in folders, without labels.

    Args:
        paths: Files, or folders that are searched for images.
        image_size: Height and width that images of unequal sizes are brought to.

    Raises:
        DataError: A path is absent, a folder holds no image, or a file cannot be read.
    """
    files = [file for path in paths for file in expand(path)]
    images = [read(file) for file in files]
    sizes = [image.shape[:2] for image in images]
    if len(set(sizes)) > 1:
        images = [fit(image, image_size, "squash") for image in images]
    if any(image.ndim == 3 for image in images):
        images = [image if image.ndim == 3 else np.stack([image] * 3, -1) for image in images]
    return ImageData(np.stack(images), names=[str(file) for file in files], sizes=sizes)


def expand(path: Path) -> list[Path]:
    """Return the images below a folder, or the file itself."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"There is no file or folder {path}.")
    files = image_files(path)
    if not files:
        raise DataError(f"The folder {path} holds no image.")
    return files


def read(path: Path) -> UInt8Array:
    """Decode one file; the error names it."""
    try:
        return decode(path)
    except DataError as error:
        raise DataError(f"Cannot read the image {path}: {error}.") from error
