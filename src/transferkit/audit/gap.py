"""The gap from one split to another, explained: what it is made of, and what each part costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from transferkit._text import percent, percent_interval, table
from transferkit._typing import JSON
from transferkit.audit.finding import json_interval, json_number, known
from transferkit.audit.reshuffle import Reshuffle, Score, Swap

PRIOR_SHIFT = "prior shift"


class Estimate(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, JSON]:
        """Return value and interval as JSON-ready values."""
        return {"value": json_number(self.value), "interval": json_interval(self.interval)}


@dataclass(frozen=True, slots=True)
class ClassGap:
    """One class on both sides of the gap.

    Attributes:
        name: The class.
        val_share: Its share of val.
        test_share: Its share of test.
        val_recall: Share of it that is right on val; NaN where it does not occur.
        test_recall: The same on test.
    """

    name: str
    val_share: float
    test_share: float
    val_recall: float
    test_recall: float

    def to_dict(self) -> dict[str, JSON]:
        """Return the class as JSON-ready values."""
        numbers = {key: json_number(getattr(self, key)) for key in self.__slots__ if key != "name"}
        return {"name": self.name, **numbers}


@dataclass(frozen=True, slots=True)
class GapReport:
    """The gap from val to test, explained; a positive part is accuracy lost.

    Attributes:
        val_score: Accuracy on val.
        val_interval: Its interval, groups respected.
        test_score: Accuracy on test.
        test_interval: Its interval.
        gap: val_score - test_score.
        parts: What it is made of, adding up exactly: "prior shift" (other class shares at the
            same recalls) and "within C" for each class C (another recall at the same share).
        worst_class: The class whose part is the largest.
        classes: Shares and recalls of each class on both sides.
        threshold: How much of the test score a moved decision threshold would bring back (an
            oracle: it is chosen with the test labels).
        sampling_noise: How far val and test of these sizes lie apart by chance in 95 of 100
            draws from one source.
        leakage: What the images that also lie in train add to val and test; empty where there
            are none, or all are, or nobody looked.
        optimism: What choosing the best epoch, or setting, on val adds to its score, or None.
        reshuffled: Test score after pooling and re-splitting at random, and where one more such
            score would lie, or None if the experiment was not run.
        reshuffled_by_group: The same with no group in two splits, or None.
        group_gain: What a random re-split gains by leaking groups, or None.
        experiment: All scores of the reshuffle experiment, or None.
        swap: Val and test in each other's place, or None.
        scored: What gave the scores, such as "a probe on transferkit features".
        splits: Names of the two sides.
    """

    val_score: float
    val_interval: tuple[float, float]
    test_score: float
    test_interval: tuple[float, float]
    gap: Estimate
    parts: Mapping[str, Estimate]
    worst_class: str
    classes: tuple[ClassGap, ...]
    threshold: Estimate
    sampling_noise: float
    leakage: Mapping[str, Estimate] = field(default_factory=dict)
    optimism: Estimate | None = None
    reshuffled: Score | None = None
    reshuffled_by_group: Score | None = None
    group_gain: Score | None = None
    experiment: Reshuffle | None = None
    swap: Swap | None = None
    scored: str = "a classifier"
    splits: tuple[str, str] = ("val", "test")

    def to_dict(self) -> dict[str, JSON]:
        """Return the report as JSON-ready values."""
        return {
            "splits": list(self.splits),
            "scored": self.scored,
            "val_score": self.val_score,
            "val_interval": list(self.val_interval),
            "test_score": self.test_score,
            "test_interval": list(self.test_interval),
            "gap": self.gap.to_dict(),
            "parts": {name: part.to_dict() for name, part in self.parts.items()},
            "worst_class": self.worst_class,
            "classes": [one.to_dict() for one in self.classes],
            "threshold": self.threshold.to_dict(),
            "sampling_noise": json_number(self.sampling_noise),
            "leakage": {name: one.to_dict() for name, one in self.leakage.items()},
            "optimism": self.optimism.to_dict() if self.optimism else None,
            "reshuffled": _score_dict(self.reshuffled),
            "reshuffled_by_group": _score_dict(self.reshuffled_by_group),
            "group_gain": _score_dict(self.group_gain),
            "experiment": self.experiment.to_dict() if self.experiment else None,
            "swap": self.swap.to_dict() if self.swap else None,
        }

    def rows(self) -> list[tuple[str, str]]:
        """Return the report as rows of a title and a formatted number."""
        val, test = self.splits
        rows = [
            (f"score on {val}", percent_interval(self.val_score, self.val_interval)),
            (f"score on {test}", percent_interval(self.test_score, self.test_interval)),
            ("gap", points(self.gap)),
            *((f"  {name}", points(part)) for name, part in self.parts.items()),
            ("a moved threshold would bring back", points(self.threshold)),
            ("apart by chance in 95 of 100 cases", f"±{100 * self.sampling_noise:.1f} points"),
        ]
        rows += [(f"leaked images add to {name}", points(e)) for name, e in self.leakage.items()]
        if self.optimism:
            rows.append((f"choosing the best on {val} adds", points(self.optimism)))
        rows += _experiment_rows(self)
        return rows

    def __str__(self) -> str:
        val, test = self.splits
        shares = [
            [
                one.name,
                *map(_share, (one.val_share, one.test_share, one.val_recall, one.test_recall)),
            ]
            for one in self.classes
        ]
        titles = ["class", f"share {val}", f"share {test}", f"recall {val}", f"recall {test}"]
        return "\n\n".join(
            [
                f"The gap from {val} to {test}, by {self.scored}",
                table(["", "value [95 % interval]"], self.rows()),
                table(titles, shares),
                f"The gap lives most in class {self.worst_class}.",
            ]
        )


def points(estimate: Estimate | Score) -> str:
    """Format a difference of shares in percentage points, with its interval if it is known."""
    value, interval = estimate
    if not known(interval):
        return f"{_signed(value)} points (no interval)"
    return f"{_signed(value)} points [{', '.join(map(_signed, interval))}]"


def resplit_score(score: Score) -> str:
    """Format the score of re-splits with its interval, which a single one does not have."""
    if not known(score.interval):
        return f"{percent(score.score)} (one re-split has no interval)"
    return percent_interval(*score)


def _signed(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # nothing lost is +0.0, never -0.0


def _share(value: float) -> str:
    return percent(value) if math.isfinite(value) else "-"


def _score_dict(score: Score | None) -> JSON:
    if score is None:
        return None
    return {"score": json_number(score.score), "interval": json_interval(score.interval)}


def _experiment_rows(report: GapReport) -> list[tuple[str, str]]:
    rows = []
    for how, score in (
        ("at random", report.reshuffled),
        ("by group", report.reshuffled_by_group),
    ):
        if score is not None:
            rows.append((f"re-split {how}, test score", resplit_score(score)))
    if report.group_gain is not None:
        rows.append(("leaking groups gains", points(report.group_gain)))
    if report.swap is not None:
        val, test = report.splits
        rows.append((f"chosen on {val}, scored on {test}", percent(report.swap.chosen_on_val)))
        rows.append((f"chosen on {test}, scored on {val}", percent(report.swap.chosen_on_test)))
    return rows
