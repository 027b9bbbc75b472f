"""The gap from val to test: its report, with the cost of each part, and the findings on it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Literal, NamedTuple

from scipy import stats

from transferkit._format import PlainResult, percent, percent_interval, plain, table
from transferkit._typing import JSON
from transferkit.audit.finding import BUDGET, AuditConfig, Evidence, Finding, json_interval, known
from transferkit.audit.reshuffle import SPLITS, Reshuffle, Score, Swap

PRIOR_SHIFT = "prior shift"
MOST_CLASSES = 8
"""Classes that are listed in full; of more, those with the largest parts."""


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
        val_interval: Its 95 % interval, by whole groups where there are groups.
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
        leakage: Gain in the scores of val and test by images that train has too (identical, as
            certain copies, or of its groups); empty where there are none, or nothing else.
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

    def largest_parts(self, most: int = MOST_CLASSES) -> dict[str, Estimate]:
        """Return the largest parts; the rest as one, without an interval, so that the sum stays."""
        if len(self.parts) <= most:
            return dict(self.parts)
        order = sorted(self.parts, key=lambda name: -abs(self.parts[name].value))
        rest = order[most - 1 :]
        shown = {name: part for name, part in self.parts.items() if name not in rest}
        value = sum(self.parts[name].value for name in rest)
        return shown | {f"{len(rest)} other parts": Estimate(value, (math.nan, math.nan))}

    def rows(self) -> list[tuple[str, str]]:
        """Return the report as rows of a title and a formatted number."""
        val, test = self.splits
        rows = [
            (f"score on {val}", percent_interval(self.val_score, self.val_interval)),
            (f"score on {test}", percent_interval(self.test_score, self.test_interval)),
            ("gap", points(self.gap)),
            *((f"  {name}", points(part)) for name, part in self.largest_parts().items()),
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
            [c.name, *(percent(None if math.isnan(share) else share) for share in astuple(c)[1:])]
            for c in self.classes
        ]
        if len(self.classes) > MOST_CLASSES:
            shares = [row for row in shares if f"within {row[0]}" in self.largest_parts()]
            shares.append([f"and {len(self.classes) - len(shares)} others", *["-"] * 4])
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


class Bar(NamedTuple):
    """One bar of the gap's figure, ``[start, end]`` and ``whisker`` on the scale of accuracy."""

    title: str
    kind: Literal["score", "loss", "gain", "other"]
    span: tuple[float, float]
    text: str
    whisker: tuple[float, float] | None = None


def waterfall(gap: GapReport) -> dict[str, object]:
    """Lay out how val's score becomes test's: bars, ticks, and x: accuracy to place, 0 to 1."""
    bars = list(_bars(gap))
    values = [v for bar in bars for v in (*bar.span, *(bar.whisker or ()))]
    lowest = min((v for v in values if math.isfinite(v) and v > 0), default=0.0)
    low = max(0.0, math.floor((lowest - 0.05) * 10) / 10)  # the axis begins a little below it
    step = 0.1 if 1 - low > 0.3 else 0.05
    return {
        "bars": bars,
        "ticks": [low + step * i for i in range(round((1 - low) / step) + 1)],
        "x": lambda value: (min(1.0, max(low, value)) - low) / (1 - low),
    }


def _bars(gap: GapReport) -> Iterator[Bar]:
    val, test = gap.splits
    yield _score_bar(f"score on {val}", "score", gap.val_score, gap.val_interval)
    at = gap.val_score
    for name, part in gap.largest_parts().items():
        yield _change_bar(name, at, -part.value)
        at -= part.value
    yield _score_bar(f"score on {test}", "score", gap.test_score, gap.test_interval)
    yield _change_bar("with a moved threshold", gap.test_score, gap.threshold.value)
    for how, again in (("at random", gap.reshuffled), ("by group", gap.reshuffled_by_group)):
        if again is not None:
            yield _score_bar(f"re-split {how}", "other", again.score, again.interval)


def _change_bar(title: str, start: float, change: float) -> Bar:
    kind: Literal["loss", "gain"] = "loss" if change < 0 else "gain"
    return Bar(title, kind, (start, start + change), f"{100 * change + 0.0:+.1f}")


def _score_bar(
    title: str, kind: Literal["score", "other"], score: float, interval: tuple[float, float]
) -> Bar:
    if not known(interval):
        return Bar(title, kind, (0.0, score), f"{percent(score)}, one re-split")
    return Bar(title, kind, (0.0, score), percent_interval(score, interval), interval)


