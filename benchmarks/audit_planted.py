"""Do planted gaps come back, and do the intervals hold the truth?

    python benchmarks/audit_calibration.py planted                      # writes the CSV file anew
    python benchmarks/audit_calibration.py planted --plants "prior shift"      # these rows only

Phantom data with a planted difference between val and test, embedded by the backbone in the box and
scored by a probe on train: :data:`POOL` pictures a split are the population, so that the truth is
known, and val and test are drawn from it with replacement, by patient where patients have several
pictures. Counted are the intervals of 95 % that hold the truth.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import transferkit as tk
from audit_draws import RESULTS
from transferkit.audit.gap import Estimate
from transferkit.audit.gap_parts import ScoredSplit, explain_scores
from transferkit.workflows.audit import audit_data

PLANTED = RESULTS / "audit_planted.csv"
POOL = 4000
TRAIN = 800
SIZES = (400, 1500)
MARKED = {"normal": tk.PhantomSite(marker=0.0), "pneumonia": tk.PhantomSite(marker=1.0)}
PLANTS: dict[str, dict[str, Any]] = {
    "prior shift": {"positive_share": {"train": 0.25, "val": 0.25, "test": 0.75}, "shift": 0.0},
    "exposure in one class": {"sites": {"test": {"normal": tk.PhantomSite(exposure=0.2)}}},
    "another site, 4 pictures a patient": {"images_per_patient": 4},
    "shortcut marker": {
        "sites": {"train": MARKED, "val": MARKED, "test": tk.PhantomSite(marker=0.5)},
    },
    "duplicated patients": {"duplicates": {("train", "val"): TRAIN // 2}, "shift": 0.0},
}
FEW = {"duplicated patients": TRAIN}
"""Where the population is smaller."""


@dataclass(frozen=True)
class PlantedRow:
    """One part of one planted gap, over all repetitions; accuracies in [0, 1]."""

    plant: str
    part: str
    n: int
    repetitions: int
    truth: float
    mean: float
    deviation: float
    covered: int


@dataclass(frozen=True, eq=False)
class Population:
    """A scored split to draw from, and the rows of each patient."""

    split: ScoredSplit
    members: tuple[NDArray[np.int64], ...] | None

    def draw(self, n: int, rng: np.random.Generator) -> ScoredSplit:
        """Draw n pictures with replacement; a patient drawn twice counts as two."""
        if self.members is None:
            rows, names = rng.integers(len(self.split.labels), size=n), None
        else:
            each = len(self.members[0])
            drawn = rng.integers(len(self.members), size=n // each)
            rows = np.concatenate([self.members[patient] for patient in drawn])
            names = np.arange(len(rows)) // each
        leaked = self.split.leaked
        return ScoredSplit(
            self.split.labels[rows],
            self.split.scores[rows],
            names,
            None if leaked is None else leaked[rows],
        )


@cache
def populations(plant: str) -> tuple[Population, Population]:
    """Draw, embed and score the population of one plant."""
    options, pool = PLANTS[plant], FEW.get(plant, POOL)
    splits = tk.phantom_splits(sizes=(TRAIN, pool, pool), image_size=32, seed=0, **options)
    data = audit_data(splits)
    assert data.scores is not None
    train = data.hashes["train"]
    leaks = {n: np.isin(data.hashes[n], train) for n in ("val", "test")}
    found = []
    for name in ("val", "test"):
        part, members = data.splits[name], None
        if "images_per_patient" in options:
            patients = np.unique(np.array(part.groups), return_inverse=True)[1]
            members = tuple(np.flatnonzero(patients == one) for one in range(patients.max() + 1))
        scored = ScoredSplit(
            data.labels[name],
            data.scores[name],
            None,
            leaks[name] if "duplicates" in options else None,
        )
        found.append(Population(scored, members))
    return found[0], found[1]


def estimates(val: ScoredSplit, test: ScoredSplit, seed: int) -> dict[str, Estimate]:
    report = explain_scores(val, test, classes=("normal", "pneumonia"), seed=seed)
    leaks = {f"leakage into {name}": value for name, value in report.leakage.items()}
    return {"gap": report.gap, **report.parts, **leaks}


def measure(plant: str, n: int, repetitions: int) -> Iterator[PlantedRow]:
    """Repeat the draws of one plant and yield a row per part."""
    val, test = populations(plant)
    truth = {k: v.value for k, v in estimates(val.split, test.split, 0).items()}
    values: dict[str, list[float]] = {part: [] for part in truth}
    covered = dict.fromkeys(truth, 0)
    for i in range(repetitions):
        rng = np.random.default_rng([i, n])
        found = estimates(val.draw(n, rng), test.draw(n, rng), i)
        for part, true in truth.items():
            low, high = found[part].interval
            values[part].append(found[part].value)
            covered[part] += low <= true <= high
    for part, true in truth.items():
        mean, deviation = (round(float(f(values[part])), 5) for f in (np.mean, np.std))
        yield PlantedRow(
            plant, part, n, repetitions, round(true, 5), mean, deviation, covered[part]
        )


def read_planted(path: Path) -> list[PlantedRow]:
    """Read the rows that are there."""
    kinds = {"plant": str, "part": str, "n": int, "repetitions": int, "covered": int}
    with path.open(newline="") as file:
        return [
            PlantedRow(**{key: kinds.get(key, float)(value) for key, value in line.items()})
            for line in csv.DictReader(file)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--csv", type=Path, default=PLANTED)
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--plants", nargs="+", choices=tuple(PLANTS), default=list(PLANTS))
    options = parser.parse_args()
    start = time.process_time()
    rows = [
        row
        for plant in options.plants
        for n in options.sizes
        for row in measure(plant, n, options.repetitions)
    ]
    if options.csv.exists():
        rows = [row for row in read_planted(options.csv) if row.plant not in options.plants] + rows
    with options.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(PlantedRow)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    print(*rows, sep="\n")
    print(f"{time.process_time() - start:.0f} CPU seconds")


if __name__ == "__main__":
    main()
