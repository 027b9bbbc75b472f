"""How often does a whole audit of splits from one source carry a warning that rests on a test?

    python benchmarks/audit_rate.py [--draws N] [--cases ...]   # makes results/audit_rate.csv

A population of phantom radiographs is dealt out at random, by patient where there are groups, into
train, val and test. Whatever the audit then says of a difference is a false alarm: at most alpha
(5 %) of the reports may carry any. Warnings of single images (odd, blank, repeated) rest on no
test and are not counted.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import transferkit as tk
from audit_draws import ALPHA, RESULTS
from transferkit.audit.finding import BUDGET

RATE = RESULTS / "audit_rate.csv"
SHARES = (0.5, 0.25, 0.25)
TESTED = (*BUDGET, "choice_optimism", "reshuffle_by_group", "score_without_leaks")


@dataclass(frozen=True)
class Case:
    """How many images are dealt out, of how many patients each, and in how many classes."""

    images: int
    per_patient: int = 1
    classes: int = 2
    grouped: bool = True
    most: int = 10**9  # audits


CASES = {
    "200 images": Case(200, grouped=False),
    "600 images": Case(600, grouped=False),
    "50 patients of 4 images": Case(200, 4),
    "18 patients of 12 images": Case(216, 12),
    "600 images of 10 classes": Case(600, classes=10, grouped=False),
    "2000 images of 200 classes": Case(2000, classes=200, grouped=False, most=5),
}


@dataclass(frozen=True)
class RateRow:
    """Reports of a case, those with any false alarm, and the checks that gave them."""

    case: str
    draws: int
    alarms: int
    checks: str
    seconds: float


def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The picture at 8 x 8 stands in for a backbone."""
    small = images[..., 0].reshape(len(images), 8, 4, 8, 4).mean(axis=(2, 4))
    return small.reshape(len(images), 64).astype(np.float32)


def population(case: Case) -> tk.ImageData:
    """Phantoms of one source; more than two classes are drawn at random, and so tell nothing."""
    sizes = (max(1200, case.images), 12, 12)
    splits = tk.phantom_splits(
        sizes=sizes, image_size=32, shift=0, images_per_patient=case.per_patient, seed=0
    )
    data = splits["train"]
    if case.classes == 2:
        return data
    labels = np.random.default_rng(0).integers(0, case.classes, len(data))
    return tk.ImageData(data.images, labels, names=data.names)


def deal(data: tk.ImageData, case: Case, rng: np.random.Generator) -> dict[str, tk.ImageData]:
    """Deal patients, or images, out at random: neither classes nor sizes are balanced."""
    groups = np.array(data.groups) if case.grouped else np.arange(len(data)).astype(str)
    order = rng.permutation(np.unique(groups))[: case.images // case.per_patient]
    cuts = np.cumsum([round(share * len(order)) for share in SHARES])[:-1]
    parts = zip(("train", "val", "test"), np.split(order, cuts), strict=True)
    found = {name: data.subset(np.flatnonzero(np.isin(groups, own))) for name, own in parts}
    if case.grouped:
        return found
    return {
        name: tk.ImageData(part.images, part.labels, classes=part.classes, names=part.names)
        for name, part in found.items()
    }


def read_rate(path: Path = RATE) -> list[RateRow]:
    """Read the rows that are there."""
    kinds = {"draws": int, "alarms": int, "seconds": float}
    with path.open(newline="") as file:
        return [
            RateRow(**{key: kinds.get(key, str)(value) for key, value in line.items()})
            for line in csv.DictReader(file)
        ]


def false_alarms(case: Case, draws: int, *, seed: int = 0) -> Iterator[set[str]]:
    """The checks that warn, in each of so many audits."""
    data = population(case)
    for i in range(draws):
        splits = deal(data, case, np.random.default_rng([seed, i]))
        report = tk.audit_splits(splits, model=features, near_duplicates=False, seed=i)
        yield {f.check for f in report.at_least("warning") if f.check in TESTED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--csv", type=Path, default=RATE)
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    with options.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(RateRow)], lineterminator="\n")
        writer.writeheader()
        for name in options.cases:
            start, draws = time.process_time(), min(options.draws, CASES[name].most)
            found = list(false_alarms(CASES[name], draws))
            counts = Counter(check for some in found for check in some)
            said = ", ".join(f"{check} {n}" for check, n in counts.most_common())
            seconds = (time.process_time() - start) / draws
            row = RateRow(name, draws, sum(map(bool, found)), said, round(seconds, 1))
            writer.writerow(asdict(row))
            file.flush()
            print(row, f"allowed {ALPHA:.0%}", flush=True)


if __name__ == "__main__":
    main()
