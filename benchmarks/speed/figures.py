"""What the rows say: rounds, ratios, medians."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from speed.rows import FAILED, Row

Rounds = dict[int, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Several rounds of one figure."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Sum up; not a number where there is none."""
        there = list(values)
        if not there:
            return cls(math.nan, math.nan, math.nan)
        return cls(statistics.median(there), min(there), max(there))

    def __str__(self) -> str:
        """Median, lowest and highest."""
        if math.isnan(self.median):
            return ""
        low, high = short(self.low), short(self.high)
        return short(self.median) if low == high else f"{short(self.median)} ({low} to {high})"


@dataclass(frozen=True, slots=True)
class Group:
    """All rows of one case, whose sides took turns."""

    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        """A row of the case."""
        return self.rows[0]

    @property
    def sides(self) -> tuple[str, ...]:
        """Who did it, those that failed left out."""
        return tuple(dict.fromkeys(row.side for row in self.rows if row.measure != FAILED))

    def rounds(self, side: str, measure: str = "seconds") -> Rounds:
        """One figure of one side, by round."""
        return {r.round: r.number for r in self.rows if (r.side, r.measure) == (side, measure)}

    def median(self, side: str, measure: str = "seconds") -> float:
        """Over the rounds."""
        return Spread.of(self.rounds(side, measure).values()).median

    def ratio(self, over: str, under: str, measure: str = "seconds") -> Spread:
        """One side's figure over another's, round by round."""
        above, below = self.rounds(over, measure), self.rounds(under, measure)
        return Spread.of(above[number] / below[number] for number in above if number in below)

    def share_of_peak(self, side: str) -> Spread:
        """What the loop's computations in a side's seconds are of what the machine could do."""
        seconds, peak = self.rounds(side), self.rounds("peak", "peak GFLOP/s")
        work = self.median("peak", "work GFLOP")
        return Spread.of(work / seconds[n] / peak[n] for n in seconds if n in peak)


def groups_of(rows: Sequence[Row], *works: str) -> list[Group]:
    """The cases of some works, in the order of ``works``, then of network and size."""
    cases: dict[tuple[str, str, int, int, int], list[Row]] = {}
    for row in rows:
        if row.work in works:
            cases.setdefault(row.case, []).append(row)
    networks = list(dict.fromkeys(row.backbone for row in rows))
    order = sorted(cases, key=lambda c: (works.index(c[0]), networks.index(c[1]), *c[2:]))
    return [Group(tuple(cases[case])) for case in order]


def short(value: float) -> str:
    """Three digits or so."""
    if math.isnan(value):
        return ""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
