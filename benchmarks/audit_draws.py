"""Draw source and target samples from embedded images, ask tests about them, count detections.

What every script of the power table shares: ours (``audit_power.py``) and one per peer
(``peers_audit_*.py``), each in an environment of its own. It needs NumPy only. All read the same
arrays, written by ``audit_images.py``, and draw the same rows from the same seeds, so that draw i
of a cell is the same for each of them. Rows that are in the CSV file already are not run again.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
RESULTS = Path(__file__).parent / "results"
POWER = RESULTS / "audit_power.csv"
PEERS = RESULTS / "audit_peers.csv"
BESIDE = 100
"""Rows a sample at which the peers stand beside ours."""
SHIFTS_BESIDE = (
    "none",
    "noise medium",
    "image small",
    "image medium",
    "flips",
    "knock-out large",
)
KNOCKED_CLASS = 0
KNOCK_OUTS = {"knock-out small": 0.1, "knock-out medium": 0.5, "knock-out large": 1.0}
"""Share of one class that the target lacks."""
SINGLE = ("rotation", "shear", "zoom", "flips")
"""Medium shifts by one edit alone, of all target images."""
SIZES = {
    "digits": (10, 20, 50, 100, 200, 500, 800),
    "pneumonia": (10, 20, 50, 100, 200, 500, 1000, 2400),
    "phantom": (10_000,),
    "relu": (20, 50, 200),
}
"""Rows of source and of target: as many as the images allow, two samples apart."""
DRAWS = {200: 100, 500: 20, 10**9: 10}
"""Up to so many rows a sample, so many draws a cell."""
MORE = 5
"""Without shift, so many times as many."""

Array: TypeAlias = NDArray[np.float32]
Test: TypeAlias = Callable[[Array, Array, int], float]
"""Source, target and seed to a p-value, or to 0 or 1 where a library gives a verdict."""


@dataclass(frozen=True)
class Cell:
    """One kind of draw: which images, how shifted, how many."""

    dataset: str
    shift: str
    share: float
    n: int


@dataclass(frozen=True)
class Row:
    """What one test found in the draws of one cell."""

    dataset: str
    library: str
    version: str
    test: str
    shift: str
    share: float
    n: int
    draws: int
    detections: int
    seconds: float


@dataclass(frozen=True)
class Suite:
    """The tests of one library; those in ``joint`` are also judged together, by Bonferroni."""

    library: str
    version: str
    tests: dict[str, Test]
    joint: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Images:
    """Embedded images: rows ``(N, D)`` as they are and under each shift, and labels ``(N,)``."""

    name: str
    variants: dict[str, Array]
    labels: NDArray[np.int64]

    @classmethod
    def read(cls, path: Path) -> Images:
        """Read what ``audit_images.py`` wrote."""
        with np.load(path) as data:
            rows = {key: data[key] for key in data.files if key != "labels"}
            return cls(path.stem, rows, data["labels"])

    def draw(self, cell: Cell, i: int) -> tuple[Array, Array] | None:
        """Return draw i: two samples that share no image; None if there are too few images."""
        key = crc32(f"{cell.shift}/{cell.share}".encode())
        rng = np.random.default_rng([i, cell.n, key])
        order = rng.permutation(len(self.labels))
        clean = self.variants["none"]
        source, pool = order[: cell.n], order[cell.n :]
        if cell.shift in KNOCK_OUTS:
            kept = rng.random(len(pool)) >= KNOCK_OUTS[cell.shift]
            pool = pool[(self.labels[pool] != KNOCKED_CLASS) | kept]
        if len(pool) < cell.n:
            return None
        pool = pool[: cell.n]
        target = clean[pool].copy()
        if cell.shift in self.variants and cell.shift != "none":
            changed = rng.permutation(cell.n) < round(cell.share * cell.n)
            target[changed] = self.variants[cell.shift][pool[changed]]
        return clean[source], target


def cells(images: Images, sizes: tuple[int, ...]) -> Iterator[Cell]:
    """Yield the cells of the table, small samples first, the null first of all."""
    for n in sizes:
        yield Cell(images.name, "none", 1.0, n)
        for shift in images.variants:
            shares = () if shift == "none" else (1.0,) if shift in SINGLE else (0.1, 0.5, 1.0)
            for share in shares:
                yield Cell(images.name, shift, share, n)
        for shift in KNOCK_OUTS:
            yield Cell(images.name, shift, 1.0, n)


def draws_of(cell: Cell, most: int) -> int:
    """Return how often a cell is drawn."""
    some = next(draws for n, draws in DRAWS.items() if cell.n <= n)
    return min(some, most) * (MORE if cell.shift == "none" else 1)


def ask(suite: Suite, images: Images, cell: Cell, draws: int) -> list[Row]:
    """Count the detections of every test in the draws of a cell; none if it cannot be drawn."""
    found = dict.fromkeys(suite.tests, 0)
    spent = dict.fromkeys(suite.tests, 0.0)
    together = 0
    for i in range(draws):
        samples = images.draw(cell, i)
        if samples is None:
            return []
        values = {}
        for name, test in suite.tests.items():
            start = time.process_time()
            values[name] = test(*samples, i)
            spent[name] += time.process_time() - start
            found[name] += values[name] <= ALPHA
        if suite.joint:
            together += min(values[name] for name in suite.joint) * len(suite.joint) <= ALPHA
    if suite.joint:
        found["together"], spent["together"] = together, sum(spent[name] for name in suite.joint)
    return [
        Row(
            dataset=cell.dataset,
            library=suite.library,
            version=suite.version,
            test=name,
            shift=cell.shift,
            share=cell.share,
            n=cell.n,
            draws=draws,
            detections=found[name],
            seconds=round(spent[name] / draws, 5),
        )
        for name in found
    ]


def read_rows(path: Path) -> list[Row]:
    """Read the rows that are there."""
    if not path.exists():
        return []
    kinds = {"share": float, "seconds": float, "n": int, "draws": int, "detections": int}
    with path.open(newline="") as file:
        return [
            Row(**{key: kinds.get(key, str)(value) for key, value in line.items()})
            for line in csv.DictReader(file)
        ]


def append(path: Path, rows: list[Row]) -> None:
    """Add rows to the file, with a header if it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(Row)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def run(suite: Suite, options: argparse.Namespace) -> None:
    """Fill the cells that are missing, until the time is up."""
    end = time.monotonic() + 60 * options.minutes
    done = {
        (row.library, Cell(row.dataset, row.shift, row.share, row.n))
        for row in read_rows(options.csv)
    }
    for path in options.images:
        images = Images.read(path)
        for cell in cells(images, tuple(options.sizes or SIZES[images.name])):
            if (suite.library, cell) in done or (
                options.shifts and cell.shift not in options.shifts
            ):
                continue
            if time.monotonic() > end:
                print("the time is up; run it again to go on")
                return
            rows = ask(suite, images, cell, draws_of(cell, options.draws))
            append(options.csv, rows)
            shares = " ".join(f"{row.test} {row.detections}/{row.draws}" for row in rows)
            print(cell.dataset, cell.shift, cell.share, cell.n, shares, flush=True)


def parse(description: str | None) -> argparse.Namespace:
    """Read the command line that all scripts share; ``--beside`` takes what the peers are given."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("images", nargs="+", type=Path, help="files that audit_images.py wrote")
    parser.add_argument("--csv", type=Path, default=POWER)
    parser.add_argument("--sizes", type=int, nargs="+", help="rows a sample, in place of all")
    parser.add_argument("--shifts", nargs="+", help="only these shifts")
    parser.add_argument("--draws", type=int, default=10**9, help="at most so many a shifted cell")
    parser.add_argument("--minutes", type=float, default=1e6, help="start no cell after that")
    parser.add_argument("--beside", action="store_true", help="what stands in audit_peers.csv")
    options = parser.parse_args()
    if options.beside:
        options.csv, options.draws = PEERS, 20
        options.sizes = options.sizes or [BESIDE]
        options.shifts = options.shifts or list(SHIFTS_BESIDE)
    return options
