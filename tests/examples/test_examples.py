"""What the example scripts compute by themselves; that they run is shown by running them."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import transferkit as tk

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("[!_]*.py"))


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(EXAMPLES)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in [*SCRIPTS, *(path.stem for path in EXAMPLES.glob("_*.py"))]:
        sys.modules.pop(name, None)


def test_there_is_a_script_for_each_task_and_one_for_the_reports() -> None:
    assert {name[:6] for name in SCRIPTS} >= {f"task_{letter}" for letter in "abcde"}
    assert "reproduce_reports" in SCRIPTS


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_runs_offline_and_writes_its_results(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", "--quick", "--out", tmp_path]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=300)
    assert list(tmp_path.glob("*.csv"))
    assert name == "reproduce_reports" or list(tmp_path.glob("*.png"))


@pytest.mark.slow
def test_a_script_ends_well_without_matplotlib(tmp_path: Path) -> None:
    script = EXAMPLES / "task_d_comparison.py"
    program = (
        "import runpy, sys\n"
        "sys.modules['matplotlib'] = None\n"
        f"sys.path.insert(0, {str(EXAMPLES)!r})\n"
        f"sys.argv = [{script.name!r}, '--quick', '--out', {str(tmp_path)!r}]\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')\n"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert "no figures: Figures need matplotlib" in result.stdout
    assert "Best on val" in result.stdout
    assert not list(tmp_path.glob("*.png"))


def test_the_examples_use_public_names_only() -> None:
    for path in EXAMPLES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(a.name.startswith("transferkit.") for a in node.names), path
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("transferkit"), path


def test_without_matplotlib_figures_are_left_out(
    example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw() -> dict[str, object]:
        raise tk.MissingDependencyError("Figures need matplotlib.")

    example("_common").save_figures(tmp_path, draw)
    assert "no figures: Figures need matplotlib." in capsys.readouterr().out


def test_depth_and_blocks_are_those_of_the_papers(example) -> None:
    task = example("task_a_model_selection")
    known = {
        "resnet18": (18, "2, 2, 2, 2"),
        "resnet50": (50, "3, 4, 6, 3"),
        "googlenet": (22, "2, 5, 2"),
        "mobilenet_v2": (53, "1, 2, 3, 7, 4"),  # the last four resolutions of 17 blocks
    }
    for name, (layers, blocks) in known.items():
        model = tk.create_classifier(name, 2, weights=None, image_size=64, seed=0)
        assert (task.depth(model), task.blocks(model.backbone)) == (layers, blocks)


def test_tiling_is_what_repeat_does(example) -> None:
    tiling = example("_tiling")
    grey = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)
    tiled = tiling.tiled(tk.ImageData(grey, [0, 1]))
    meant = torch.from_numpy(grey).permute(0, 3, 1, 2).repeat(1, 3, 3, 1)
    assert torch.equal(tiled.batch([0, 1]).expand(-1, 3, -1, -1), meant)


def test_the_figures_are_those_of_the_reports(example, shared_path: Path) -> None:
    """Every percentage of the tables in the reports' page is carried over, and no other."""
    page = (shared_path / "REPORTS.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and " % " in line]
    cells = [cell for line in rows for cell in line.split("|")]
    there = {float(p) for cell in cells for p in re.findall(r"([\d.]+) %", cell)}
    reported = example("_reports").REPORTED
    here = {
        round(100 * value, 4)
        for row in reported
        for name, value in row.figures.items()
        if "accuracy" in name and row.report <= 3 and "outputs" not in row.condition
        and "tiled" not in row.condition and row.condition != "images plain"
    }  # fmt: skip
    assert here == there
    assert {row.report for row in reported} == {1, 2, 3, 4, 5}


def test_conditions_change_one_thing_at_a_time(example) -> None:
    common = example("_common")
    base = tk.Strategy(name="baseline", method="fine_tune", lr=1e-3)
    plain, *others = common.conditions(base)
    assert plain == base
    for other in others:
        a, b = base.to_dict(), other.to_dict()
        assert sum(a[key] != b[key] for key in a) == 2  # its name, and one thing


def test_each_reports_row_becomes_a_strategy(example) -> None:
    script = example("reproduce_reports")
    by_name = {}
    for row in script.REPORTED:
        strategy = script.strategy_of(row)
        assert by_name.setdefault(strategy.name, strategy) == strategy
    assert by_name["fine-tune, lr 5e-4"].lr == 5e-4
    assert by_name["fixed, dropout 0.5"].method == "linear_probe"
    assert by_name["fine-tune, 10 outputs"].outputs == 10
