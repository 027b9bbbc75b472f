"""How far a ranking's "best in" can be trusted, by the number of parts that it is read from.

Two backbones are drawn anew in each trial: equal ones, of which the more than 95 % sure should be
one in ten (5 % for each), and ones of which the first is better by a planted margin. With groups,
half of the variance of every feature is the patient's.

    python benchmarks/ranking.py > benchmarks/results/ranking.md
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from transferkit.metrics.intervals import wilson_interval
from transferkit.selection.ranking import RankBy, score_uncertainty

IMAGES, WIDTH, PER_GROUP, SIGNAL, MARGIN = 240, 12, 4, 1.2, 0.6
HEADER = ("score", "groups", "parts", "draws", "equal: over 95 % sure", "better: over 95 % sure",
          "width of the interval", "ms")  # fmt: skip


def features(signal: float, labels: np.ndarray, groups: np.ndarray | None, rng) -> np.ndarray:
    noise = rng.normal(size=(len(labels), WIDTH))
    if groups is not None:
        noise = np.sqrt(0.5) * (noise + rng.normal(size=(len(labels), WIDTH))[groups])
    noise[:, 0] += signal * labels
    return noise


def row(by: RankBy, per_group: int, repeats: int, trials: int) -> tuple[str, ...]:
    """Shares of the trials in which a backbone is over 95 % sure to be the best."""
    groups = None if per_group == 1 else np.repeat(np.arange(IMAGES // per_group), per_group)
    labels = np.arange(IMAGES) % 2 if groups is None else groups % 2
    sure, widths, seconds = {SIGNAL: 0, SIGNAL + MARGIN: 0}, [], 0.0
    for seed in range(trials):
        for first in sure:
            rng = np.random.default_rng([seed, round(10 * first)])
            pair = [features(signal, labels, groups, rng) for signal in (first, SIGNAL)]
            started = time.perf_counter()
            found = score_uncertainty(pair, labels, groups, by=by, repeats=repeats, seed=seed)
            seconds += time.perf_counter() - started
            shares = [one.best_share for one in found]
            sure[first] += (max(shares) if first == SIGNAL else shares[0]) > 0.95
            widths.append(found[0].interval[1] - found[0].interval[0])
    cells = []
    for count in sure.values():
        low, high = wilson_interval(count, trials)
        cells.append(f"{100 * count / trials:.0f} % [{100 * low:.0f}, {100 * high:.0f}]")
    spent = f"{1000 * seconds / trials / 2:.0f}"
    return (by, str(per_group), str(repeats), str(trials), *cells, f"{np.mean(widths):.3f}", spent)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--scores", nargs="+", default=["logme", "probe"])
    parser.add_argument("--parts", type=int, nargs="+", default=[3, 5, 10, 20])
    given = parser.parse_args(arguments)
    print(f"| {' | '.join(HEADER)} |\n| {' | '.join(['---'] * len(HEADER))} |")
    for by in given.scores:
        for per_group in (1, PER_GROUP):
            for repeats in given.parts:
                print(f"| {' | '.join(row(by, per_group, repeats, given.trials))} |", flush=True)


if __name__ == "__main__":
    main()
