"""What to say to a caller who gives something else than images or splits."""

from __future__ import annotations

import os
from collections.abc import Mapping

from transferkit.data.arrays import TensorLike
from transferkit.errors import DataError


def no_images(what: str, value: object) -> DataError:
    """Build the error for ``value`` in the place of images.

    Args:
        what: What was wanted, to begin the sentence with: ``"The train split"``.
        value: What came.
    """
    return DataError(f"{what} must be an ImageData, got {described(value)}. {_instead(value)}")


def no_splits(value: object) -> DataError:
    """Build the error for ``value`` in the place of splits."""
    if isinstance(value, str | os.PathLike):
        hint = f"Load the folder or file first: tk.load_splits({os.fspath(value)!r})."
    else:
        hint = 'Give a mapping from names to images: {"train": ..., "val": ..., "test": ...}.'
    return DataError(f"Expected splits, got {described(value)}. {hint}")


def described(value: object) -> str:
    """Say in a few words what a value is."""
    if value is None:
        return "None"
    if isinstance(value, str | os.PathLike):
        return f"the path {os.fspath(value)!r}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value).__name__
    shape = getattr(value, "shape", None)
    return f"a value of type {kind}" + (f" and shape {tuple(shape)}" if shape is not None else "")


def _instead(value: object) -> str:
    """Say how to make images of a value."""
    if isinstance(value, str | os.PathLike):
        return f"Load it first: tk.load_splits({os.fspath(value)!r}), and give one of the splits."
    if isinstance(value, Mapping):
        named = ", ".join(map(repr, value)) or "none"
        return f'Give one of its parts, such as splits["train"]; it has {named}.'
    if isinstance(value, TensorLike) or hasattr(value, "__array__"):
        return "Put pixels and class numbers together: tk.ImageData(images, labels)."
    return "Make one of arrays, tk.ImageData(images, labels), or of files, tk.load_splits(path)."
