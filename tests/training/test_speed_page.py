"""The page on speed says what the file of figures says, and the figures what the rounds say."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

import transferkit as tk

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
if not (FOLDER / "run.py").is_file():
    pytest.skip("the benchmarks are not here", allow_module_level=True)
sys.path.append(str(FOLDER))
figures, material, page, plan, rows, task, ours = map(
    import_module,
    (
        *("speed.figures", "speed.material", "speed.page", "speed.plan", "speed.rows"),
        *("speed.task", "speed.sides.ours"),
    ),
)
sys.path.remove(str(FOLDER))

FIRST = rows.Row(
    *("fine-tune all", "resnet18", 128, 320, 1, "loop", 1, "seconds", "6"),
    *("torch 2", "a machine", "2026-01-01", "python benchmarks/run.py"),
)


def some() -> list[object]:
    """Two rounds of loop and ours, and a peer that could not take part."""
    made = [
        replace(FIRST, side=side, round=number, measure=measure, value=str(value))
        for side, both in (("loop", (6, 9)), ("ours", (3, 3)))
        for number, seconds in enumerate(both, 1)
        for measure, value in (("seconds", seconds), ("peak MB", 300 - 50 * seconds))
    ]
    made += [replace(row, measure="start MB", value="100") for row in made[::2]]
    return [*made, replace(FIRST, side="keras", round=0, measure="failed", value="no such network")]


def test_ratios_are_of_the_same_round() -> None:
    (group,) = figures.groups_of(some(), "fine-tune all")
    assert str(group.ratio("loop", "ours")) == "2.50 (2.00 to 3.00)"
    text = page.tables(some())
    assert "| fine-tune all | resnet18 | 128 | 320 | 7.50 | 3.00 | 2.50 (2.00 to 3.00) |" in text
    assert "could not take part: no such network" in text


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows.write(some(), tmp_path / "speed.csv")
    assert rows.read(tmp_path / "speed.csv") == some()
    assert rows.read(tmp_path / "none.csv") == []


def test_the_page_and_the_figure_are_made_from_the_file(tmp_path: Path) -> None:
    rows.write(some(), tmp_path / "speed.csv")
    made, drawn = tmp_path / "speed.md", tmp_path / "speed.svg"
    made.write_text(f"before {page.START_MARK} old {page.END_MARK} after", "utf-8")
    page.write_page(tmp_path / "speed.csv", made, drawn)
    text = made.read_text("utf-8")
    assert text.startswith("before ")
    assert text.endswith(" after")
    assert page.tables(some()) in text
    assert drawn.stat().st_size < 100_000


def test_the_page_says_what_the_file_says() -> None:
    text = page.PAGE.read_text("utf-8")
    between = text.partition(page.START_MARK)[2].partition(page.END_MARK)[0].strip()
    assert between == page.tables(rows.read(rows.RESULTS))


@pytest.mark.parametrize("work", ["fine-tune all", "fixed features", "last stage"])
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2"])
def test_both_sides_train_the_same(work: str, backbone: str) -> None:
    given = task.Task(work, backbone, 32, 8, 1)
    theirs = sum(p.numel() for p in material.learning(material.network(given)))
    assert theirs == tk.summary(ours.classifier(given)).trainable
    images, _ = material.datasets(given)[0].tensors
    mine = ours.data(32, 8, 0).batch(range(8))
    assert torch.equal(mine.expand(-1, 3, -1, -1) / 255, images)


def test_peers_take_part_where_the_plan_says() -> None:
    options = {"rounds": None, "images": None, "epochs": None, "threads": 2}
    chosen = plan.cases(
        works=task.COMPARED,
        backbones=("resnet18",),
        pixels=(128, 256),
        sides=("ours", "loop", "peak", "keras"),
        widely=False,
        **options,
    )
    found = {(case.task.work, case.task.pixels) for case in chosen if "keras" in case.sides}
    assert found == {("fine-tune all", 128), ("fixed features", 128)}
