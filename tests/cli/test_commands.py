"""The commands as a user types them."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

import transferkit as tk
from transferkit.data import phantom

Run = Callable[..., Result]

FIGURES = ("confusion_matrix", "roc", "reliability")


@pytest.fixture(scope="session")
def train(run: Run) -> Run:
    """Train a small network without a download: data, output folder, more options."""

    def invoke(data: Path, out: Path, *more: object) -> Result:
        options = ("--backbone", "squeezenet1_1", "--weights", "none", "--image-size", 32)
        return run("train", data, *options, "--device", "cpu", "--out", out, *more)

    return invoke


@pytest.fixture(scope="module")
def trained(train: Run, data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "probe"
    result = train(data_file, out, "--epochs", 2)
    assert result.exit_code == 0, result.output
    return out


def test_list_matches_a_pattern(run: Run) -> None:
    result = run("list", "resnet1*", "--source", "torchvision")
    assert result.exit_code == 0
    assert "torchvision/resnet18" in result.output
    assert "mobilenet" not in result.output


def test_list_gives_a_table_to_choose_from(run: Run) -> None:
    options = ("--source", "torchvision", "--pretrained", "--max-params", 30, "--order", "top1")
    plain = run("list", "*net*", *options).output.splitlines()
    header, _, *lines = run("list", "*net*", *options, "--table").output.splitlines()
    assert [line.split()[0] for line in lines] == plain
    assert {"backbone", "licence", "params", "GFLOPs", "input", "top-1"} <= set(header.split())
    published = [float(line.split()[-1]) for line in lines]
    assert published == sorted(published, reverse=True)
    assert len(lines) > 20


def test_list_suggests_names_and_says_when_nothing_matches(run: Run) -> None:
    misspelt = run("list", "resnt50")
    assert misspelt.exit_code == 2
    assert "'resnet50'" in misspelt.output
    nothing = run("list", "resnt*")
    assert nothing.exit_code == 0
    assert "no backbone matches 'resnt*'" in nothing.output


def test_list_says_what_a_wider_search_would_find(run: Run) -> None:
    whole = run("list", "squeezenet")
    assert "no backbone matches 'squeezenet'; 'squeezenet*' matches 2" in whole.output
    assert "'*queezenet*' matches 2" in run("list", "queezenet").output
    small = run("list", "squeezenet*", "--max-params", 0.1)
    assert "all the options; 'squeezenet*' alone matches 2" in small.output


def test_info_shows_every_weights_tag_with_its_accuracy(run: Run) -> None:
    result = run("info", "resnet50")
    assert result.exit_code == 0
    assert "25,557,032" in result.output
    assert "4.09" in result.output
    assert "80.86 %" in result.output
    assert "IMAGENET1K_V1" in result.output


def test_info_on_an_unknown_name_suggests_and_exits_with_2(run: Run) -> None:
    result = run("info", "resnet51")
    assert result.exit_code == 2
    assert "resnet50" in result.output
    assert "Traceback" not in result.output


def test_train_writes_everything_it_promises(trained: Path) -> None:
    scores = json.loads((trained / "evaluation.json").read_text(encoding="utf-8"))
    assert set(scores) == {"val", "test"}
    assert 0 <= scores["test"]["accuracy"] <= 1
    assert np.sum(scores["test"]["confusion"]) == 24
    history = (trained / "history.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(history)))
    assert len(rows) == 2
    names = {"learning_curves", *(f"{s}_{f}" for s in ("val", "test") for f in FIGURES)}
    assert {path.stem for path in trained.glob("*.png")} == names


def test_the_saved_classifier_gives_the_reported_test_score(trained: Path, data_file: Path) -> None:
    model = tk.load_classifier(trained / "classifier.safetensors")
    again = tk.evaluate(model, tk.load_splits(data_file)["test"])
    scores = json.loads((trained / "evaluation.json").read_text(encoding="utf-8"))
    assert again.accuracy == scores["test"]["accuracy"]


def test_fine_tune_unfreezes_from_the_stage_named(
    train: Run, data_file: Path, tmp_path: Path
) -> None:
    options = ("--strategy", "fine_tune", "--unfreeze", "features.12", "--epochs", 1)
    result = train(data_file, tmp_path, *options)
    assert result.exit_code == 0, result.output


def test_an_unknown_stage_lists_the_stages(train: Run, data_file: Path, tmp_path: Path) -> None:
    result = train(data_file, tmp_path, "--strategy", "fine_tune", "--unfreeze", "layer9")
    assert result.exit_code == 2
    assert "features.12" in result.output


def test_unfreeze_with_a_linear_probe_is_a_usage_error(
    train: Run, data_file: Path, tmp_path: Path
) -> None:
    result = train(data_file, tmp_path, "--unfreeze", "features.12")
    assert result.exit_code == 2
    assert "fine_tune" in result.output


def test_predict_prints_one_csv_row_an_image(run: Run, trained: Path, tmp_path: Path) -> None:
    images = tk.phantom_splits(sizes=(4, 4, 4), image_size=32, seed=3)["test"].images
    for index, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{index}.png")
    result = run("predict", trained / "classifier.safetensors", tmp_path, "--device", "cpu")
    assert result.exit_code == 0, result.output
    rows = list(csv.reader(io.StringIO(result.output)))
    assert rows[0][:2] == ["image", "predicted"]
    assert len(rows) == 1 + 4
    assert sum(map(float, rows[1][2:])) == pytest.approx(1, abs=1e-5)


def test_a_missing_folder_is_named(train: Run, tmp_path: Path) -> None:
    result = train(tmp_path / "nowhere", tmp_path / "out")
    assert result.exit_code == 2
    assert "nowhere" in result.output


def test_an_unwritable_output_folder_is_found_before_anything_is_read(
    train: Run, tmp_path: Path
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("in the way", encoding="utf-8")
    result = train(tmp_path / "nowhere", blocker / "out")
    assert result.exit_code == 2
    assert "output folder" in result.output


@pytest.mark.slow
def test_the_demo_shows_the_gap(run: Run, tmp_path: Path) -> None:
    result = run("demo", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "gap" in result.output
    assert (tmp_path / "fine_tune" / "classifier.safetensors").is_file()


@pytest.mark.parametrize("drawn", [True, False])
def test_the_demo_promises_figures_only_where_it_draws_them(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: bool
) -> None:
    small = tk.phantom_splits(sizes=(40, 20, 20), image_size=32, seed=0)
    monkeypatch.setattr(phantom, "phantom_splits", lambda **options: small)
    monkeypatch.setattr("transferkit.cli.train.IMAGE_SIZE", 32)
    if not drawn:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        monkeypatch.setitem(sys.modules, "matplotlib.layout_engine", None)
    result = run("demo", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    last = result.output.splitlines()[-1]
    assert ("and figures are in" in last) == drawn == bool(list(tmp_path.rglob("*.png")))
    assert ("no figures: Figures need matplotlib" in result.output) != drawn
