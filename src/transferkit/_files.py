"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transferkit.errors import OutputError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to, beside ``path``; move it there if the block ends well.

    Another process sees the old file or the new one, never a half-written one, and a block that
    fails leaves nothing behind.

    Args:
        path: The file to make or replace; its folder must exist.

    Raises:
        OutputError: The file cannot be written.
    """
    final = Path(path)
    if not final.name:
        raise OutputError(f"Cannot write {path!r}: that is no file name.")
    draft = final.with_name(f".{final.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        yield draft
        draft.replace(final)
    except OSError as error:
        raise OutputError(
            f"Cannot write {final}: {error.strerror or error}. "
            "Choose a folder that can be written and has room."
        ) from error
    finally:
        with suppress(OSError):  # it is gone, or its folder never was one
            draft.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder and see that it can be written, before the work whose results it will hold."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"Cannot write into the output folder {folder}: {error.strerror}. "
            "Choose another one, or make it writable."
        ) from error
