"""An environment for each peer, below ``benchmarks/.envs``, which git does not look at.

An environment sees the packages of the Python that makes it (torch among them) after its own, so
that all sides run on one torch where a peer's pins allow it.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / ".envs"
PACKAGES = {
    "accelerate": ("accelerate",),
    "skorch": ("skorch",),
    "fastai": ("fastai",),
    "lightning": ("lightning",),
    "huggingface": ("transformers", "accelerate"),
    "keras": ("keras",),
}
BUILT_IN = ("ours", "loop", "peak", "overhead", "growth")
"""Sides that need nothing but the Python that runs the harness."""


def python_of(side: str) -> str:
    """The Python that runs a side."""
    name = side.partition("_")[0]
    return str(FOLDER / name / "bin" / "python") if name in PACKAGES else sys.executable


def trouble_of(side: str) -> str | None:
    """Why a side cannot run here; None if it can."""
    if Path(python_of(side)).exists():
        return None
    name = side.partition("_")[0]
    note = FOLDER / f"{name}.failed"
    return note.read_text("utf-8") if note.exists() else "no environment"


def make(name: str) -> str | None:
    """Make one environment; return why that fails, which later tables then say too."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n", "utf-8")
    place, note = FOLDER / name, FOLDER / f"{name}.failed"
    note.unlink(missing_ok=True)
    venv.create(place, clear=True, with_pip=False, symlinks=True)
    inside = sysconfig.get_path("purelib", "venv", {"base": str(place), "platbase": str(place)})
    (Path(inside) / "zz_shared.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    command = [str(place / "bin" / "python"), "-m", "pip", "install", "-q", *PACKAGES[name]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    (place / "bin" / "python").unlink()
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    note.write_text(lines[-1] if lines else "does not install", "utf-8")
    return note.read_text("utf-8")
