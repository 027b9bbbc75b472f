"""The linear probe: logistic regression on frozen features, scored on held-out images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from transferkit._format import percent, plain_fields, table
from transferkit._sampling import fold_numbers, group_codes, stratified_order
from transferkit._typing import JSON, Float64Array, Int64Array
from transferkit.errors import DataError
from transferkit.metrics.intervals import share_interval
from transferkit.metrics.logistic_regression import Probe, fit_probe

FOLDS, SIZES = 5, 5
"""Folds of a score, and sizes of a learning curve."""
PENALTY = 1e-2
"""What is minimised is the mean loss of an image plus PENALTY / 2 times the squared weights, for
standardised features; two classes have one vector of weights between them, as in scikit-learn."""


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
    features: Float64Array, labels: Int64Array, *, groups: Int64Array | None = None, seed: int = 0
) -> ProbeScore:
    """Cross-validate a linear probe; no group (its code, ``(N,)``) straddles folds."""
    classes, right = int(labels.max()) + 1, np.zeros(len(labels))
    folds = min(FOLDS, _fewest(labels, groups))
    fold = fold_numbers(labels, folds, groups, rng=np.random.default_rng(seed))
    for held in (fold == number for number in range(folds)):
        probe = _fit(features[~held], labels[~held], classes)
        right[held] = probe.predict(features[held]) == labels[held]
    return ProbeScore(float(right.mean()), share_interval(right, groups))


def probe_curve(
    features: Float64Array,
    labels: Int64Array,
    *,
    repeats: int = 5,
    groups: Int64Array | None = None,
    seed: int = 0,
) -> ProbeCurve:
    """Learning curve of the linear probe: would more images help?

    Each repeat holds out its own stratified quarter, groups whole, and trains on nested parts of
    the rest, each twice as large as the one before: ``SIZES`` parts, or as images are enough for.
    """
    _fewest(labels, groups)
    classes, rngs = int(labels.max()) + 1, np.random.default_rng(seed).spawn(repeats)
    draws = [fold_numbers(labels, 4, groups, rng=rng) == 0 for rng in rngs]
    full = len(labels) - max(int(held.sum()) for held in draws)
    sizes = full // 2 ** np.arange(SIZES)[::-1]
    sizes = sizes[sizes >= 4 * classes]
    if len(sizes) < 2:
        raise DataError(
            f"A learning curve of {classes} classes needs about {11 * classes} images or more, "
            f"got {len(labels)}."
        )
    columns = []
    for held in draws:
        train = np.flatnonzero(~held)
        own = None if groups is None else group_codes(groups[train], len(train))
        order = train[stratified_order(labels[train], own, first=2)]
        probes = [_fit(features[order[:n]], labels[order[:n]], classes) for n in sizes]
        columns.append([float(np.mean(p.predict(features[held]) == labels[held])) for p in probes])
    held_out = round(float(np.mean(draws) * len(labels)))
    return ProbeCurve(sizes=sizes, accuracies=np.array(columns).T, held_out=held_out)


def _fit(features: Float64Array, labels: Int64Array, num_classes: int) -> Probe:
    strength = 1 / (PENALTY * len(labels))
    return fit_probe(features, labels, num_classes=num_classes, strength=strength)


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
