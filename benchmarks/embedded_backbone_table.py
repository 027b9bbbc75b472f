"""What ``embedded_backbone.py`` measured, as Markdown tables.

python benchmarks/embedded_backbone_table.py > benchmarks/results/embedded_backbone.md
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

RESULTS = Path(__file__).parent / "results" / "embedded_backbone.csv"
COLUMNS = (
    "embedded",
    "random",
    "random mobilenet_v3_small",
    "ImageNet squeezenet1_1",
    "ImageNet mobilenet_v2",
)
EVERYTHING = 10**6  # where "all" images stand when sorted
PACKAGES = ("transferkit", "torch", "torchvision", "timm", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Row:
    """One measurement; accuracies in [0, 1]."""

    dataset: str
    side: int
    network: str
    mode: str
    shots: int
    seed: int
    val_accuracy: float
    test_accuracy: float
    test_balanced: float
    seconds: float

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What tells one row from another, but for shots and seed."""
        return self.dataset, self.side, self.network, self.mode


def append(path: Path, rows: list[Row]) -> None:
    """Add rows to the file, with a header if it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        if new:
            writer.writeheader()
        for row in rows:
            shown = {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in asdict(row).items()}
            writer.writerow(shown)


def read(path: Path) -> list[Row]:
    """Read the rows that are there."""
    if not path.exists():
        return []
    kinds = {"side": int, "shots": int, "seed": int}
    texts = {"dataset", "network", "mode"}
    with path.open(newline="") as file:
        return [
            Row(**{k: v if k in texts else kinds.get(k, float)(v) for k, v in line.items()})
            for line in csv.DictReader(file)
        ]


Place = tuple[str, str, int, int]
Cells = dict[Place, dict[str, dict[int, float]]]


def cells_of(rows: list[Row], score: str) -> Cells:
    """Sort a score by mode, data set, side and shots; then by network; then by seed."""
    cells: Cells = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        place = (row.mode, row.dataset, row.side, row.shots or EVERYTHING)
        cells[place][row.network][row.seed] = getattr(row, score)
    return cells


def interval(values: list[float]) -> str:
    """Mean and 95 % interval of the mean over the seeds, in percent."""
    mean = 100 * np.mean(values)
    if len(values) < 2:
        return f"{mean:.1f}"
    half = 100 * np.std(values, ddof=1) / len(values) ** 0.5 * student.ppf(0.975, len(values) - 1)
    return f"{mean:.1f} ± {half:.1f}"


def difference(ours: dict[int, float], theirs: dict[int, float]) -> str:
    """Mean difference over the seeds that both have, seed by seed, with its interval."""
    return interval([ours[seed] - theirs[seed] for seed in ours if seed in theirs])


def share(ours: dict[int, float], theirs: dict[int, float]) -> str:
    """Our mean as a percentage of theirs."""
    return f"{100 * np.mean(list(ours.values())) / np.mean(list(theirs.values())):.1f}"


def print_lines(cells: Cells, mode: str, columns: dict[str, Callable[[Any], str]]) -> None:
    """Print one Markdown table: a line for each task, a cell for each column."""
    print("| data | pixels | images |", " | ".join(columns), "|")
    print("|---|---|---|", "---|" * len(columns), sep="")
    for (kind, dataset, side, shots), found in sorted(cells.items()):
        if kind == mode:
            count = "all" if shots == EVERYTHING else str(shots)
            shown = " | ".join(column(found) for column in columns.values())
            print(f"| {dataset} | {side} | {count} | {shown} |")


def print_tables(rows: list[Row], score: str) -> None:
    """Print what was measured, and the embedded backbone against the others."""
    seeds, cells = len({row.seed for row in rows}), cells_of(rows, score)
    for mode, title in (("probe", "Linear probe"), ("tune", "Fine-tuning")):
        there = [n for n in COLUMNS if any(r.mode == mode and r.network == n for r in rows)]
        kind = score.replace("_", " ")
        print(f"\n**{title}**: {kind}, percent, mean of {seeds} seeds ± its 95 % interval\n")
        print_lines(cells, mode, {n: partial(cell, network=n) for n in there})
        print(f"\n**{title}**: the embedded backbone against the others, by {kind}\n")
        against = {f"points above {n}": partial(compare, other=n) for n in there[1:]}
        squeeze = partial(compare, other="ImageNet squeezenet1_1", how=share)
        print_lines(cells, mode, against | {"percent of SqueezeNet's": squeeze})


def cell(found: dict[str, dict[int, float]], network: str) -> str:
    """One network's mean, if it was measured."""
    return interval(list(found[network].values())) if network in found else ""


def compare(
    found: dict[str, dict[int, float]],
    other: str,
    how: Callable[[dict[int, float], dict[int, float]], str] = difference,
) -> str:
    """The embedded backbone against another network, if both were measured."""
    return how(found["embedded"], found[other]) if {"embedded", other} <= found.keys() else ""


def main() -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    scored = ("test_accuracy", "val_accuracy", "test_balanced")
    parser.add_argument("--scores", nargs="+", choices=scored, default=scored[:2])
    args = parser.parse_args()
    print("Versions:", ", ".join(f"{name} {version(name)}" for name in PACKAGES))
    for score in args.scores:
        print_tables(read(args.results), score)


if __name__ == "__main__":
    main()
