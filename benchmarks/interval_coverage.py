"""How often do 95 % intervals hold the truth: patients with several images, and many classes.

    python benchmarks/interval_coverage.py scores       # writes results/score_coverage.csv
    python benchmarks/interval_coverage.py gap          # writes results/gap_coverage.csv
    python benchmarks/interval_coverage.py tables       # writes the tables in docs/intervals.md
    python benchmarks/interval_coverage.py scores --runs 20 --csv quick.csv  # the quick form

``scores``: accuracy, AUROC and average precision of two classes, about 10 images a patient of one
class. An image's score is the class's mean, plus a part that it shares with its patient's others
(all: copies; half: alike; none: alone), plus one of its own; *unequal*: half is shared, and the
number of images is geometric. ``gap``: two splits, 2 to 100 classes of 10 to 400 images.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm
from scipy.stats import t as student_t

from transferkit.audit import gap_parts
from transferkit.audit.gap import Estimate
from transferkit.audit.gap_parts import ScoredSplit, decompose, explain_scores
from transferkit.metrics.classification import auroc_influences, precision_influences
from transferkit.metrics.evaluation import evaluate_probabilities

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "intervals.md"
BEGIN, END = "<!-- made by benchmarks/interval_coverage.py -->", "<!-- end of what is made -->"
GROUPS = (8, 12, 20, 50, 100)
SHAPES = {"copies": 1.0, "alike": 0.5, "unequal": 0.5, "alone": 0.0}
DISTANCES = (1.0, 2.0, 3.0)
SCORES = ("accuracy", "AUROC", "average precision")
METHODS = ("images as if independent", "percentile bootstrap by group", "BCa by group",
           "t by group", "transferkit")  # fmt: skip
BOOTSTRAPS = 300
CLASSES = (2, 5, 10, 30, 100)
IMAGES = (10, 40, 100, 400)
RECALLS = {"good": (0.95, 0.9), "very good": (0.99, 0.97), "poor": (0.7, 0.6)}

Floats = NDArray[np.float64]
Interval = tuple[float, float]


def draw(groups: int, shape: str, distance: float, rng: np.random.Generator) -> tuple[Floats, ...]:
    """Labels, scores and patients of the images of so many patients, half of each class."""
    sizes = 1 + rng.geometric(0.1, groups) if shape == "unequal" else np.full(groups, 10)
    patients = np.repeat(np.arange(groups), sizes)
    labels = (patients % 2).astype(np.float64)
    shared = SHAPES[shape]
    own, common = rng.normal(size=len(patients)), rng.normal(size=groups)[patients]
    scores = distance * (labels - 0.5) + shared**0.5 * common + (1 - shared) ** 0.5 * own
    return labels, scores, patients.astype(np.float64)


def truths(distance: float) -> dict[str, float]:
    """The scores of infinitely many images."""
    cuts = np.linspace(-8, 8, 20001)
    hits, alarms = norm.sf(cuts - distance / 2), norm.sf(cuts + distance / 2)
    precision = hits / (hits + alarms)
    return {
        "accuracy": float(norm.cdf(distance / 2)),
        "AUROC": float(norm.cdf(distance / 2**0.5)),
        "average precision": float(-np.trapezoid(precision, hits)),
    }


def bootstrapped(labels: Floats, scores: Floats, weights: Floats) -> dict[str, Floats]:
    """The three scores for each row of image weights (B, N)."""
    order = np.argsort(-scores)
    own, weights = labels[order] > 0, weights[:, order]
    hits, alarms = np.cumsum(weights * own, axis=1), np.cumsum(weights * ~own, axis=1)
    right = (scores[order] > 0) == own
    precision = hits / np.maximum(hits + alarms, 1)
    positives, negatives = np.maximum(hits[:, -1], 1), np.maximum(alarms[:, -1], 1)
    return {
        "accuracy": (weights * right).sum(axis=1) / weights.sum(axis=1),
        "AUROC": (weights * ~own * hits).sum(axis=1) / (positives * negatives),
        "average precision": (weights * own * precision).sum(axis=1) / positives,
    }


def intervals(
    labels: Floats, scores: Floats, patients: Floats, rng: np.random.Generator
) -> Iterator[tuple[str, str, Interval]]:
    """Score, method and interval of one draw."""
    codes, own = patients.astype(np.int64), labels > 0
    second = expit(scores)
    given = np.column_stack([1 - second, second]), labels.astype(np.int64)
    alone, grouped = (evaluate_probabilities(*given, groups=g) for g in (None, codes))
    count = int(codes.max()) + 1
    right = ((scores > 0) == own).astype(np.float64)
    influences = {
        "accuracy": (right - right.mean()) / len(right),
        "AUROC": auroc_influences(own, scores),
        "average precision": precision_influences(own, scores),
    }
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=BOOTSTRAPS)
    boots = bootstrapped(labels, scores, drawn[:, codes].astype(np.float64))
    for name, field in zip(SCORES, ("accuracy", "auroc", "average_precision"), strict=True):
        value, boot = getattr(grouped, field), boots[name]
        sums = np.bincount(codes, influences[name])
        half = student_t.ppf(0.975, count - 1) * np.sqrt(np.sum(sums**2) * count / (count - 1))
        below = np.mean(boot < value) + np.mean(boot == value) / 2
        bias = norm.ppf(np.clip(below, 1e-3, 1 - 1e-3))
        skew = np.sum(sums**3) / (6 * max(np.sum(sums**2) ** 1.5, 1e-12))
        ends = bias + norm.ppf([0.025, 0.975])
        levels = norm.cdf(bias + ends / (1 - skew * ends))
        found = (
            getattr(alone, f"{field}_interval"),
            tuple(np.quantile(boot, [0.025, 0.975])),
            tuple(np.quantile(boot, levels)),
            (value - half, value + half),
            getattr(grouped, f"{field}_interval"),
        )
        for method, interval in zip(METHODS, found, strict=True):
            yield name, method, interval


def measure_scores(runs: int, groups: Sequence[int]) -> Iterator[dict[str, object]]:
    for count, shape, distance in product(groups, SHAPES, DISTANCES):
        true, cells = truths(distance), {}
        for run in range(runs):
            rng = np.random.default_rng([run, count])
            for name, method, (low, high) in intervals(*draw(count, shape, distance, rng), rng):
                covered, width = cells.get((name, method), (0, 0.0))
                held = low - 1e-9 <= true[name] <= high + 1e-9
                cells[name, method] = covered + held, width + min(high, 1) - max(low, 0)
        for (name, method), (covered, width) in cells.items():
            yield {"score": name, "method": method, "groups": count, "shape": shape,
                   "truth": round(true[name], 4), "runs": runs, "covered": covered,
                   "width": round(width / runs, 4)}  # fmt: skip


def side(images: int, recalls: Floats, rng: np.random.Generator) -> ScoredSplit:
    labels = rng.integers(len(recalls), size=images * len(recalls))
    right = rng.random(len(labels)) < recalls[labels]
    predicted = np.where(right, labels, (labels + 1) % len(recalls))
    return ScoredSplit(labels, np.eye(len(recalls))[predicted])


def measure_gap(runs: int, classes: Sequence[int]) -> Iterator[dict[str, object]]:
    gap_parts.threshold_gain = lambda *_, **__: Estimate(0.0, (0.0, 0.0))  # takes the longest
    for count, images, (level, recalls) in product(classes, IMAGES, RECALLS.items()):
        val, test = (np.full(count, recall) for recall in recalls)
        test[0] -= 0.1  # one class loses more than the others
        even = np.full(count, 1 / count)
        prior, within = decompose(even, val, even, test)
        true = {"val": val.mean(), "test": test.mean(), "gap": val.mean() - test.mean(),
                "prior shift": prior, "within 0": within[0], "within 1": within[1]}  # fmt: skip
        held = dict.fromkeys(true, 0)
        for run in range(runs):
            rng = np.random.default_rng([run, count, images])
            sides = (side(images, recall, rng) for recall in (val, test))
            report = explain_scores(*sides, classes=[str(k) for k in range(count)])
            found = {"val": report.val_interval, "test": report.test_interval,
                     "gap": report.gap.interval} | {
                         part: value.interval for part, value in report.parts.items()
                     }  # fmt: skip
            for part, truth in true.items():
                low, high = found.get(part, (-1.0, 1.0))
                held[part] += low <= truth <= high
        for part, covered in held.items():
            yield {"classes": count, "images": images, "recalls": level, "part": part,
                   "runs": runs, "covered": covered}  # fmt: skip


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cell(rows: Sequence[dict[str, str]]) -> str:
    """Lowest and mean coverage of some rows, in percent."""
    shares = [100 * int(row["covered"]) / int(row["runs"]) for row in rows]
    return f"{min(shares):.0f}, {np.mean(shares):.0f}"


def score_table(rows: Sequence[dict[str, str]]) -> str:
    lines = [f"| score | method | {' | '.join(f'{n} patients' for n in GROUPS)} |",
             f"| --- | --- |{' ---: |' * len(GROUPS)}"]  # fmt: skip
    for name, method in product(SCORES, METHODS):
        own = [row for row in rows if (row["score"], row["method"]) == (name, method)]
        cells = [cell([row for row in own if int(row["groups"]) == n]) for n in GROUPS]
        lines.append(f"| {name} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gap_table(rows: Sequence[dict[str, str]]) -> str:
    lines = [f"| classes | {' | '.join(f'{n} images a class' for n in IMAGES)} |",
             f"| ---: |{' ---: |' * len(IMAGES)}"]  # fmt: skip
    for count in CLASSES:
        own = [row for row in rows if int(row["classes"]) == count]
        cells = [cell([row for row in own if int(row["images"]) == n]) for n in IMAGES]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_tables(page: Path = PAGE) -> None:
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    scores, gaps = (read(RESULTS / f"{name}_coverage.csv") for name in ("score", "gap"))
    made = f"""## Scores

