"""How the audit and its tests grow with the number of rows, as a figure.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/audit_growth.py

Measures what is missing in ``results/audit_growth.csv``, each row in a process of its own (see
``audit_speed.py``), and draws ``docs/results/audit_growth.png``. The tests get 64 features, as in
an audit, and 100 permutations; the whole audit gets phantom images of 32 pixels.
``--sizes 0`` draws the figure only.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from audit_speed import COPIES, WHOLE, measure_apart

ROOT = Path(__file__).resolve().parents[1]
GROWTH = ROOT / "benchmarks" / "results" / "audit_growth.csv"
FIGURE = ROOT / "docs" / "results" / "audit_growth.png"
WIDTH = 64
SIZES = {
    **dict.fromkeys(("ks", "classifier"), (1000, 3000, 10_000, 30_000, 100_000)),
    "mmd": (1000, 3000, 10_000, 30_000),
    **dict.fromkeys((WHOLE, COPIES), (500, 1000, 2000, 4000, 8000, 16_000)),
}
"""Rows of each of the two samples; images of all splits together."""
MEASURED = ("cpu", "wall", "memory")
LOOKS = {
    "ks": ("#0072b2", "o"),
    "mmd": ("#d55e00", "s"),
    "classifier": ("#cc79a7", "D"),
    WHOLE: ("#333333", "o"),
    COPIES: ("#0072b2", "s"),
}


@dataclass(frozen=True)
class GrowthRow:
    """CPU and wall seconds, and megabytes beyond the input, of one job at one size."""

    job: str
    n: int
    cpu: float
    wall: float
    memory: float


def read_growth(path: Path) -> list[GrowthRow]:
    """Read the rows that are there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            GrowthRow(
                row["job"], int(row["n"]), *(float(row[k]) for k in ("cpu", "wall", "memory"))
            )
            for row in csv.DictReader(file)
        ]


def append(path: Path, row: GrowthRow) -> None:
    """Add a row to the file, with a header if it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(row)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(asdict(row))


def slope(rows: Sequence[GrowthRow], value: str) -> float:
    """Return the exponent of growth between the two largest sizes: 1 is linear, NaN unknown."""
    before, last = sorted(rows, key=lambda row: row.n)[-2:]
    start, end = getattr(before, value), getattr(last, value)
    return math.log(end / start) / math.log(last.n / before.n) if start and end else math.nan


def draw(rows: Sequence[GrowthRow], path: Path) -> None:
    """Draw CPU seconds and megabytes against rows: tests on the left, whole audits on the right."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots(2, 2)
    tests = [job for job in SIZES if job not in (WHOLE, COPIES)]
    for column, jobs, title, unit in (
        (0, tests, "Two-sample tests, 64 features", "rows a sample"),
        (1, [WHOLE, COPIES], "Whole audit, 32 pixels", "images in all splits"),
    ):
        for line, (value, label) in enumerate((("cpu", "CPU seconds"), ("memory", "extra MB"))):
            _panel(axes[line, column], rows, jobs, value)
            axes[line, column].set(xlabel=unit, ylabel=label)
        axes[0, column].set_title(title, fontsize=10)
        axes[0, column].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90, metadata={"Software": None})


def _panel(ax: Axes, rows: Sequence[GrowthRow], jobs: Sequence[str], value: str) -> None:
    """Draw one panel, with a grey line of linear growth through the last point of the largest."""
    corner = (0.0, 0.0)
    for job in jobs:
        some = sorted((row for row in rows if row.job == job), key=lambda row: row.n)
        colour, marker = LOOKS[job]
        sizes = [row.n for row in some]
        values = [getattr(row, value) or math.nan for row in some]
        ax.loglog(sizes, values, color=colour, marker=marker, markersize=4, label=job, lw=1.2)
        corner = max(corner, (values[-1], float(sizes[-1])))
    first = min(row.n for row in rows if row.job in jobs)
    ends = np.array([first, corner[1]])
    ax.loglog(ends, corner[0] * ends / corner[1], color="0.7", ls="--", lw=1, label="linear")
    shown = sorted({row.n for row in rows if row.job in jobs})
    ax.set_xticks(shown, [f"{n:,}" for n in shown], fontsize=8)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(color="0.92", lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--csv", type=Path, default=GROWTH)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--jobs", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--sizes", type=int, nargs="+", help="only these")
    options = parser.parse_args()
    done = {(row.job, row.n) for row in read_growth(options.csv)}
    for job in options.jobs:
        for n in SIZES[job]:
            if (job, n) in done or (options.sizes and n not in options.sizes):
                continue
            found = measure_apart(job, n, WIDTH)
            row = GrowthRow(job, n, *(round(found[k], 3) for k in MEASURED))
            append(options.csv, row)
            print(row, flush=True)
    draw(read_growth(options.csv), options.figure)


if __name__ == "__main__":
    main()
