"""The report of the gap from val to test: its parts, and the cost of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from transferkit._format import PlainResult, percent, percent_interval, plain, table
from transferkit._typing import JSON
from transferkit.audit.finding import json_interval, known
from transferkit.audit.reshuffle import Reshuffle, Score, Swap

PRIOR_SHIFT = "prior shift"


class Estimate(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, JSON]:
        """Return value and interval as JSON-ready values."""
        return {"value": plain(self.value), "interval": json_interval(self.interval)}


@dataclass(frozen=True, slots=True)
class ClassGap(PlainResult):
    """One class on both sides of the gap.

    Attributes:
        name: The class.
        val_share: Its share of val.
        test_share: Its share of test.
        val_recall: Share of its val images that are predicted right; NaN if val has none.
        test_recall: The same on test.
    """

    name: str
    val_share: float
    test_share: float
    val_recall: float
    test_recall: float


@dataclass(frozen=True, slots=True)
class GapReport(PlainResult):
    """The gap from val to test, explained; a positive part is accuracy lost.

    Attributes:
        val_score: Accuracy on val.
        val_interval: Its 95 % interval; groups are drawn whole.
        test_score: Accuracy on test.
        test_interval: Its interval.
        gap: val_score - test_score.
        parts: The summands of the gap: "prior shift" (the class shares differ at the same
            recalls) and "within C" for each class C of both sides (its recall differs at the same
            share). A class of one side only counts as prior shift.
        worst_class: The class with the largest part.
        classes: Shares and recalls of each class on both sides.
        threshold: Gain in test score by a moved decision threshold; each image is
            classified with the threshold that is best on other test images.
        sampling_noise: How far val and test of these sizes lie apart by chance in 95 of 100
            draws from one source.
        leakage: Gain in the scores of val and test by images that also lie in train; empty
            where there are none, or nothing else, or they were not looked for.
        optimism: Gain in the val score by choosing the best epoch, or setting, on it, or None.
        reshuffled: Test score after pooling and re-splitting at random, and where one more such
            score would lie, or None if the experiment was not run.
        reshuffled_by_group: The same with no group in two splits, or None.
        group_gain: Gain of a random re-split by leaking groups, or None.
        experiment: All scores of the reshuffle experiment, or None.
        swap: Val and test in each other's place, or None.
        scored: Source of the scores, such as "a probe on features of transferkit/formula_resnet18".
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

    @property
    def verdict(self) -> str:
        """One sentence: where the gap lies, or that there is none beyond chance."""
        low, high = self.gap.interval
        val, test = self.splits
        if low > 0:
            return f"The gap lies mostly in class {self.worst_class}."
        if high < 0:
            return f"There is no gap to explain: the score on {test} is higher than on {val}."
        return "There is no gap beyond the noise of the samples."

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
        resplits = (("at random", self.reshuffled), ("by group", self.reshuffled_by_group))
        rows += [(f"re-split {how}, test score", resplit_score(s)) for how, s in resplits if s]
        if self.group_gain is not None:
            rows.append(("leaking groups gains", points(self.group_gain)))
        if self.swap is not None:
            rows.append((f"chosen on {val}, scored on {test}", percent(self.swap.chosen_on_val)))
            rows.append((f"chosen on {test}, scored on {val}", percent(self.swap.chosen_on_test)))
        return rows

    def __str__(self) -> str:
        val, test = self.splits
        shares = [
            [c.name, *map(_share, (c.val_share, c.test_share, c.val_recall, c.test_recall))]
            for c in self.classes
        ]
        titles = ["class", f"share {val}", f"share {test}", f"recall {val}", f"recall {test}"]
        return "\n\n".join(
            [
                f"The gap from {val} to {test}, by {self.scored}",
                table(["", "value [95 % interval]"], self.rows()),
                table(titles, shares),
                self.verdict,
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
