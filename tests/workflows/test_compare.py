"""The grid: resumable, robust, and honest about the test split."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from multiprocessing import get_context
from typing import get_args

import numpy as np
import pytest
import torch

import transferkit as tk
from transferkit.metrics.evaluation import evaluate_probabilities
from transferkit.metrics.intervals import mcnemar, sign_flip_test, wilson_interval
from transferkit.workflows import compare as comparing
from transferkit.workflows.compare import run_task
from transferkit.workflows.comparison import Comparison
from transferkit.workflows.comparison_rows import Cell
from transferkit.workflows.comparison_store import CellStore, Task
from transferkit.workflows.strategies import with_outputs
from transferkit.workflows.strategy import Method

RUN = {"weights": None, "epochs": 2, "batch_size": 8, "device": "cpu", "progress": False}
THREE, BROKEN = "user/test-three", "user/test-broken"


@pytest.fixture(scope="module")
def grid(pictures, networks):
    return tk.compare(["test-three"], ["linear_probe", "fine_tune"], pictures, seeds=[0, 1], **RUN)


def scores(comparison):
    return [(c.name, c.val.accuracy, c.test.log_loss) for c in comparison.cells]


def test_every_known_strategy_runs(pictures):
    names = list(get_args(Method))
    found = tk.compare(["test-three"], names, pictures, **RUN)
    assert [cell.error for cell in found.cells] == [None] * 6
    assert [row.strategy for row in found.rows] == names
    whole = next(row for row in found.rows if row.strategy == "from_scratch").trained
    head = next(row for row in found.rows if row.strategy == "linear_probe").trained
    assert head == 16 * 2 + 2 < whole


def test_a_cell_is_what_the_workflow_gives(grid, pictures):
    model = tk.create_classifier("test-three", 2, weights=None, seed=1)
    alone = tk.linear_probe(
        model, pictures, epochs=2, batch_size=8, device="cpu", seed=1, progress=False
    )
    cell = next(c for c in grid.cells if c.name == f"{THREE}, linear_probe, seed 1")
    assert cell.test.log_loss == alone.test.log_loss
    assert cell.history.records[0].val_loss == alone.history.records[0].val_loss


def test_rows_are_means_over_seeds_with_the_courses_columns(grid):
    row = grid.rows[1]
    cells = [c for c in grid.cells if c.strategy == "fine_tune"]
    summaries = [c.history.summary() for c in cells]
    assert row.seeds == (0, 1)
    assert row.final_train_loss == pytest.approx(np.mean([s.final_train_loss for s in summaries]))
    assert row.best_val_loss == pytest.approx(np.mean([s.best_val_loss for s in summaries]))
    assert row.best_val_loss_epochs == tuple(s.best_val_loss_epoch for s in summaries)
    accuracies = [c.test.accuracy for c in cells]
    assert row.test.accuracy == pytest.approx(np.mean(accuracies))
    assert row.test.deviation == pytest.approx(np.std(accuracies, ddof=1))
    assert row.test.accuracy_interval == wilson_interval(24 * row.test.accuracy, 24)
    assert row.trained == sum(
        p.numel() for p in tk.create_classifier("test-three", 2, weights=None).parameters()
    )


def test_paired_tests_are_those_of_the_hits(grid, pictures):
    a, b = (row.name for row in grid.rows)
    hits = [np.stack([c.test.correct for c in grid.cells if f"{THREE}, {c.strategy}" == n])
            for n in (a, b)]  # fmt: skip
    assert grid.paired_test(a, b) == sign_flip_test(hits[0].mean(0), hits[1].mean(0))
    one = tk.compare(["test-three"], ["linear_probe", "fine_tune"], pictures, **RUN)
    assert one.paired_test(a, b) == mcnemar(hits[0][0], hits[1][0])
    swapped = one.paired_test(b, a)
    assert swapped.difference == -one.paired_test(a, b).difference
    assert one.paired_test(a, b, split="val").n == 24
    with pytest.raises(tk.UnknownNameError, match="linear_probe"):
        one.paired_test(a, "linear_prob")


def test_a_claim_and_its_reverse_share_the_probability(grid):
    a, b = (row.name for row in grid.rows)
    one, other = grid.claim(a, b), grid.claim(b, a)
    assert one.difference == grid.paired_test(a, b).difference == -other.difference
    assert one.false_probability + other.false_probability == pytest.approx(1)
    assert (one.images is None) == (one.difference <= 0)
    assert f"{a} is better than {b}" in str(one)
    with pytest.raises(tk.UnknownNameError, match="linear_probe"):
        grid.claim(a, "linear_prob")


def test_groups_travel_to_the_rows_and_through_the_folder(pictures, tmp_path):
    """A group of copies is one image: intervals, optimism and tests of val and test know it."""
    grouped = {}
    for name, data in pictures.items():
        groups = [str(i // 2) for i in range(len(data))]
        grouped[name] = tk.ImageData(data.images, data.labels, classes=data.classes, groups=groups)
    grid = (["test-three"], ["linear_probe", "fine_tune"], grouped)
    found = tk.compare(*grid, out=tmp_path, **RUN)
    again = tk.compare(*grid, out=tmp_path, **RUN)
    names = [row.name for row in found.rows]
    for split in ("val", "test"):
        assert "group" in found.paired_test(*names, split=split).method
        assert found.paired_test(*names, split=split) == again.paired_test(*names, split=split)
    assert again.rows[0].test == found.rows[0].test


def comparison_of(hits: np.ndarray, groups: np.ndarray | None) -> Comparison:
    """Rows a and b, whose models are right on those images (2, seeds, N), on val and on test."""
    cells = []
    for strategy, seeds in zip("ab", hits, strict=True):
        for seed, right in enumerate(seeds):
            judged = evaluate_probabilities(
                np.eye(2)[1 - right], np.zeros(len(right), int), groups=groups
            )
            cells.append(
                Cell(backbone="net", strategy=strategy, seed=seed, val=judged, test=judged)
            )
    return Comparison(cells=tuple(cells), looks=4)


def test_copies_in_a_group_narrow_nothing():
    hits = (np.random.default_rng(0).uniform(size=(2, 2, 120)) < [[[0.8]], [[0.7]]]).astype(int)
    once = comparison_of(hits, None)
    often = comparison_of(np.repeat(hits, 5, axis=2), np.repeat(np.arange(120), 5))
    free = comparison_of(np.repeat(hits, 5, axis=2), None)
    assert comparison_of(hits, np.arange(120)).rows == once.rows  # a group each is none at all

    def width(interval: tuple[float, float]) -> float:
        return interval[1] - interval[0]

    for found, factor in ((often, 1.0), (free, 5**-0.5)):
        for row, one in zip(found.rows, once.rows, strict=True):
            assert width(row.val.accuracy_interval) == pytest.approx(
                factor * width(one.val.accuracy_interval), rel=0.1
            )
        assert found.optimism == pytest.approx(factor * once.optimism, rel=0.1)
        for split in ("val", "test"):
            pair = [c.paired_test("net, a", "net, b", split=split) for c in (found, once)]
            assert width(pair[0].interval) == pytest.approx(
                factor * width(pair[1].interval), rel=0.1
            )
    probabilities = [c.claim("net, a", "net, b").false_probability for c in (often, once, free)]
    assert probabilities[0] == pytest.approx(probabilities[1], rel=0.05)
    assert probabilities[2] < probabilities[1]


def test_a_grid_goes_on_where_it_was(pictures, tmp_path, monkeypatch):
    ran = []

    def counted(task, splits):
        ran.append(task.name)
        return run_task(task, splits)

    monkeypatch.setattr(comparing, "run_task", counted)
    options = {"out": tmp_path, **RUN}
    first = tk.compare(["test-three"], ["linear_probe"], pictures, seeds=[0], **options)
    more = tk.compare(
        ["test-three"], ["linear_probe", "fine_tune"], pictures, seeds=[0, 1], **options
    )
    assert ran.count(f"{THREE}, linear_probe, seed 0") == 1
    assert len(ran) == 4
    assert scores(more)[0] == scores(first)[0]
    assert more.cells[0].history == first.cells[0].history
    # other data, another option or another seed is another cell
    tk.compare(["test-three"], ["linear_probe"], pictures, **{**options, "epochs": 3})
    other = {**pictures, "train": pictures["train"].subset(range(40))}
    tk.compare(["test-three"], ["linear_probe"], other, **options)
    assert len(ran) == 6


def test_the_looks_at_the_test_split_are_counted_over_all_runs(pictures, tmp_path):
    options = {"out": tmp_path, **RUN}
    assert tk.compare(["test-three"], ["linear_probe"], pictures, **options).looks == 1
    assert tk.compare(["test-three"], ["fine_tune"], pictures, **options).looks == 2
    again = tk.compare(["test-three"], ["linear_probe"], pictures, **options)
    assert again.looks == 2
    assert "looked at 2 times" in str(again)
    blind = {name: pictures[name] for name in ("train", "val")}
    without = tk.compare(["test-three"], ["linear_probe"], blind, **options)
    assert without.looks == 0
    assert without.optimism is None
    assert without.rows[0].test is None


def test_the_flattery_bounds_what_picking_the_best_of_equals_brings(grid):
    row = grid.rows[0]
    rng = np.random.default_rng(0)
    n, k, p = row.test.n, grid.looks, row.test.accuracy
    error = max(np.sqrt(r.test.accuracy * (1 - r.test.accuracy) / r.test.n) for r in grid.rows)
    assert grid.optimism == pytest.approx(error * np.sqrt(2 * np.log(k)))
    picked = rng.binomial(n, p, size=(4000, k)).max(axis=1) / n - p
    assert picked.mean() <= grid.optimism


def test_the_best_row_is_chosen_on_val(grid):
    assert grid.best.val.accuracy == max(row.val.accuracy for row in grid.rows)


def test_a_failing_cell_is_recorded_and_the_rest_goes_on(pictures, tmp_path):
    options = {"out": tmp_path, **RUN}
    found = tk.compare(["test-broken", "test-three"], ["linear_probe"], pictures, **options)
    bad, good = found.cells
    assert re.search(r"RuntimeError: no such luck \(conftest.py, line \d+\)", bad.error)
    assert good.error is None
    assert found.best.backbone == THREE
    assert "no such luck" in str(found)
    assert found.to_dict()["errors"] == {bad.name: bad.error}


def test_a_cell_that_failed_is_tried_again(pictures, tmp_path, monkeypatch):
    def failing(task, splits):
        return Cell(backbone=task.backbone, strategy="linear_probe", seed=0, error="no luck")

    options = {"out": tmp_path, **RUN}
    monkeypatch.setattr(comparing, "run_task", failing)
    bad = tk.compare(["test-three"], ["linear_probe"], pictures, **options)
    assert (bad.cells[0].error, bad.looks) == ("no luck", 0)
    monkeypatch.undo()
    good = tk.compare(["test-three"], ["linear_probe"], pictures, **options)
    assert (good.cells[0].error, good.looks) == (None, 1)


def test_ctrl_c_leaves_the_table_of_what_is_done(pictures, tmp_path, monkeypatch):
    def interrupted(task, splits):
        if task.seed == 1:
            raise KeyboardInterrupt
        return run_task(task, splits)

    monkeypatch.setattr(comparing, "run_task", interrupted)
    found = tk.compare(
        ["test-three"], ["linear_probe"], pictures, seeds=[0, 1, 2], out=tmp_path, **RUN
    )
    assert found.interrupted
    assert [cell.seed for cell in found.cells] == [0]
    assert len(found.pending) == 2
    assert "2 cells were not run" in (tmp_path / "comparison.txt").read_text()
    monkeypatch.undo()
    whole = tk.compare(
        ["test-three"], ["linear_probe"], pictures, seeds=[0, 1, 2], out=tmp_path, **RUN
    )
    assert not whole.interrupted
    assert len(whole.cells) == 3


def test_two_runs_on_one_folder_do_no_harm(pictures, tmp_path, grid):
    def job(_):
        return tk.compare(
            ["test-three"], ["linear_probe"], pictures, seeds=[0, 1], out=tmp_path, **RUN
        )

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(job, range(3)))
    assert all(len(one.cells) == 2 for one in found)
    assert len(list((tmp_path / "cells").iterdir())) == 2
    again = job(0)
    assert [c.error for c in again.cells] == [None, None]


def test_a_damaged_cell_is_computed_again(pictures, tmp_path):
    options = {"out": tmp_path, **RUN}
    first = tk.compare(["test-three"], ["linear_probe"], pictures, **options)
    (path,) = (tmp_path / "cells").iterdir()
    for content in (b"", path.read_bytes()[:200], b"no archive"):
        path.write_bytes(content)
        again = tk.compare(["test-three"], ["linear_probe"], pictures, **options)
        assert scores(again) == scores(first)
        assert again.looks == 1


def test_processes_give_what_one_gives(grid, pictures):
    context = get_context("fork")  # so that the test's own backbone is known there
    state = torch.get_rng_state()
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        found = tk.compare(
            ["test-three"], ["linear_probe", "fine_tune"], pictures, seeds=[0, 1],
            executor=pool, **RUN,
        )  # fmt: skip
    assert scores(found) == scores(grid)
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_finish_the_grid_and_keep_the_order(grid, pictures):
    state = torch.get_rng_state()
    with ThreadPoolExecutor(2) as pool:
        found = tk.compare(
            ["test-three"], ["linear_probe", "fine_tune"], pictures, seeds=[0, 1],
            executor=pool, **RUN,
        )  # fmt: skip
    assert [c.name for c in found.cells] == [c.name for c in grid.cells]
    assert [c.error for c in found.cells] == [None] * 4
    assert torch.equal(torch.get_rng_state(), state)


def test_a_dask_cluster_runs_the_grid(pictures):
    distributed = pytest.importorskip("dask.distributed", reason="dask.distributed is optional")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = tk.compare(
            ["test-three"], ["linear_probe"], pictures, executor=client.get_executor(), **RUN
        )
    assert [cell.error for cell in found.cells] == [None]


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.rows, self.text = 0, ""

    def handle_starttag(self, tag, attrs):
        self.rows += tag == "tr"

    def handle_data(self, data):
        self.text += data


def test_the_forms_of_the_table(grid, tmp_path):
    paths = grid.save(tmp_path)
    assert {path.suffix for path in paths} == {".txt", ".csv", ".md", ".html", ".json"}
    rows = list(csv.DictReader(io.StringIO(grid.to_csv())))
    assert [row["strategy"] for row in rows] == ["linear_probe", "fine_tune"]
    assert float(rows[0]["test_accuracy"]) == grid.rows[0].test.accuracy
    table, *_ = grid.to_markdown().split("\n\n")
    assert len({line.count("|") for line in table.splitlines()}) == 1
    page = Tags()
    page.feed(grid.to_html())
    assert page.rows == 3 + 2
    assert "fine_tune" in page.text
    data = json.loads((tmp_path / "comparison.json").read_text())
    assert data["test_looks"] == 4
    for word in ("best val loss (epoch)", "test acc [95 %]", "trained", "McNemar", "paired"):
        assert word in str(grid) or word == "McNemar"


def test_names_are_escaped_in_html(pictures):
    evil = tk.Strategy(name="<script>|x", method="linear_probe")
    found = tk.compare(["test-three"], [evil], pictures, **RUN)
    assert "<script>" not in found.to_html()
    assert r"&lt;script&gt;\|x" in found.to_markdown()


def test_the_figures_take_a_comparison(grid, tmp_path):
    both = {n: {"val": s, "test": grid.scores("test")[n]} for n, s in grid.scores("val").items()}
    tk.plots.save(tk.plots.accuracy_intervals(both), tmp_path / "a.png")
    tk.plots.save(tk.plots.accuracy_vs_time(grid.scores(), grid.seconds()), tmp_path / "b.png")
    tk.plots.save(tk.plots.learning_curves(grid.histories()), tmp_path / "c.png")
    assert len(list(tmp_path.iterdir())) == 3


def test_more_outputs_than_classes(pictures):
    wide = with_outputs(pictures, 6)
    assert wide.num_classes == 6
    assert wide["train"].labels.max() == 1
    six = tk.Strategy(name="six", method="linear_probe", outputs=6)
    cell = tk.compare(["test-three"], [six], pictures, **RUN).cells[0]
    assert cell.error is None
    assert cell.test.confusion.shape == (6, 6)
    with pytest.raises(tk.ConfigError, match="2 or more"):
        with_outputs(pictures, 1)


@pytest.mark.parametrize(
    ("backbones", "strategies", "options", "error", "says"),
    [
        (["test-three"], ["fine_tuning"], {}, tk.UnknownNameError, "linear_probe, fine_tune, lp"),
        (["test-tree"], ["fine_tune"], {}, tk.UnknownNameError, "test-three"),
        ([], ["fine_tune"], {}, tk.ConfigError, "backbones"),
        ("test-three", ["fine_tune"], {}, tk.ConfigError, "list"),
        (["test-three"], [], {}, tk.ConfigError, "strategies"),
        (["test-three"], ["fine_tune"], {"seeds": []}, tk.ConfigError, "seeds"),
        (["test-three"], ["fine_tune"] * 2, {}, tk.ConfigError, "name of its own"),
        (["test-three"], ["fine_tune"], {"weights": {"x": None}}, tk.UnknownNameError, "'x'"),
    ],
)
def test_bad_input(pictures, backbones, strategies, options, error, says):
    with pytest.raises(error, match=says):
        tk.compare(backbones, strategies, pictures, **{**RUN, **options})


def test_an_unwritable_folder_shows_before_training(pictures, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(tk.OutputError, match="file"):
        tk.compare(["test-three"], ["fine_tune"], pictures, out=tmp_path / "file", **RUN)


def test_an_unknown_method_in_a_strategy():
    with pytest.raises(tk.UnknownNameError, match="gradual_unfreeze"):
        tk.Strategy(name="mine", method="gradual")


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"epochs": 0}, {"outputs": -1}])
def test_a_strategy_with_options_that_cannot_be(bad):
    with pytest.raises(tk.ConfigError, match=r"(lr|epochs|outputs) of .mine. must be"):
        tk.Strategy(name="mine", method="fine_tune", **bad)


def test_ctrl_c_in_another_process_is_no_failed_cell(pictures):
    class Interrupted(ThreadPoolExecutor):
        def submit(self, function, *args):
            def stop():
                raise KeyboardInterrupt

            return super().submit(stop)

    with Interrupted(1) as pool:
        found = tk.compare(["test-three"], ["linear_probe"], pictures, executor=pool, **RUN)
    assert found.interrupted
    assert found.cells == ()


def test_options_go_to_every_strategy_and_its_own_come_first(pictures):
    slow = tk.Strategy("fine_tune", name="slow", options={"optimizer": "sgd"})
    small = tk.Strategy("fine_tune", name="small", options={"batch_size": 4})
    found = tk.compare(["test-three"], [slow, small], pictures, **RUN | {"optimizer": "adam"})
    models = [tk.create_classifier("test-three", 2, weights=None, seed=0) for _ in range(2)]
    quiet = {"epochs": 2, "device": "cpu", "progress": False}
    sgd = tk.fine_tune(models[0], pictures, batch_size=8, optimizer="sgd", **quiet)
    adam = tk.fine_tune(models[1], pictures, batch_size=4, optimizer="adam", **quiet)
    assert [c.val.log_loss for c in found.cells] == [sgd.val.log_loss, adam.val.log_loss]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"batchsize": 4}, tk.UnknownNameError, "batch_size"),
        ({"seed": 3}, tk.ConfigError, "seeds"),
        ({"batch_size": 0}, tk.ConfigError, "batch_size"),
        ({"lr": 1e-3}, tk.UnknownNameError, "lr"),
    ],
)
def test_options_that_cannot_be(pictures, options, error, says):
    with pytest.raises(error, match=says):
        tk.compare(["test-three"], ["fine_tune"], pictures, **RUN | options)
    if "seed" in options:
        seeded = tk.Strategy("fine_tune", options=options)
        with pytest.raises(error, match=says):
            tk.compare(["test-three"], [seeded], pictures, **RUN)


def brighter(images):
    return images


def test_a_cell_that_one_process_wrote_is_read_by_the_next(tmp_path, monkeypatch):
    """The key holds the whole recipe, and nothing that changes from process to process."""
    program = """
