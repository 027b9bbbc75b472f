"""The commands as a user types them, and data to type them on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import transferkit as tk
from transferkit.cli import main


@pytest.fixture(scope="session")
def run() -> Callable[..., Result]:
    """Run ``transferkit`` with arguments of any type."""

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture(scope="session")
def write_npz() -> Callable[[Path, Mapping[str, tk.ImageData]], Path]:
    """Write grey splits in the layout of MedMNIST."""

    def write(path: Path, splits: Mapping[str, tk.ImageData]) -> Path:
        arrays = {}
        for name, data in splits.items():
            arrays[f"{name}_images"] = data.images[..., 0]
            arrays[f"{name}_labels"] = data.require_labels("a test")[:, None]
        np.savez(path, **arrays)
        return path

    return write


@pytest.fixture(scope="session")
def data_file(
    write_npz: Callable[[Path, Mapping[str, tk.ImageData]], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Small phantom radiographs in the layout of MedMNIST."""
    splits = tk.phantom_splits(sizes=(48, 24, 24), image_size=32, seed=0)
    return write_npz(tmp_path_factory.mktemp("data") / "phantom.npz", splits)
