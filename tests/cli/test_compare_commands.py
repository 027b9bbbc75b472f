from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import transferkit as tk
from transferkit.cli.compare import seed_list, weights_by_name
from transferkit.workflows import compare as comparing

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def compare(run: Run) -> Run:
    """Compare two strategies on a small network: data, output folder, more options."""

    def invoke(data: Path, out: Path, *more: object) -> Result:
        options = ("--backbones", "squeezenet1_1", "--weights", "none", "--image-size", 32)
        place = ("--device", "cpu", "--out", out)
        return run("compare", data, *options, "--epochs", 1, *place, *more)

    return invoke


def test_compare_writes_tables_and_figures(compare: Run, data_file: Path, tmp_path: Path) -> None:
    result = compare(data_file, tmp_path, "--seeds", "0,1")
    assert result.exit_code == 0, result.output
    for word in ("linear_probe", "fine_tune", "paired permutation", "looked at 4 times"):
        assert word in result.output
    names = {path.name for path in tmp_path.iterdir()}
    tables = {f"comparison.{form}" for form in ("txt", "csv", "md", "html", "json")}
    figures = {"accuracy.png", "accuracy_vs_time.png", "learning_curves.png"}
    assert tables | figures | {"cells"} == names


def test_compare_lists_the_known_strategies(compare: Run, data_file: Path, tmp_path: Path) -> None:
    result = compare(data_file, tmp_path / "out", "--strategies", "fine_tuning")
    assert result.exit_code == 2
    assert "gradual_unfreeze" in result.output
    assert not (tmp_path / "out").exists()


def test_ctrl_c_shows_what_is_done(
    compare: Run, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(task: object, splits: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "run_task", interrupted)
    result = compare(data_file, tmp_path)
    assert result.exit_code == 130
    assert "2 cells were not run" in result.output


def test_rank_prints_and_writes(run: Run, data_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "ranking.json"
    result = run(
        "rank", data_file, "--backbones", "squeezenet1_1", "--weights", "none",
        "--image-size", 32, "--by", "logme", "--json", file,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "images/s" in result.output
    assert json.loads(file.read_text())["by"] == "logme"


def test_weights_for_all_or_by_name() -> None:
    assert weights_by_name(()) == "default"
    assert weights_by_name(("none",)) is None
    assert weights_by_name(("a=x.pth", "b=none")) == {"a": "x.pth", "b": None}
    for bad in (("x", "y"), ("a=x", "y")):
        with pytest.raises(tk.ConfigError, match="--weights"):
            weights_by_name(bad)
    with pytest.raises(tk.ConfigError, match="--seeds"):
        seed_list("0,x")