def gap_findings(gap: GapReport, config: AuditConfig, alpha: float = 0.05) -> Iterator[Finding]:
    """Findings of an explained gap: the gap, the reshuffle experiment, leaks and optimism.

    Of splits from one source, gap and experiment are found faulty at their shares of ``alpha``.
    """
    val, test = gap.splits
    yield _gap(gap, config, alpha * BUDGET["gap"])
    if gap.experiment is not None:
        yield _reshuffle(gap.experiment, test, config, alpha * BUDGET["reshuffle"])
        if gap.group_gain is not None:
            yield _group_gain(gap.experiment, gap.group_gain, config)
    for split, leaked in gap.leakage.items():
        message = (
            f"Images of {split} that train has too, edited copies and groups included, change "
        )
        message += f"its score by {points(leaked)}."
        advice = f"Score {split} without them."
        yield _graded("score_without_leaks", (split,), *leaked, config, message, advice)
    if gap.optimism is not None:
        # Of the audit's own probe, or of epochs that were given: no fault of the data.
        message = f"Choosing the best on {val} flatters its score there by {points(gap.optimism)}."
        finding = _graded("choice_optimism", (val,), *gap.optimism, config, message, "")
        yield replace(finding, severity="info")


def _gap(gap: GapReport, config: AuditConfig, level: float) -> Finding:
    val, test = gap.splits
    message = (
        f"Accuracy is {percent(gap.val_score)} on {val} and {percent(gap.test_score)} on {test}, "
        f"by {gap.scored}. {gap.verdict}"
    )
    advice = f"Look at {gap.worst_class} of {test} first." if gap.gap.value > 0 else ""
    ratio = stats.norm.isf(level / 2) / stats.norm.isf(0.025)
    finding = _graded("gap", gap.splits, *gap.gap, config, message, advice, ratio=ratio)
    if finding.severity != "info":
        message += (
            f" Prior shift makes up {points(gap.parts[PRIOR_SHIFT])}, and a moved threshold would "
            f"bring back {points(gap.threshold)}."
        )
    evidence = tuple(Evidence((), f"{name}: {points(part)}") for name, part in gap.parts.items())
    return replace(finding, message=message, evidence=evidence)


def _reshuffle(experiment: Reshuffle, test: str, config: AuditConfig, level: float) -> Finding:
    """Compare the official test score with that of re-splits: by group, where there are groups."""
    again = experiment.reshuffled_by_group if experiment.grouped else experiment.reshuffled
    official = experiment.official.test[0]
    message = f"A probe scores {percent(official)} on {test} as it is"
    if again is None:
        return Finding(
            check="reshuffle",
            severity="info",
            splits=SPLITS,
            statistic=official,
            message=f"{message}; the groups are too few, or too large, to re-split by them.",
        )
    low, high = (bound - official for bound in again.interval)
    degrees = max(1, len(experiment.at_random.test) - 1)
    finding = _graded(
        "reshuffle",
        SPLITS,
        again.score - official,
        (low, high) if known((low, high)) else None,
        config,
        f"{message}, and {resplit_score(again)} after pooling and re-splitting "
        + ("by group" if experiment.grouped else "at random"),
        f"Report the score on {test} as one on new data, not as one on more of the same.",
        ratio=stats.t.isf(level / 2, degrees) / stats.t.isf(0.025, degrees),
    )
    # Groups that straddle the official splits flatter its score: only a lower one tells then.
    if finding.severity == "info" or (experiment.straddling and again.score < official):
        finding = replace(finding, severity="info", advice="")
        conclusion = "no more than chance would do"
    else:
        conclusion = "the official splits were not drawn from one source"
    return replace(finding, statistic=official, message=f"{finding.message}: {conclusion}.")


def _group_gain(experiment: Reshuffle, gain: Score, config: AuditConfig) -> Finding:
    """The cost of groups in two splits: a fault only where they are."""
    message = f"Re-splitting at random instead of by group changes the score by {points(gain)}."
    advice = "Split by group: a random split is flattered by images of the same group."
    finding = _graded("reshuffle_by_group", SPLITS, *gain, config, message, advice)
    if experiment.straddling:
        return finding
    message += " The official splits keep groups apart."
    return replace(finding, severity="info", message=message, advice="")


def _graded(
    check: str,
    splits: tuple[str, ...],
    value: float,
    interval: tuple[float, float] | None,
    config: AuditConfig,
    message: str,
    advice: str,
    *,
    ratio: float = 1.0,
) -> Finding:
    """A difference of accuracies; with advice if it is more than info.

    It is graded by its interval, made ``ratio`` times as wide: that of another confidence.
    """
    proven = interval and (
        value + ratio * (interval[0] - value),
        value + ratio * (interval[1] - value),
    )
    severity = config.gap.severity(value, interval=proven)
    return Finding(
        check=check,
        severity=severity,
        splits=splits,
        statistic=value,
        effect=value,
        interval=interval,
        message=message,
        advice="" if severity == "info" else advice,
    )
