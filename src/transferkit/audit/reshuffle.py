"""The reshuffle experiment: would the gap be there if chance had drawn the splits?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from transferkit._format import plain, plain_fields
from transferkit._sampling import deal_groups, deal_rows, group_codes
from transferkit._typing import JSON, BoolArray, FloatArray, Int64Array
from transferkit._validation import check_finite
from transferkit.audit.finding import json_interval
from transferkit.errors import ConfigError, DataError
from transferkit.metrics.logistic_regression import STRENGTHS, fit_probe

SEEDS = tuple(range(16))


class Score(NamedTuple):
    """A score and its interval."""

    score: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, JSON]:
        """Return score and interval as JSON-ready values."""
        return {"score": plain(self.score), "interval": json_interval(self.interval)}


@dataclass(frozen=True, slots=True)
class SplitScores:
    """Accuracy on val and test of a probe fitted on train, one entry per seed."""

    val: tuple[float, ...]
    test: tuple[float, ...]

    def to_dict(self) -> dict[str, JSON]:
        """Return the scores as JSON-ready lists."""
        return plain_fields(self)


@dataclass(frozen=True, slots=True)
class Reshuffle:
    """Official splits against pooled and re-split ones.

    Attributes:
        official: The probe on the splits as they are; one entry.
        at_random: The probe on re-splits of the same sizes and class shares, one entry per seed.
        by_group: The same with no group in two splits, or None without groups, or with so few
            that they cannot be dealt out.
    """

    official: SplitScores
    at_random: SplitScores
    by_group: SplitScores | None

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
        """What a random re-split gains by leaking groups: random minus by group, Welch interval."""
        if self.by_group is None:
            return None
        return _difference(self.at_random.test, self.by_group.test)

    def to_dict(self) -> dict[str, JSON]:
        """Return the experiment as JSON-ready values."""
        return plain_fields(self)


@dataclass(frozen=True, slots=True)
class Swap:
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

    def to_dict(self) -> dict[str, JSON]:
        """Return the four scores as JSON-ready values."""
        return plain_fields(self)


def expected(scores: Sequence[float], *, confidence: float = 0.95) -> Score:
    """Return the mean of scores over seeds and the interval in which one more score would lie."""
    values = np.asarray(scores, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Score(mean, (math.nan, math.nan))
    quantile = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    half = quantile * float(values.std(ddof=1)) * math.sqrt(1 + 1 / len(values))
    return Score(mean, (max(0.0, mean - half), min(1.0, mean + half)))


def _difference(a: Sequence[float], b: Sequence[float]) -> Score:
    first, second = np.asarray(a), np.asarray(b)
    value = float(first.mean() - second.mean())
    parts = [v.var(ddof=1) / len(v) if len(v) > 1 else math.nan for v in (first, second)]
    error = math.sqrt(sum(parts)) if all(map(math.isfinite, parts)) else math.nan
    half = 2.0 * error  # Welch; at 16 seeds a side the t quantile is 2.04
    return Score(value, (value - half, value + half))


def reshuffle(
    features: Mapping[str, FloatArray],
    labels: Mapping[str, Int64Array],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    num_classes: int | None = None,
    seeds: Sequence[int] = SEEDS,
) -> Reshuffle:
    """Score a probe on the splits as they are, and on pooled and re-split ones.

    If the official test score lies far below the re-split ones, the official splits were not
    drawn from one source; if re-splits by group score below random ones, the difference is what
    images of the same group on both sides give away.

    Args:
        features: "train", "val" and "test" to features (N, D).
        labels: The same to classes (N,).
        groups: The same to the groups, or None.
        num_classes: K; from the labels if None.
        seeds: One re-split each.

    Raises:
        DataError: A split is missing, or its arrays do not fit.
        ConfigError: No seeds.
    """
    parts = check_three(features, labels)
    if not seeds:
        raise ConfigError("the reshuffle experiment needs at least one seed")
    pooled = np.concatenate([features[name] for name in parts])
    classes = np.concatenate([labels[name] for name in parts])
    count = num_classes or int(classes.max()) + 1
    wanted = np.stack([np.bincount(labels[name], minlength=count) for name in parts])
    official = np.repeat(np.arange(3), [len(labels[name]) for name in parts])
    names = None if groups is None else np.concatenate([groups[name] for name in parts])
    codes = None if names is None else group_codes(names, len(classes))

    def run(by: Int64Array | None) -> SplitScores | None:
        rngs = (np.random.default_rng([seed, 7]) for seed in seeds)
        draws = (
            deal_rows(classes, wanted, rng) if by is None else deal_groups(classes, by, wanted, rng)
            for rng in rngs
        )
        usable = (split for split in draws if _usable(split, classes))
        scores = [_score(pooled, classes, split, count) for split in usable]
        if not scores:
            return None
        return SplitScores(*(tuple(column) for column in zip(*scores, strict=True)))

    val, test = _score(pooled, classes, official, count)
    own = SplitScores((val,), (test,))
    by_group = run(codes) if codes is not None else None
    return Reshuffle(own, run(None) or own, by_group)


def _usable(split: Int64Array, labels: Int64Array) -> bool:
    """Say whether every split got images, and train two classes: few large groups may not do."""
    filled = len(np.unique(split)) == 3
    return filled and len(np.unique(labels[split == 0])) > 1


def _score(
    features: FloatArray, labels: Int64Array, split: Int64Array, num_classes: int
) -> tuple[float, float]:
    train, val, test = (np.flatnonzero(split == part) for part in range(3))
    probe = fit_probe(features[train], labels[train], num_classes=num_classes)
    right = [probe.predict(features[rows]) == labels[rows] for rows in (val, test)]
    return float(right[0].mean()), float(right[1].mean())


def swap(
    features: Mapping[str, FloatArray],
    labels: Mapping[str, Int64Array],
    *,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
) -> Swap:
    """Let val and test change places.

    The probe is fitted on train with each regularisation strength; the best on val is scored on
    test, then the best on test is scored on val. If test is simply harder, the swap turns the
    gap around and does not close it.

    Raises:
        DataError: A split is missing, or its arrays do not fit.
    """
    check_three(features, labels)
    scores = np.array(
        [
            right_by_strength(features, labels, part, num_classes, strengths).mean(axis=1)
            for part in ("val", "test")
        ]
    )
    on_val, on_test = scores[0].argmax(), scores[1].argmax()
    return Swap(
        chosen_on_val=float(scores[1, on_val]),
        chosen_on_test=float(scores[0, on_test]),
        best_on_val=float(scores[0, on_val]),
        best_on_test=float(scores[1, on_test]),
    )


def right_by_strength(
    features: Mapping[str, FloatArray],
    labels: Mapping[str, Int64Array],
    part: str,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
) -> BoolArray:
    """Return which images of ``part`` the probe gets right, by regularisation strength (E, N)."""
    rows = []
    for strength in strengths:
        probe = fit_probe(
            features["train"], labels["train"], num_classes=num_classes, strength=strength
        )
        rows.append(probe.predict(features[part]) == labels[part])
    return np.array(rows)


def check_three(
    features: Mapping[str, FloatArray], labels: Mapping[str, Int64Array]
) -> tuple[str, str, str]:
    """Return the names of the three splits, each present with features that fit its labels.

    Raises:
        DataError: They are not.
    """
    for name in ("train", "val", "test"):
        if name not in features or name not in labels:
            raise DataError(
                f"this needs the splits train, val and test with labels, got {list(features)}"
            )
        check_finite(features[name], what=f"Features of {name}")
        if features[name].ndim != 2 or len(features[name]) != len(labels[name]):
            raise DataError(
                f"Features of {name} must have shape ({len(labels[name])}, D), one row per label, "
                f"got {features[name].shape}."
            )
        if not len(labels[name]):
            raise DataError(f"the split {name} is empty")
    return "train", "val", "test"
