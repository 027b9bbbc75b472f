"""The gap from one split to another, explained: what it is made of, and what each part costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from transferkit._format import percent, percent_interval, table
from transferkit._sampling import group_codes
from transferkit._typing import JSON, BoolArray, Float64Array, FloatArray, Int64Array
from transferkit.audit.finding import json_interval, json_number, known
from transferkit.audit.reshuffle import (
    SEEDS,
    Reshuffle,
    Score,
    Swap,
    reshuffle,
    right_by_strength,
    swap,
)
from transferkit.errors import DataError
from transferkit.metrics.bootstrap import Tally, bootstrap_tallies, tally

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


_ROUNDS = 20


def best_offsets(scores: Float64Array, labels: Int64Array) -> Float64Array:
    """Find what to add to each class's score so that the most images come out right.

    With two classes this is the exact best threshold; with more, one class is moved at a time,
    exactly, until nothing improves.

    Args:
        scores: Logits or log-probabilities (N, K).
        labels: True classes (N,).

    Returns:
        Offsets (K,); all zero where no threshold beats the plain one.
    """
    offsets = np.zeros(scores.shape[1])
    best = _right(scores, labels).sum()
    for _ in range(_ROUNDS):
        before = best
        for label in range(scores.shape[1]):
            trial = offsets.copy()
            trial[label] += _best_move(scores + offsets, labels, label)
            count = _right(scores + trial, labels).sum()
            if count > best:
                best, offsets = count, trial
        if best == before:
            break
    return offsets


def _right(scores: Float64Array, labels: Int64Array) -> BoolArray:
    right: BoolArray = scores.argmax(axis=1) == labels
    return right


def _best_move(scores: Float64Array, labels: Int64Array, label: int) -> float:
    """Return the best shift of one class's scores.

    An image goes to ``label`` once the shift passes its lead: there it is won if it is of that
    class, and lost if it was right before.
    """
    others = np.delete(scores, label, axis=1)
    rival = others.argmax(axis=1)
    rival += rival >= label
    lead = others.max(axis=1) - scores[:, label]
    gain = np.where(labels == label, 1, np.where(rival == labels, -1, 0))
    use = np.isfinite(lead)
    order = np.argsort(lead[use], kind="stable")
    leads, gains = lead[use][order], np.cumsum(gain[use][order])
    if not len(leads):
        return 0.0
    last = np.append(leads[1:] > leads[:-1], True)  # between equal leads no threshold fits
    gains = np.where(last, gains, -len(labels) - 1)
    place = int(gains.argmax())
    if gains[place] <= 0:
        return float(leads[0]) - 1.0
    upper = leads[place + 1] if place + 1 < len(leads) else leads[place] + 2.0
    return float((leads[place] + upper) / 2)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSplit:
    """What a classifier made of one split.

    Attributes:
        labels: True classes (N,).
        scores: Logits or log-probabilities (N, K).
        groups: Group of each image (N,), or None.
        leaked: Which images also lie in train (N,), or None if nobody looked.
    """

    labels: Int64Array
    scores: Float64Array
    groups: Sequence[str] | None = None
    leaked: BoolArray | None = None

    def check(self, name: str) -> None:
        """Refuse arrays that do not fit.

        Raises:
            DataError: They do not.
        """
        count = len(self.labels)
        if not count:
            raise DataError(f"{name} has no labelled images, so there is no gap to explain")
        if self.scores.ndim != 2 or len(self.scores) != count:
            raise DataError(
                f"expected scores of {name} of shape ({count}, K), got {self.scores.shape}"
            )
        if np.isnan(self.scores).any():
            row = int(np.argwhere(np.isnan(self.scores))[0, 0])
            raise DataError(f"the scores of {name} hold NaN, the first in row {row}")
        for what, values in (("groups", self.groups), ("leaked marks", self.leaked)):
            if values is not None and len(values) != count:
                raise DataError(f"expected {count} {what} for {name}, got {len(values)}")

    @property
    def right(self) -> Float64Array:
        """1 for images that are predicted right, else 0 (N,)."""
        right: BoolArray = self.scores.argmax(axis=1) == self.labels
        return right.astype(np.float64)


def decompose(val: Tally, test: Tally) -> tuple[Float64Array, Float64Array]:
    """Split an accuracy difference into prior shift and within-class shift.

    accuracy = sum over classes of share x recall, so the difference is, exactly,
    sum (difference of shares) x (mean recall) + sum (mean share) x (difference of recalls):
    Kitagawa, "Components of a difference between two rates" (1955), the symmetric form of the
    Oaxaca-Blinder decomposition. A class that occurs on one side only keeps its recall of that
    side, and so counts as prior shift.

    Args:
        val: Counts (..., K) of one side.
        test: Counts of the other.

    Returns:
        The prior part (...) and the within-class parts (..., K) of val minus test.
    """
    a, b = val.recalls, test.recalls
    a, b = np.where(np.isnan(a), b, a), np.where(np.isnan(b), a, b)
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    prior = ((val.shares - test.shares) * (a + b) / 2).sum(axis=-1)
    within = (a - b) * (val.shares + test.shares) / 2
    return prior, within


def explain_scores(
    val: ScoredSplit,
    test: ScoredSplit,
    *,
    classes: Sequence[str],
    samples: int = 1000,
    seed: int = 0,
    splits: tuple[str, str] = ("val", "test"),
) -> GapReport:
    """Explain the gap between the scores of two splits.

    Intervals are 95 % percentile bootstraps over groups (images without groups), with one right
    and one wrong image added to each class against overconfidence in few or perfect images.

    Args:
        val: The split that was scored higher, as a rule.
        test: The other.
        classes: K class names.
        samples: Bootstrap draws.
        seed: Seed of the draws.
        splits: Names of the two.

    Raises:
        DataError: A split without labels or images, or arrays that do not fit.
    """
    val.check(splits[0])
    test.check(splits[1])
    count = len(classes)
    exact = [tally(side.labels, side.right, count) for side in (val, test)]
    drawn = [
        _draw(side, side.right, side.labels, count, samples, [seed, number])
        for number, side in enumerate((val, test))
    ]
    prior, within = decompose(exact[0], exact[1])
    priors, withins = decompose(drawn[0], drawn[1])
    parts = {PRIOR_SHIFT: estimate(float(prior), priors)}
    for label, name in enumerate(classes):
        parts[f"within {name}"] = estimate(float(within[label]), withins[:, label])
    spread = [float(one.accuracy.std()) for one in drawn]
    scores = [float(one.accuracy) for one in exact]
    return GapReport(
        val_score=scores[0],
        val_interval=estimate(scores[0], drawn[0].accuracy).interval,
        test_score=scores[1],
        test_interval=estimate(scores[1], drawn[1].accuracy).interval,
        gap=estimate(scores[0] - scores[1], drawn[0].accuracy - drawn[1].accuracy),
        parts=parts,
        worst_class=classes[int(np.argmax(within))],
        classes=_class_gaps(exact[0], exact[1], classes),
        threshold=_threshold(test, samples, seed),
        sampling_noise=1.96 * math.hypot(*spread),
        leakage=_leakages(val, test, splits, samples, seed),
        splits=splits,
    )


def estimate(value: float, draws: Float64Array) -> Estimate:
    """Return ``value`` with the 95 % percentile interval of ``draws``, which always holds it."""
    low, high = (float(bound) for bound in np.nanquantile(draws, [0.025, 0.975]))
    return Estimate(value, (min(low, value), max(high, value)))


def _draw(
    side: ScoredSplit,
    values: Float64Array,
    labels: Int64Array,
    count: int,
    samples: int,
    seed: Sequence[int],
    *,
    smooth: bool | BoolArray = True,
) -> Tally:
    return bootstrap_tallies(
        labels,
        values,
        group_codes(side.groups, len(labels)),
        num_classes=count,
        samples=samples,
        rng=np.random.default_rng(seed),
        smooth=smooth,
    )


def _class_gaps(val: Tally, test: Tally, classes: Sequence[str]) -> tuple[ClassGap, ...]:
    columns = (val.shares, test.shares, val.recalls, test.recalls)
    return tuple(
        ClassGap(name, *(float(column[label]) for column in columns))
        for label, name in enumerate(classes)
    )


def _threshold(test: ScoredSplit, samples: int, seed: int) -> Estimate:
    """Estimate what the best offsets would gain on test."""
    moved = (test.scores + best_offsets(test.scores, test.labels)).argmax(axis=1) == test.labels
    gain = moved - test.right
    one = np.zeros(len(gain), np.int64)
    drawn = _draw(test, gain, one, 1, samples, [seed, 2], smooth=False)
    return estimate(float(gain.mean()), drawn.accuracy)


def _leakages(
    val: ScoredSplit, test: ScoredSplit, splits: tuple[str, str], samples: int, seed: int
) -> dict[str, Estimate]:
    return {
        name: _leakage(side, side.leaked, samples, [seed, 3 + number])
        for number, (name, side) in enumerate(zip(splits, (val, test), strict=True))
        if side.leaked is not None and side.leaked.any() and not side.leaked.all()
    }


def _leakage(side: ScoredSplit, leaked: BoolArray, samples: int, seed: Sequence[int]) -> Estimate:
    """Estimate the accuracy with the leaked images minus that without them, class by class.

    Class by class, because leaving out images of an easy class would lower the score even if they
    gave nothing away. The kept images are smoothed; leaked ones are as good as always right, and a
    few of them would be bent too far.
    """
    count = side.scores.shape[1]
    cells = side.labels + count * leaked
    exact = tally(cells, side.right, 2 * count)
    kept = np.arange(2 * count) < count
    drawn = _draw(side, side.right, cells, 2 * count, samples, seed, smooth=kept)
    return estimate(float(_inflation(exact)), _inflation(drawn))


def _inflation(cells: Tally) -> Float64Array:
    """Return the accuracy minus that of the kept images at the same class shares (...)."""
    kept, leaked = np.split(cells.images, 2, axis=-1)
    kept_right, leaked_right = np.split(cells.right, 2, axis=-1)
    whole = Tally(kept + leaked, kept_right + leaked_right)
    known = (kept > 0) & (leaked > 0)
    drop = np.where(known, whole.recalls - Tally(kept, kept_right).recalls, 0)
    inflation: Float64Array = (whole.shares * drop).sum(axis=-1)
    return inflation


def choice_optimism(
    right: BoolArray,
    *,
    groups: Sequence[str] | None = None,
    halvings: int = 8,
    samples: int = 200,
    seed: int = 0,
) -> Estimate:
    """Estimate how much the best of E epochs flatters the split that it was chosen on.

    The best epoch's score, minus the mean score on one half of the split of the epoch that is
    best on the other half. Its 95 % interval is a bootstrap over groups.

    Args:
        right: Which images are predicted right after each epoch (E, N).
        groups: Group of each image (N,), kept in one half.
        halvings: Ways to halve the split, per bootstrap draw; each is used in both directions.
        samples: Bootstrap draws.
        seed: Seed of the halves and draws.

    Raises:
        DataError: No epoch, or fewer than two groups to halve.
    """
    codes = group_codes(groups, right.shape[1] if right.ndim == 2 else 0)
    if right.ndim != 2 or not len(right) or len(codes) < 2 or codes.max() < 1:
        raise DataError(
            f"expected right predictions (epochs, images) of two groups or more, got shape "
            f"{right.shape}"
        )
    units = int(codes.max()) + 1
    hits = np.zeros((units, len(right)))
    np.add.at(hits, codes, right.T.astype(np.float64))
    sizes = np.bincount(codes).astype(np.float64)
    rng = np.random.default_rng(seed)
    value = _optimism(hits, sizes, np.ones(units), 25 * halvings, rng)
    draws = [
        _optimism(hits, sizes, weights, halvings, rng)
        for weights in rng.multinomial(units, np.full(units, 1 / units), size=samples)
    ]
    low, high = (float(bound) for bound in np.quantile(draws, [0.025, 0.975]))
    return Estimate(value, (min(low, value), max(high, value)))


def _optimism(
    hits: Float64Array,
    sizes: Float64Array,
    weights: Float64Array | Int64Array,
    halvings: int,
    rng: np.random.Generator,
) -> float:
    half = rng.permuted(np.tile(np.arange(len(sizes)) % 2, (halvings, 1)), axis=1)
    chosen = np.concatenate([half, 1 - half]) * weights
    judged = np.concatenate([1 - half, half]) * weights
    best = (chosen @ hits).argmax(axis=1)
    scored = np.take_along_axis(judged @ hits, best[:, None], axis=1)[:, 0]
    flattered = float((weights @ hits).max() / (weights @ sizes))
    images = judged @ sizes
    filled = images > 0  # a draw may put all its groups into one half
    if not filled.any():
        return 0.0
    return flattered - float((scored[filled] / images[filled]).mean())


def explain_splits(
    labels: Mapping[str, Int64Array],
    features: Mapping[str, FloatArray],
    scores: Mapping[str, Float64Array],
    *,
    classes: Sequence[str],
    groups: Mapping[str, Sequence[str]] | None = None,
    leaked: Mapping[str, BoolArray] | None = None,
    scored: str = "a classifier",
    epoch_predictions: ArrayLike | None = None,
    seeds: Sequence[int] = SEEDS,
    samples: int = 1000,
    seed: int = 0,
) -> GapReport:
    """Explain the gap from val to test, as :func:`transferkit.explain_gap` does.

    Each mapping holds "train", "val" and "test": labels (N,), features (N, D), logits (N, K).
    """
    sides = [
        ScoredSplit(
            labels[name],
            scores[name],
            None if groups is None else groups[name],
            None if leaked is None else leaked[name],
        )
        for name in ("val", "test")
    ]
    report = explain_scores(sides[0], sides[1], classes=classes, samples=samples, seed=seed)
    experiment = reshuffle(features, labels, groups=groups, num_classes=len(classes), seeds=seeds)
    return replace(
        report,
        scored=scored,
        optimism=_best_epoch(epoch_predictions, features, labels, groups, len(classes), seed),
        reshuffled=experiment.reshuffled,
        reshuffled_by_group=experiment.reshuffled_by_group,
        group_gain=experiment.group_gain,
        experiment=experiment,
        swap=swap(features, labels, num_classes=len(classes)),
    )


def _best_epoch(
    epoch_predictions: ArrayLike | None,
    features: Mapping[str, FloatArray],
    labels: Mapping[str, Int64Array],
    groups: Mapping[str, Sequence[str]] | None,
    count: int,
    seed: int,
) -> Estimate | None:
    """What choosing the best epoch on val, or else the probe's best setting, adds to its score."""
    if epoch_predictions is None:
        right = right_by_strength(features, labels, "val", count)
    else:
        predicted = np.asarray(epoch_predictions)
        if predicted.ndim != 2 or predicted.shape[1] != len(labels["val"]):
            raise DataError(
                f"expected epoch_predictions of shape (epochs, {len(labels['val'])}), "
                f"got {predicted.shape}"
            )
        right = predicted == labels["val"]
    own = None if groups is None else groups["val"]
    if (len(labels["val"]) if own is None else len(set(own))) < 2:
        return None
    return choice_optimism(right, groups=own, seed=seed)
