"""Intervals of the scores: variances against their definitions, and coverage by group."""

from __future__ import annotations

import csv
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import average_precision_score, roc_auc_score

from transferkit.metrics.classification import auroc_influences, precision_influences
from transferkit.metrics.evaluation import evaluate_probabilities
from transferkit.metrics.intervals import clustered_variance


def pair_areas(own, scores):
    """Wins of each positive over each negative (P, N): ties count one half."""
    first, second = scores[own][:, None], scores[~own][None]
    return (first > second) + 0.5 * (first == second)


def test_the_variance_of_the_auroc_is_that_of_delong():
    """The published formula by loops over pairs: S10 / P + S01 / N."""
    rng = np.random.default_rng(0)
    own = np.arange(60) % 3 == 0
    scores = np.round(rng.normal(size=60) + own, 1)
    wins = pair_areas(own, scores)
    expected = sum(wins.mean(axis=1 - k).var(ddof=1) / wins.shape[k] for k in (0, 1))
    leverages = np.where(own, 1 / own.sum(), 1 / np.sum(~own))
    found = clustered_variance(auroc_influences(own, scores), leverages, None)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("influences", "score"),
    [(auroc_influences, roc_auc_score), (precision_influences, average_precision_score)],
)
def test_influences_are_derivatives_by_the_weight_of_an_image(influences, score):
    rng = np.random.default_rng(0)
    own = np.arange(40) % 3 == 0
    scores = np.round(rng.normal(size=40) + own, 1)
    whole = score(own, scores)
    for image, found in enumerate(influences(own, scores)):
        weight = 1 + 1e-6 * (np.arange(40) == image)
        slope = (score(own, scores, sample_weight=weight) - whole) / 1e-6
        assert found == pytest.approx(slope, abs=1e-5)


def test_the_interval_of_the_auroc_is_near_that_of_delong_where_images_are_many():
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 2
    second = expit(rng.normal(size=2000) + 1.2 * labels)
    result = evaluate_probabilities(np.column_stack([1 - second, second]), labels)
    wins = pair_areas(labels == 1, second)
    error = np.sqrt(sum(wins.mean(axis=1 - k).var(ddof=1) / 1000 for k in (0, 1)))
    expected = [result.auroc - 1.96 * error, result.auroc + 1.96 * error]
    assert result.auroc_interval == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_intervals_of_every_score_hold_the_truth_where_patients_have_many_images(num_classes):
    """40 patients of 5 images, each more or less easy; the truth is that of 200,000 images."""

    def evaluation(patients, seed):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(patients), 5)
        labels = rng.integers(num_classes, size=patients)[groups]
        clear = 1.5 + rng.normal(size=patients)[groups]
        logits = rng.normal(size=(len(groups), num_classes))
        logits[np.arange(len(groups)), labels] += clear
        return evaluate_probabilities(softmax(logits, axis=1), labels, groups=groups)

    def scores(result):
        last = result.per_class[-1]
        return [result.accuracy, result.auroc, result.average_precision, last.recall,
                last.specificity]  # fmt: skip

    truth, held, runs = scores(evaluation(40_000, 0)), np.zeros(5), 200
    for seed in range(1, runs + 1):
        found = evaluation(40, seed)
        last = found.per_class[-1]
        ends = [found.accuracy_interval, found.auroc_interval, found.average_precision_interval,
                last.recall_interval, last.specificity_interval]  # fmt: skip
        held += [low <= true <= high for (low, high), true in zip(ends, truth, strict=True)]
    assert (held / runs >= 0.93 - 3 * np.sqrt(0.05 * 0.95 / runs)).all()


def test_copies_of_a_patient_do_not_narrow_an_interval():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    probabilities = softmax(rng.normal(size=(90, 3)) + 2 * np.eye(3)[labels], axis=1)
    once = evaluate_probabilities(probabilities, labels)
    again, rows = 4, np.repeat(np.arange(90), 4)
    often = evaluate_probabilities(probabilities[rows], labels[rows], groups=rows)
    assert often.n == again * once.n
    for name in ("accuracy", "auroc", "average_precision"):
        widths = [np.ptp(getattr(result, f"{name}_interval")) for result in (once, often)]
        assert 0.999 * widths[0] <= widths[1] <= 1.1 * widths[0]
        assert getattr(often, name) == pytest.approx(getattr(once, name))


BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_coverage_command_runs_and_its_results_hold_what_the_page_says(tmp_path, monkeypatch):
    if not BENCHMARKS.is_dir():
        pytest.skip("benchmarks are not here")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    command = import_module("interval_coverage")
    for what, only, rows in (("scores", "8", 180), ("gap", "2", 72)):
        quick = tmp_path / f"{what}.csv"
        monkeypatch.setattr(command.gap_parts, "threshold_gain", command.gap_parts.threshold_gain)
        command.main([what, "--runs", "1", "--only", only, "--csv", str(quick)])
        with quick.open(newline="") as file:
            assert len(list(csv.DictReader(file))) == rows
    for name in ("score", "gap"):
        with (BENCHMARKS / "results" / f"{name}_coverage.csv").open(newline="") as file:
            found = [row for row in csv.DictReader(file)
                     if row.get("method", "transferkit") == "transferkit"]  # fmt: skip
        shares = np.array([int(row["covered"]) / int(row["runs"]) for row in found])
        # 93 %, less three standard errors, and Wilson's own dip at an accuracy of 99 %
        dips = np.array([row.get("part") in ("val", "test") for row in found])
        assert (shares[~dips] >= 0.93 - 3 * np.sqrt(0.05 * 0.95 / 300)).all()
        assert (shares >= 0.88).all()