import sys, numpy as np, transferkit as tk
def split(n, seed):
    images = np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3)).astype(np.uint8)
    return tk.ImageData(images, np.arange(n) % 2, classes=("a", "b"))
splits = {"train": split(12, 0), "val": split(8, 1), "test": split(8, 2)}
recipe = tk.Strategy("linear_probe", name="mine", lr=0.02, dropout=0.1, options={
    "augment": tk.Augment(), "class_weights": [1.0, 2.0], "warmup": 0.1})
found = tk.compare(["formula_resnet18"], [recipe], splits, seeds=[3], epochs=1, image_size=32,
                   weight_decay=0.01, out=sys.argv[1], cache="memory", device="cpu")
print(found.cells[0].val.log_loss)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    first, second = (subprocess.run(command, capture_output=True, text=True) for _ in range(2))
    assert first.stderr.startswith("1/1"), first.stderr
    assert (second.stdout, second.stderr) == (first.stdout, "")
    assert len(list((tmp_path / "cells").iterdir())) == 1


def test_a_stored_cell_is_keyed_by_the_whole_strategy(pictures, tmp_path):
    base = tk.Strategy("lp_ft", name="mine")
    changes = [{"lr": 0.5}, {"probe_lr": 0.5}, {"probe_epochs": 3}, {"upto": "last"},
               {"dropout": 0.1}, {"outputs": 3}, {"epochs": 3},
               {"options": {"optimizer": "sgd"}}, {"options": {"augment": brighter}}]  # fmt: skip
    store = CellStore(tmp_path, pictures, [])
    paths = {
        store._path(Task(backbone=THREE, strategy=s, seed=0, weights=None, image_size=None))
        for s in [base, *(replace(base, **change) for change in changes)]
    }
    assert len(paths) == len(changes) + 1
    same = replace(base, options={"device": "cpu", "progress": False, "cache": None})
    task = Task(backbone=THREE, strategy=same, seed=0, weights=None, image_size=None)
    assert store._path(task) in paths


def test_a_function_without_a_name_is_no_key_of_a_stored_cell(pictures, tmp_path):
    options = {**RUN, "augment": lambda images: images}
    with pytest.raises(tk.ConfigError, match="augment of 'fine_tune'"):
        tk.compare(["test-three"], ["fine_tune"], pictures, out=tmp_path, **options)
    assert tk.compare(["test-three"], ["fine_tune"], pictures, **options).cells[0].error is None
