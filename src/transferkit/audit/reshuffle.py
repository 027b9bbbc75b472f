"""The reshuffle experiment: would the gap be there if chance had drawn the splits?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from transferkit._format import PlainResult, plain
from transferkit._sampling import deal_groups, deal_rows, group_codes
from transferkit._typing import JSON, BoolArray, FloatArray, Int64Array
from transferkit.audit.finding import json_interval
from transferkit.metrics.logistic_regression import STRENGTHS, fit_probe

SEEDS = tuple(range(16))
SPLITS = ("train", "val", "test")


class Score(NamedTuple):
    """A score and its interval."""

    score: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, JSON]:
        """Return score and interval as JSON-ready values."""
        return {"score": plain(self.score), "interval": json_interval(self.interval)}


@dataclass(frozen=True, slots=True)
class SplitScores(PlainResult):
    """Accuracy on val and test of a probe fitted on train, one entry per seed."""

    val: tuple[float, ...]
    test: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Reshuffle(PlainResult):
    """Official splits against pooled and re-split ones.

    Attributes:
        official: The probe on the splits as they are; one entry.
        at_random: The probe on re-splits of the same sizes and class shares, one entry per seed.
        by_group: The same with no group in two splits, or None without groups, or with so few
            that they cannot be dealt out.
        grouped: Whether the images have groups.
        straddling: Whether a group lies in two of the official splits.
    """

    official: SplitScores
    at_random: SplitScores
    by_group: SplitScores | None
    grouped: bool = False
    straddling: bool = False

    @property
    def reshuffled(self) -> Score:
        """Mean test score of random re-splits, and where one more would lie, at 95 %."""
        return expected(self.at_random.test)

    @property
    def reshuffled_by_group(self) -> Score | None:
        """The same of re-splits by group."""
        return expected(self.by_group.test) if self.by_group is not None else None

    @property
    def group_gain(self) -> Score | None:
        """Gain of a random re-split by leaking groups: random minus by group, Welch interval."""
        if self.by_group is None:
            return None
        return _difference(self.at_random.test, self.by_group.test)


@dataclass(frozen=True, slots=True)
class Swap(PlainResult):
    """Val and test in each other's place: the probe's setting chosen on one, scored on the other.

    Attributes:
        chosen_on_val: Score on test of the setting that was best on val.
        chosen_on_test: Score on val of the setting that was best on test.
        best_on_val: Score on val of the setting that was best there.
        best_on_test: Score on test of the setting that was best there.
    """

    chosen_on_val: float
    chosen_on_test: float
    best_on_val: float
    best_on_test: float


def expected(scores: Sequence[float]) -> Score:
    """Return the mean of scores over seeds, and where one more would lie in 95 of 100 cases."""
    values = np.asarray(scores, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Score(mean, (math.nan, math.nan))
    quantile = float(stats.t.ppf(0.975, len(values) - 1))
    half = quantile * float(values.std(ddof=1)) * math.sqrt(1 + 1 / len(values))
    return Score(mean, (max(0.0, mean - half), min(1.0, mean + half)))


def _difference(a: Sequence[float], b: Sequence[float]) -> Score:
    first, second = np.asarray(a), np.asarray(b)
    value = float(first.mean() - second.mean())
    if min(len(first), len(second)) < 2:
        return Score(value, (math.nan, math.nan))
    # Welch; at 16 seeds a side the t quantile is 2.04
    half = 2.0 * math.sqrt(sum(v.var(ddof=1) / len(v) for v in (first, second)))
    return Score(value, (value - half, value + half))


def reshuffle(
    features: Mapping[str, FloatArray],
    labels: Mapping[str, Int64Array],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    num_classes: int,
    seeds: Sequence[int] = SEEDS,
) -> Reshuffle:
    """Score a probe on the splits as they are, and on pooled and re-split ones, one per seed.

    Each mapping holds "train", "val" and "test": features (N, D), labels (N,), groups (N,).
    """
    pooled = np.concatenate([features[name] for name in SPLITS])
    classes = np.concatenate([labels[name] for name in SPLITS])
    wanted = np.stack([np.bincount(labels[name], minlength=num_classes) for name in SPLITS])
    official = np.repeat(np.arange(3), [len(labels[name]) for name in SPLITS])
    codes = None
    if groups is not None:
        codes = group_codes(np.concatenate([groups[name] for name in SPLITS]), len(classes))

    def run(by: Int64Array | None) -> SplitScores | None:
        rngs = (np.random.default_rng([seed, 7]) for seed in seeds)
        draws = (
            deal_rows(classes, wanted, rng) if by is None else deal_groups(classes, by, wanted, rng)
            for rng in rngs
        )
        usable = (split for split in draws if _usable(split, classes))
        scores = [_score(pooled, classes, split, num_classes) for split in usable]
        return SplitScores(*(tuple(c) for c in zip(*scores, strict=True))) if scores else None

    val, test = _score(pooled, classes, official, num_classes)
    own = SplitScores((val,), (test,))
    straddling = codes is not None and len(set(zip(codes, official, strict=True))) > codes.max() + 1
    return Reshuffle(
        official=own,
        at_random=run(None) or own,
        by_group=None if codes is None else run(codes),
        grouped=codes is not None,
        straddling=bool(straddling),
    )


def _usable(split: Int64Array, labels: Int64Array) -> bool:
    """Say whether every split got images, and train two classes: few large groups may not do."""
    filled = len(np.unique(split)) == 3
    return filled and len(np.unique(labels[split == 0])) > 1


def _score(
    features: FloatArray, labels: Int64Array, split: Int64Array, num_classes: int
) -> tuple[float, float]:
    """Accuracy on val and test of a probe fitted on train."""
    train, val, test = (np.flatnonzero(split == part) for part in range(3))
    probe = fit_probe(features[train], labels[train], num_classes=num_classes)
    right = [probe.predict(features[rows]) == labels[rows] for rows in (val, test)]
    return float(right[0].mean()), float(right[1].mean())


def swap(right: Mapping[str, BoolArray]) -> Swap:
    """Choose a setting of the probe on val and score it on test, and the other way round.

    If test is simply harder, that turns the gap around and does not close it.
    """
    val, test = right["val"].mean(axis=1), right["test"].mean(axis=1)
    on_val, on_test = val.argmax(), test.argmax()
    return Swap(
        chosen_on_val=float(test[on_val]),
        chosen_on_test=float(val[on_test]),
        best_on_val=float(val[on_val]),
        best_on_test=float(test[on_test]),
    )


def right_by_strength(
    features: Mapping[str, FloatArray], labels: Mapping[str, Int64Array], num_classes: int
) -> dict[str, BoolArray]:
    """Which images of val and test a probe gets right, by regularisation strength (E, N)."""
    probes = [
        fit_probe(features["train"], labels["train"], num_classes=num_classes, strength=strength)
        for strength in STRENGTHS
    ]
    return {
        name: np.stack([probe.predict(features[name]) == labels[name] for probe in probes])
        for name in ("val", "test")
    }
