"""``transferkit audit`` as a gate, and ``transferkit cache``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

import transferkit as tk
from transferkit.data.disk_cache import ArrayStore

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def leaky(
    write_npz: Callable[[Path, tk.Splits], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Phantom radiographs, five of train repeated in val."""
    splits = tk.phantom_splits(
        sizes=(60, 40, 40), image_size=32, shift=0.0, duplicates={("train", "val"): 5}, seed=1
    )
    return write_npz(tmp_path_factory.mktemp("leaky") / "leaky.npz", splits)


def test_planted_duplicates_are_counted_and_shut_the_gate(
    run: Run, leaky: Path, tmp_path: Path
) -> None:
    json_file, html = tmp_path / "new" / "audit.json", tmp_path / "audit.html"
    result = run("audit", leaky, "--json", json_file, "--html", html, "--fail-on", "error")
    assert result.exit_code == 1, result.output
    report = json.loads(json_file.read_text(encoding="utf-8"))
    assert report["ok"] is False
    found = [f for f in report["findings"] if f["check"] == "exact_duplicates"]
    assert sum(f["statistic"] for f in found) == 5
    assert html.read_text(encoding="utf-8").lower().startswith("<!doctype html>")


def test_without_a_gate_findings_do_not_change_the_status(run: Run, leaky: Path) -> None:
    result = run("audit", leaky)
    assert result.exit_code == 0, result.output
    assert "duplicate" in result.output


def test_model_and_backbone_exclude_each_other(run: Run, leaky: Path) -> None:
    result = run("audit", leaky, "--model", "a.safetensors", "--backbone", "resnet18")
    assert result.exit_code == 2
    assert "not both" in result.output


def test_missing_data_are_an_error_not_a_shut_gate(run: Run, tmp_path: Path) -> None:
    assert run("audit", tmp_path / "nowhere", "--fail-on", "error").exit_code == 2


def test_cache_shows_and_clears(run: Run, tmp_path: Path) -> None:
    for folder, key in (("images", "abc"), ("boundary", "def"), (".", "ghi")):
        store = ArrayStore(tmp_path / folder, limit=10**6)
        with store.adding(key) as entry:
            entry.add((250, 4), np.float32)[:] = 1
    shown = run("cache", "--folder", tmp_path).output
    for what, key in (("decoded images", "abc"), ("activations", "def"), ("other", "ghi")):
        assert f"{what} {key}" in " ".join(shown.split())
    assert "3 entries, 0.0 MB" in shown
    assert run("cache", "--folder", tmp_path, "--clear").exit_code == 0
    assert "0 entries" in run("cache", "--folder", tmp_path).output


def test_cache_finds_what_loading_and_training_keep(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFERKIT_CACHE", str(tmp_path / "cache"))
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(5):
            picture = Image.new("L", (32, 32), color=number)
            picture.save(tmp_path / "data" / name / f"{number}.png")
    splits = tk.load_splits(tmp_path / "data", cache="disk")
    model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32)
    tk.linear_probe(model, splits, epochs=1, cache="disk", progress=False)
    shown = run("cache").output
    assert "decoded images" in shown
    assert "activations" in shown
