"""The linear probe: logistic regression on frozen features, scored on held-out images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import (
    StratifiedGroupKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
)

from transferkit._format import percent, plain_fields, table
from transferkit._sampling import deal_groups, group_codes, quotas, stratified_order
from transferkit._typing import JSON, Float64Array, Int64Array
from transferkit.errors import DataError
from transferkit.metrics.intervals import bootstrap_means, percentile_interval, wilson_interval
from transferkit.metrics.logistic_regression import Probe, fit_probe

FOLDS = 5
HELD_OUT = 0.25
PENALTY = 1e-2


class ProbeScore(NamedTuple):
    """Accuracy of a cross-validated linear probe, and its interval of 95 %."""

    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class ProbeCurve:
    """Accuracy of a linear probe against the number of images it learns from.

    Attributes:
        sizes: Training images ``(S,)``, rising.
        accuracies: Held-out accuracy ``(S, R)`` of each size in each repeat.
        held_out: Test images of each repeat.
    """

    sizes: Int64Array
    accuracies: Float64Array
    held_out: int

    @property
    def means(self) -> Float64Array:
        """Mean accuracy of each size ``(S,)``."""
        values: Float64Array = self.accuracies.mean(axis=1)
        return values

    @property
    def gain_per_doubling(self) -> float:
        """Accuracy that the last doubling of the images brought; near zero, more would not help."""
        doublings = np.log2(self.sizes[-1] / self.sizes[-2])
        return float((self.means[-1] - self.means[-2]) / doublings)

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        return plain_fields(self) | {"gain_per_doubling": self.gain_per_doubling}

    def __str__(self) -> str:
        rows = [
            [str(size), percent(scores.mean()), percent(scores.min()), percent(scores.max())]
            for size, scores in zip(self.sizes.tolist(), self.accuracies, strict=True)
        ]
        return table(["images", "accuracy", "lowest", "highest"], rows, left=0)


def probe_score(
    features: Float64Array,
    labels: Int64Array,
    *,
    penalty: float = PENALTY,
    groups: Int64Array | None = None,
    seed: int = 0,
) -> ProbeScore:
    """Cross-validate a linear probe; no group (its code, ``(N,)``) straddles folds."""
    classes, right = int(labels.max()) + 1, np.zeros(len(labels))
    for train, held in _folds(labels, groups, seed):
        probe = _fit(features[train], labels[train], penalty, classes)
        right[held] = probe.predict(features[held]) == labels[held]
    if groups is None:
        interval = wilson_interval(int(right.sum()), len(right))
    else:
        means = bootstrap_means(right, samples=2000, seed=seed, groups=groups)
        interval = percentile_interval(means)
    return ProbeScore(float(right.mean()), interval)


def probe_curve(
    features: Float64Array,
    labels: Int64Array,
    *,
    points: int = 5,
    repeats: int = 5,
    groups: Int64Array | None = None,
    seed: int = 0,
) -> ProbeCurve:
    """Learning curve of the linear probe: would more images help?

    Each repeat holds out its own stratified quarter, groups whole, and trains on nested parts of
    the rest, each twice as large as the one before: ``points`` parts, or as images are enough for.
    """
    classes = int(labels.max()) + 1
    draws = list(_held_out(labels, groups, repeats, seed))
    full = min(len(train) for train, _ in draws)
    sizes = np.array([full // 2**step for step in range(points)][::-1])
    sizes = sizes[sizes >= 4 * classes]
    if len(sizes) < 2:
        raise DataError(
            f"A learning curve of {classes} classes needs about {11 * classes} images or more, "
            f"got {len(labels)}."
        )
    columns = []
    for train, held in draws:
        own = None if groups is None else group_codes(groups[train], len(train))
        order = train[stratified_order(labels[train], own, first=2)]
        probes = [_fit(features[order[:n]], labels[order[:n]], PENALTY, classes) for n in sizes]
        columns.append([float(np.mean(p.predict(features[held]) == labels[held])) for p in probes])
    held_out = round(float(np.mean([len(held) for _, held in draws])))
    return ProbeCurve(sizes=sizes, accuracies=np.array(columns).T, held_out=held_out)


def _fit(features: Float64Array, labels: Int64Array, penalty: float, num_classes: int) -> Probe:
    strength = 1 / (penalty * len(labels))
    return fit_probe(features, labels, num_classes=num_classes, strength=strength)


def _folds(
    labels: Int64Array, groups: Int64Array | None, seed: int
) -> Iterator[tuple[Int64Array, Int64Array]]:
    """Train and held-out rows of each fold."""
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = splitter(min(FOLDS, _fewest(labels, groups)), shuffle=True, random_state=seed)
    yield from folds.split(labels, labels, groups)


def _held_out(
    labels: Int64Array, groups: Int64Array | None, repeats: int, seed: int
) -> Iterator[tuple[Int64Array, Int64Array]]:
    """Train and held-out rows of each repeat."""
    _fewest(labels, groups)
    counts = np.bincount(labels)
    size = max(len(counts), round(HELD_OUT * len(labels)))
    if groups is None:
        splitter = StratifiedShuffleSplit(repeats, test_size=size, random_state=seed)
        yield from splitter.split(labels, labels)
        return
    held = quotas(counts.astype(np.float64), size)
    for rng in np.random.default_rng(seed).spawn(repeats):
        part = deal_groups(labels, groups, np.stack([counts - held, held]), rng)
        if len(set(labels[part == 0].tolist())) < 2 or not (part == 1).any():
            raise DataError("The groups are too few, or too large, to hold some of them out.")
        yield np.flatnonzero(part == 0), np.flatnonzero(part == 1)


def _fewest(labels: Int64Array, groups: Int64Array | None) -> int:
    """Images, or groups, of the rarest class: two at least."""
    unit = "images" if groups is None else "groups"
    codes = group_codes(groups, len(labels))
    fewest = min(len(np.unique(codes[labels == k])) for k in np.unique(labels))
    if fewest < 2:
        raise DataError(
            f"Judging a probe on images that it has not seen needs at least two {unit} of each "
            "class, got one of some class."
        )
    return fewest
