"""The bootstrap by group: intervals for what has no closed formula.

Images of one group (a patient, a video) are not independent: whole groups are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from transferkit._sampling import group_codes
from transferkit._typing import BoolArray, Float64Array, Int64Array

BLOCK = 2_000_000
"""Draws held in memory at a time."""


def bootstrap_means(
    values: Float64Array, *, samples: int, seed: int, groups: ArrayLike | None = None
) -> Float64Array:
    """Means ``(samples,)`` of resampled images, each with its number in ``values`` (N,).

    Groups of equal size and sum are interchangeable, so one multinomial draw over the different
    ones replaces the drawing of images: for right-or-wrong values this costs the same at any N.
    """
    group = group_codes(groups, len(values))
    sizes = np.bincount(group).astype(np.float64)
    units = np.column_stack([np.bincount(group, weights=values), sizes])
    kinds, counts = np.unique(units, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    totals = np.zeros((samples, 2))
    step = max(1, BLOCK // len(kinds))
    for start in range(0, samples, step):
        size = min(step, samples - start)
        drawn = rng.multinomial(len(units), counts / len(units), size=size)
        totals[start : start + size] = drawn @ kinds
    means: Float64Array = totals[:, 0] / totals[:, 1]
    return means


def resamples(
    n: int, *, samples: int, seed: int, groups: ArrayLike | None = None
) -> Iterator[Int64Array]:
    """Yield the indices of each bootstrap draw from N images; N of them where groups are equal."""
    group = group_codes(groups, n)
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        drawn = rng.choice(len(sizes), len(sizes))
        lengths = sizes[drawn]
        before = np.cumsum(lengths) - lengths
        yield order[np.repeat(starts[drawn] - before, lengths) + np.arange(lengths.sum())]


def percentile_interval(values: Float64Array, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the central ``confidence`` part of ``values``."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """How often each class occurs (..., K), and how often it is predicted right (..., K)."""

    images: Float64Array
    right: Float64Array

    @property
    def shares(self) -> Float64Array:
        """Share of each class among the images (..., K)."""
        shares: Float64Array = self.images / self.images.sum(axis=-1, keepdims=True)
        return shares

    @property
    def recalls(self) -> Float64Array:
        """Share of each class that is right (..., K); NaN for a class without images."""
        seen = self.images > 0
        recalls: Float64Array = np.where(seen, self.right / np.where(seen, self.images, 1), np.nan)
        return recalls

    @property
    def accuracy(self) -> Float64Array:
        """Share of all images that are right (...)."""
        accuracy: Float64Array = self.right.sum(axis=-1) / self.images.sum(axis=-1)
        return accuracy


def tally(labels: Int64Array, right: Float64Array, num_classes: int) -> Tally:
    """Count images and right images by class."""
    return Tally(
        np.bincount(labels, minlength=num_classes).astype(np.float64),
        np.bincount(labels, weights=right, minlength=num_classes).astype(np.float64),
    )


def bootstrap_tallies(
    labels: Int64Array,
    right: Float64Array,
    groups: Int64Array,
    *,
    num_classes: int,
    samples: int,
    rng: np.random.Generator,
    smooth: bool | BoolArray = True,
) -> Tally:
    """Draw groups with replacement and count anew, ``samples`` times: counts (B, K).

    Args:
        labels: Classes (N,).
        right: What to sum up by class (N,): 1 for right, 0 for wrong.
        groups: Group number of each image (N,), from 0.
        num_classes: K.
        samples: Bootstrap draws B.
        rng: Source of the draws.
        smooth: Add one right and one wrong image to every class that occurs, or only to those
            marked (K,), so that a class without an error in n images is not taken for infallible:
            Agresti and Caffo, "Simple and effective confidence intervals for proportions and
            differences of proportions result from adding two successes and two failures" (2000).
    """
    cells = np.zeros((int(groups.max()) + 1, 2 * num_classes))
    np.add.at(cells, (groups, labels), 1)
    np.add.at(cells, (groups, labels + num_classes), right)
    occurs = (cells[:, :num_classes].sum(axis=0) > 0) & smooth
    cells = np.concatenate([cells, _pseudo_images(occurs)])
    drawn = np.concatenate([weights @ cells for weights in _draws(len(cells), samples, rng)])
    return Tally(drawn[:, :num_classes], drawn[:, num_classes:])


def _pseudo_images(occurs: BoolArray) -> Float64Array:
    one_hot = np.eye(len(occurs))[occurs]
    wrong = np.concatenate([one_hot, 0 * one_hot], axis=1)
    return np.concatenate([wrong, np.concatenate([one_hot, one_hot], axis=1)])


def _draws(units: int, samples: int, rng: np.random.Generator) -> Iterator[Float64Array]:
    step = max(1, BLOCK // units)
    for start in range(0, samples, step):
        size = min(step, samples - start)
        weights = rng.multinomial(units, np.full(units, 1 / units), size=size)
        yield weights.astype(np.float64)
