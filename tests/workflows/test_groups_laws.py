"""Copies of an image in the same group are no more evidence: no interval gets narrower by them."""

from __future__ import annotations

import numpy as np
import pytest

import transferkit as tk
from transferkit.data.image_data import ImageData
from transferkit.workflows.comparison import Comparison
from transferkit.workflows.comparison_rows import Cell


def copied(data, times):
    """Every image so many times, its copies in one group."""
    rows = np.repeat(np.arange(len(data)), times)
    return ImageData(
        data.images[rows],
        data.labels[rows],
        classes=data.classes,
        names=[f"{row}-{place}.png" for place, row in enumerate(rows)],
        groups=[f"patient {id(data)} {row}" for row in rows],
    )


def widths(result, names):
    return np.array([np.ptp(getattr(result, name)) for name in names])


@pytest.fixture(scope="module")
def splits():
    return tk.phantom_splits(sizes=(120, 60, 80), image_size=32, seed=0)


@pytest.fixture(scope="module")
def models(splits):
    built = [
        tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, seed=seed)
        for seed in (0, 1)
    ]
    tk.linear_probe(built[0], splits, solver="lbfgs", progress=False)
    tk.linear_probe(built[1], splits, epochs=1, lr=1e-3, progress=False)
    return built


def test_evaluate(splits, models):
    names = ("accuracy_interval", "auroc_interval", "average_precision_interval")
    once, often = (tk.evaluate(models[1], copied(splits["test"], n)) for n in (1, 4))
    assert (widths(often, names) >= 0.999 * widths(once, names)).all()
    for one, other in zip(once.per_class, often.per_class, strict=True):
        for name in ("recall_interval", "specificity_interval"):
            assert widths(other, [name]) >= 0.999 * widths(one, [name])
    assert "320 images of 80 groups" in str(often)
    predicted = tk.predict(models[1], copied(splits["test"], 4)).evaluation()
    assert predicted.accuracy_interval == often.accuracy_interval


@pytest.mark.parametrize("split", ["val", "test"])
def test_comparisons(splits, models, split):
    found = []
    for times in (1, 4):
        part = copied(splits[split], times)
        cells = tuple(
            Cell(backbone=name, strategy="s", seed=0, val=scores, test=scores, trained=1)
            for name, scores in (
                ("a", tk.evaluate(models[0], part)),
                ("b", tk.evaluate(models[1], part)),
            )
        )
        found.append(Comparison(cells, looks=3))
    once, often = (one.paired_test("a, s", "b, s", split=split) for one in found)
    assert np.ptp(often.interval) >= 0.999 * np.ptp(once.interval)
    assert often.p_value >= once.p_value - 0.01
    for one, other in zip(found[0].rows, found[1].rows, strict=True):
        ends = [getattr(row, split).accuracy_interval for row in (one, other)]
        assert np.ptp(ends[1]) >= 0.999 * np.ptp(ends[0])
    assert found[1].optimism >= 0.999 * found[0].optimism


def test_explain_gap(splits):
    def found(times):
        parts = {name: copied(splits[name], times) for name in ("val", "test")}
        report = tk.explain_gap(
            {"train": copied(splits["train"], 1), **parts},
            model=lambda images: images[:, ::4, ::4, 0].reshape(len(images), -1) / 255,
            seeds=[0],
            samples=100,
        )
        parts = {name: part.interval for name, part in report.parts.items()}
        return {"val": report.val_interval, "test": report.test_interval, **parts} | {
            name: getattr(report, name).interval for name in ("gap", "threshold", "optimism")
        }

    once, often = found(1), found(3)
    for name, interval in once.items():
        # the folds of the threshold and the bootstrap of the choice are drawn anew
        least = 0.8 if name in ("threshold", "optimism") else 0.999
        assert np.ptp(often[name]) >= least * np.ptp(interval), name
