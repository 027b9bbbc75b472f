"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import stat
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
    fails leaves nothing behind. The file gets the permissions that ``open`` would give it.

    Raises:
        OutputError: The file cannot be written.
    """
    final = Path(path)
    if not final.name:
        raise OutputError(f"Cannot write {path!r}: that is no file name.")
    temporary = final.with_name(f".{final.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        # Some libraries write files as 0600. An empty file shows the mode that the umask wants,
        # without os.umask, which can only be read by changing it for all threads.
        temporary.touch()
        mode = stat.S_IMODE((final if final.exists() else temporary).stat().st_mode)
        yield temporary
        temporary.chmod(mode)
        # to the disk before the name and the name before the return: a crash leaves old or new
        _sync(temporary, os.O_RDWR)
        temporary.replace(final)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _sync(final.parent, os.O_RDONLY)
    except OSError as error:
        raise OutputError(
            f"Cannot write {final}: {error.strerror or error}. "
            "Choose a folder that can be written and has room."
        ) from error
    finally:
        with suppress(OSError):  # it is gone, or its folder never was one
            temporary.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write text as UTF-8, whole or not at all; names that are not valid Unicode stay readable."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return Path(path)


def _sync(path: Path, mode: int) -> None:
    number = os.open(path, mode)
    try:
        os.fsync(number)
    finally:
        os.close(number)


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