Lowest and mean coverage, in percent, over copies, alike, unequal and independent images of a
patient, and accuracies of 69, 84 and 93 %; {scores[0]["runs"]} draws each.
`python benchmarks/interval_coverage.py scores`; every cell is in
`benchmarks/results/score_coverage.csv`.

{score_table(scores)}

## The gap and its parts

Lowest and mean coverage, in percent, over both scores, the gap, prior shift and two classes' parts,
and accuracies of about 99, 95 and 70 % on val; {gaps[0]["runs"]} draws each. The lowest two are
those of Wilson's interval itself, of a score of 99 % on 50 and 100 images.
`python benchmarks/interval_coverage.py gap`; every cell is in
`benchmarks/results/gap_coverage.csv`.

{gap_table(gaps)}
"""
    page.write_text(f"{before}{BEGIN}\n\n{made}{END}{rest.split(END)[1]}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("scores", "gap", "tables"))
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of groups, or of classes")
    options = parser.parse_args(arguments)
    if options.what == "tables":
        write_tables()
        return
    start = time.process_time()
    if options.what == "scores":
        rows = list(measure_scores(options.runs, options.only or GROUPS))
    else:
        rows = list(measure_gap(options.runs, options.only or CLASSES))
    path = options.csv or RESULTS / f"{options.what.removesuffix('s')}_coverage.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{path}: {len(rows)} rows, {time.process_time() - start:.0f} CPU seconds")


if __name__ == "__main__":
    main()
