"""``transferkit audit`` as a gate, and ``transferkit cache``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import transferkit as tk
from transferkit.cli import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write_npz(path: Path, *, duplicates: int) -> Path:
    """Phantom radiographs, some of train's repeated in val, in the layout of MedMNIST."""
    splits = tk.phantom_splits(
        sizes=(60, 40, 40),
        image_size=32,
        shift=0.0,
        duplicates={("train", "val"): duplicates},
        seed=1,
    )
    arrays = {}
    for name, data in splits.items():
        arrays[f"{name}_images"] = data.images[..., 0]
        arrays[f"{name}_labels"] = data.require_labels("a test")[:, None]
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("leaky") / "leaky.npz", duplicates=5)


def test_planted_duplicates_are_counted_and_shut_the_gate(leaky: Path, tmp_path: Path) -> None:
    json_file, html = tmp_path / "new" / "audit.json", tmp_path / "audit.html"
    result = run("audit", leaky, "--json", json_file, "--html", html, "--fail-on", "error")
    assert result.exit_code == 1, result.output
    report = json.loads(json_file.read_text(encoding="utf-8"))
    assert report["ok"] is False
    found = [f for f in report["findings"] if f["check"] == "exact_duplicates"]
    assert sum(f["statistic"] for f in found) == 5
    assert html.read_text(encoding="utf-8").lower().startswith("<!doctype html>")


def test_without_a_gate_findings_do_not_change_the_status(leaky: Path) -> None:
    result = run("audit", leaky)
    assert result.exit_code == 0, result.output
    assert "duplicate" in result.output


def test_model_and_backbone_exclude_each_other(leaky: Path) -> None:
    result = run("audit", leaky, "--model", "a.safetensors", "--backbone", "resnet18")
    assert result.exit_code == 2
    assert "not both" in result.output


def test_missing_data_are_an_error_not_a_shut_gate(tmp_path: Path) -> None:
    assert run("audit", tmp_path / "nowhere", "--fail-on", "error").exit_code == 2


def test_cache_shows_and_clears(tmp_path: Path) -> None:
    from transferkit.data.arraystore import ArrayStore

    with ArrayStore(tmp_path, limit=10**6).writing("abc", [((250, 4), np.float32)]) as (array,):
        array[:] = 1
    shown = run("cache", "--folder", tmp_path)
    assert "1 entries, 0.0 MB" in shown.output
    assert "abc" in shown.output
    assert run("cache", "--folder", tmp_path, "--clear").exit_code == 0
    assert "0 entries" in run("cache", "--folder", tmp_path).output
