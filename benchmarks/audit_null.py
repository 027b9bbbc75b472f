"""How often does each of the audit's tests reject where both samples come from one distribution?

    python benchmarks/audit_calibration.py null      # adds what is missing to the CSV file

The features are Gaussian, ReLU, discrete, heavily tied, heavy-tailed, and correlated within groups
(where groups are permuted). Rejections at alpha = 0.05 are counted; a cell is out of bounds where
they leave the central 99.9 % of the binomial distribution. A test of coarse statistics (small
samples, many ties) must fall short of it: its p-values are few.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, ks_2samp

from audit_draws import ALPHA, RESULTS
from transferkit.audit import domain_classifier
from transferkit.audit.kolmogorov_smirnov import ks_test
from transferkit.audit.label_shift import chi_square_test
from transferkit.audit.mmd import mmd_test
from transferkit.audit.two_sample import SplitPair

NULL = RESULTS / "audit_null.csv"
WIDTH = 8
Array = NDArray[np.float64]
Groups = tuple[NDArray[np.int64], NDArray[np.int64]] | None
Sampler = Callable[[np.random.Generator, int], Array]
Test = Callable[[Array, Array, Groups, int], float]


def gaussian(rng: np.random.Generator, n: int) -> Array:
    return rng.normal(size=(n, WIDTH))


def relu(rng: np.random.Generator, n: int) -> Array:
    return np.maximum(rng.normal(size=(n, WIDTH)) - 0.5, 0)


def discrete(rng: np.random.Generator, n: int) -> Array:
    return rng.poisson(2.0, size=(n, WIDTH)).astype(float)


def tied(rng: np.random.Generator, n: int) -> Array:
    return (rng.random((n, WIDTH)) < 0.1) * rng.integers(1, 4, size=(n, WIDTH)).astype(float)


def heavy_tailed(rng: np.random.Generator, n: int) -> Array:
    return rng.standard_cauchy(size=(n, WIDTH))


def grouped(rng: np.random.Generator, n: int, first: int) -> tuple[Array, NDArray[np.int64]]:
    """Rows in groups of 1 to 9 that share most of their variance."""
    sizes = rng.integers(1, 10, size=n)
    code = np.repeat(np.arange(n), sizes)[:n]
    rows = rng.normal(size=(n, WIDTH))[code] + 0.5 * rng.normal(size=(n, WIDTH))
    return np.maximum(rows, 0), code + first


def codes(rows: Array) -> NDArray[np.int64]:
    return np.digitize(rows[:, 0], [0.5, 1.5, 2.5]).astype(np.int64)


def classifier_p_value(
    a: Array, b: Array, groups: Groups, seed: int, *, few_features: int, repeats: int = 3
) -> float:
    """The domain classifier, non-linear up to ``few_features`` features."""
    pair = SplitPair.of(a, b, groups=groups)
    with patch.object(domain_classifier, "FEW_FEATURES", few_features):
        found = domain_classifier.domain_classifier_test(
            pair, repeats=repeats, permutations=99, seed=seed
        )
    return found.p_value


TESTS: dict[str, Test] = {
    "ks, 1 feature": lambda a, b, g, s: (
        ks_test(SplitPair.of(a[:, :1], b[:, :1], groups=g), permutations=99, seed=s).p_value
    ),
    "ks, 8 features": lambda a, b, g, s: (
        ks_test(SplitPair.of(a, b, groups=g), permutations=99, seed=s).p_value
    ),
    "scipy ks, 1 feature": lambda a, b, g, s: float(ks_2samp(a[:, 0], b[:, 0]).pvalue),
    "mmd": lambda a, b, g, s: (
        mmd_test(SplitPair.of(a, b, groups=g), permutations=99, seed=s).p_value
    ),
    "classifier, linear": lambda a, b, g, s: classifier_p_value(a, b, g, s, few_features=0),
    "classifier, fourier": lambda a, b, g, s: classifier_p_value(
        a, b, g, s, few_features=WIDTH, repeats=1
    ),
    "chi-square": lambda a, b, g, s: (
        chi_square_test(codes(a), codes(b), groups=g, permutations=199, seed=s).p_value
    ),
}
SAMPLERS: dict[str, Sampler | None] = {
    "gaussian": gaussian,
    "relu": relu,
    "discrete": discrete,
    "tied": tied,
    "heavy-tailed": heavy_tailed,
    "grouped": None,
}
PLAN = {
    (20, 20): 300,
    (20, 60): 300,
    (100, 100): 300,
    (300, 100): 300,
    (1000, 1000): 20,
    (3000, 1000): 20,
    (10_000, 10_000): 5,
    (100_000, 5_000): 4,
    (100_000, 100_000): 4,
}
"""Rows of the two samples, and how often each cell is drawn."""
FAST = ("ks, 1 feature", "ks, 8 features", "scipy ks, 1 feature", "chi-square")
"""Tests that cost little where rows are independent: drawn more often, :data:`MORE` times."""
MORE = 5
GROUPED_ROWS = 5000
"""Pooled rows up to which groups are permuted: that costs most."""
MMD_ROWS = 20_000
"""Pooled rows up to which the maximum mean discrepancy is tested: its time is quadratic."""


@dataclass(frozen=True)
class NullRow:
    """The false alarms of one test in one cell; ``seconds`` of CPU a draw."""

    test: str
    features: str
    n: int
    m: int
    draws: int
    alarms: int
    seconds: float


def draw(kind: str, rng: np.random.Generator, n: int, m: int) -> tuple[Array, Array, Groups]:
    sampler = SAMPLERS[kind]
    if sampler is not None:
        return sampler(rng, n), sampler(rng, m), None
    a, first = grouped(rng, n, 0)
    b, second = grouped(rng, m, n)
    return a, b, (first, second)


def alarms(name: str, kind: str, n: int, m: int, *, repeats: int, seed: int = 0) -> int:
    """Count the false alarms of a test in ``repeats`` null draws."""
    rng = np.random.default_rng([seed, n, m])
    found = 0
    for i in range(repeats):
        a, b, groups = draw(kind, rng, n, m)
        found += TESTS[name](a, b, groups, i) <= ALPHA
    return found


def bounds(repeats: int) -> tuple[int, int]:
    """Alarms that alpha allows: the central 99.9 % of the binomial distribution."""
    low, high = binom.ppf([0.0005, 0.9995], repeats, ALPHA)
    return int(low), int(high)


def plan() -> Iterator[tuple[str, str, int, int, int]]:
    """Yield test, features, sizes and draws of every cell, small samples first."""
    for (n, m), some in PLAN.items():
        for name in TESTS:
            if name == "mmd" and n + m > MMD_ROWS:
                continue
            for kind in SAMPLERS:
                grouped_too = not name.startswith("scipy") and n + m <= GROUPED_ROWS
                if kind != "grouped" or grouped_too:
                    fast = name in FAST and kind != "grouped"
                    yield name, kind, n, m, some * (MORE if fast else 1)


def read_null(path: Path) -> list[NullRow]:
    """Read the rows that are there."""
    if not path.exists():
        return []
    kinds = {"n": int, "m": int, "draws": int, "alarms": int, "seconds": float}
    with path.open(newline="") as file:
        return [
            NullRow(**{key: kinds.get(key, str)(value) for key, value in line.items()})
            for line in csv.DictReader(file)
        ]


def append(path: Path, row: NullRow) -> None:
    """Add a row to the file, with a header if it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(NullRow)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(asdict(row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--csv", type=Path, default=NULL)
    parser.add_argument("--tests", nargs="+", choices=tuple(TESTS), default=list(TESTS))
    parser.add_argument("--sizes", type=int, nargs="+", help="only these sizes of the first sample")
    parser.add_argument("--draws", type=int, default=10**9, help="at most so many a cell")
    parser.add_argument("--minutes", type=float, default=1e6, help="start no cell after that")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    done = {(row.test, row.features, row.n, row.m) for row in read_null(options.csv)}
    for name, kind, n, m, some in plan():
        wanted = name in options.tests and (not options.sizes or n in options.sizes)
        if not wanted or (name, kind, n, m) in done:
            continue
        if time.monotonic() > end:
            print("the time is up; run it again to go on")
            return
        start, draws = time.process_time(), min(some, options.draws)
        found = alarms(name, kind, n, m, repeats=draws)
        seconds = (time.process_time() - start) / draws
        row = NullRow(name, kind, n, m, draws, found, round(seconds, 5))
        append(options.csv, row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
