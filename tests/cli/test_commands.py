"""The commands as a user types them."""

from __future__ import annotations

import csv
import io
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import Result
from PIL import Image

import transferkit as tk
from transferkit.cli import main
from transferkit.cli.app import in_shell
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


def test_predict_reads_as_training_did_and_writes_a_file(
    train: Run, run: Run, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for row in range(40):
        split, title = ("train", "test")[row % 2], "ab"[row // 2 % 2]
        folder = tmp_path / "data" / split / title
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (30 + row, 70 - row)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
    result = train(tmp_path / "data", tmp_path / "out", "--resize", "pad", "--epochs", 1)
    assert result.exit_code == 0, result.output
    model, table = tmp_path / "out" / "classifier.safetensors", tmp_path / "new" / "table.csv"
    images = str(tmp_path / "data" / "test" / "*" / "*.png")
    assert run("predict", model, images, "--out", table).exit_code == 0
    rows = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8")))
    found = {row["image"]: float(row["p_a"]) for row in rows}
    test = tk.load_splits(tmp_path / "data", resize="pad")["test"]
    wanted = tk.predict(tk.load_classifier(model), test).probabilities[:, 0]
    assert len(found) == len(test)
    for name, probability in zip(test.names, wanted, strict=True):
        assert found[str(tmp_path / "data" / name)] == pytest.approx(probability, abs=1e-5)


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


@pytest.fixture(scope="session")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and test, five images of each patient, and no val."""
    root = tmp_path_factory.mktemp("patients")
    data = tk.phantom_splits(sizes=(100, 10, 20), image_size=32, seed=0)
    for split in ("train", "test"):
        for row, (image, label) in enumerate(
            zip(data[split].images, data[split].labels, strict=True)
        ):
            folder = root / split / data.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            name = f"p{data.classes[label][0]}{split}{row // 10}_{row}.png"
            Image.fromarray(image[..., 0]).save(folder / name)
    return root


@pytest.mark.parametrize("command", ["train", "compare", "rank", "audit"])
def test_a_val_split_that_is_made_keeps_patients_whole(
    run: Run, patients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    seen: list[tk.Splits] = []

    def stopped(*arguments: object, **options: object) -> None:
        seen.extend(a for a in arguments if isinstance(a, tk.Splits))
        raise tk.DataError("Stop here.")

    modules = {"train": "strategies.run", "compare": "compare.compare"}
    modules |= {"rank": "rank.rank_backbones", "audit": "audit.audit_splits"}
    monkeypatch.setattr(f"transferkit.workflows.{modules[command]}", stopped)
    more: dict[str, tuple[object, ...]] = {
        "train": ("--backbone", "squeezenet1_1", "--weights", "none", "--out", tmp_path / "out"),
        "compare": ("--backbones", "squeezenet1_1", "--out", tmp_path / "out"),
        "rank": ("--backbones", "squeezenet1_1"),
        "audit": (),
    }
    for options, torn in (((), True), (("--groups", r"p[a-z]+\d+"), False)):
        run(command, patients, *more[command], *options, "--val-share", 0.3)
        splits = seen.pop()
        owners = [
            {name.split("/")[-1].split("_")[0] for name in splits[s].names}
            for s in ("train", "val")
        ]
        assert bool(owners[0] & owners[1]) == torn
        assert len(splits["val"]) == pytest.approx(30, abs=5)
    assert not (tmp_path / "out").exists()


def test_labels_may_stand_in_a_table(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tk.Splits] = []

    def stopped(splits: tk.Splits, **options: object) -> None:
        seen.append(splits)
        raise tk.DataError("Stop here.")

    monkeypatch.setattr("transferkit.workflows.audit.audit_splits", stopped)
    lines = ["file,finding"]
    for row in range(20):
        pixels = np.full((16, 16), 200 * row, np.uint16)  # up to 3800
        Image.fromarray(pixels).save(tmp_path / f"{row}.png")
        lines.append(f"{row}.png,{('sick', 'well')[row % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which columns were read
        run("audit", tmp_path, "--labels", "labels.csv", "--bits", 16, "--val-share", 0.25)
    (splits,) = seen
    assert splits.classes == ("sick", "well")
    assert splits.bits == 16
    assert len(splits["val"]) == len(splits["test"]) == 5


def test_audit_by_groups_finds_no_straddling_patient(run: Run, patients: Path, tmp_path: Path):
    file = tmp_path / "audit.json"
    result = run("audit", patients, "--groups", r"p[a-z]+\d+", "--json", file)
    assert result.exit_code == 0, result.output
    checks = {f["check"]: f for f in json.loads(file.read_text(encoding="utf-8"))["findings"]}
    assert not any("group" in check and f["severity"] == "error" for check, f in checks.items())


def test_a_failed_run_leaves_no_folder_and_reads_no_image(train: Run, run: Run, tmp_path: Path):
    misspelt = run("train", tmp_path / "nowhere", "--backbone", "resnt18", "--out", tmp_path / "a")
    assert misspelt.exit_code == 2
    assert "'resnet18'" in misspelt.output  # not that the data are missing
    assert train(tmp_path / "nowhere", tmp_path / "b").exit_code == 2
    (tmp_path / "c").mkdir()
    assert train(tmp_path / "nowhere", tmp_path / "c").exit_code == 2
    assert {path.name for path in tmp_path.iterdir()} == {"c"}


def test_messages_name_the_options_of_the_command(train: Run, data_file: Path, tmp_path: Path):
    steps = ("--strategy", "gradual_unfreeze", "--steps", 3, "--epochs", 1)
    assert "got --steps 3 and --epochs 1" in train(data_file, tmp_path, *steps).output
    context = click.Context(main, info_name="transferkit")
    context.invoked_subcommand = "train"
    assert in_shell(context, "With on_error='skip' they go.") == "With --skip-broken they go."
    offline = "Pass weights='a/B.pth' (or .pth), weights=None, or f(..., weights=None)."
    said = "Pass --weights a/B.pth (or .pth), --weights none, or f(..., weights=None)."
    assert in_shell(context, offline) == said


def test_warnings_are_plain_lines(
    train: Run, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warned(*arguments: object) -> None:
        warnings.warn("Train with class_weights='balanced'.", stacklevel=1)
        raise tk.DataError("Stop here.")

    monkeypatch.setattr("transferkit.workflows.strategies.run", warned)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        output = train(data_file, tmp_path).output
    assert "Warning: Train with --class-weights balanced.\n" in output
