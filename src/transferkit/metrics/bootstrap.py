"""The bootstrap, by class and by group: intervals for what has no closed formula.

Images of one group (a patient, a video) are not independent: whole groups are drawn. Strata
(classes) keep their sizes: each is drawn within itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from transferkit._sampling import group_codes
from transferkit._typing import BoolArray, Float64Array, Int64Array
from transferkit._validation import check_scores, check_share
from transferkit.errors import ConfigError, DataError

BLOCK = 2_000_000
"""Draws held in memory at a time."""


def bootstrap_interval(
    statistic: Callable[[Int64Array], float],
    n: int,
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    strata: ArrayLike | None = None,
    groups: ArrayLike | None = None,
) -> tuple[float, float]:
    """Percentile bootstrap interval of any statistic of N images.

    Source: B. Efron and R. Tibshirani, "An introduction to the bootstrap" (1993), chapter 13.

    Args:
        statistic: Takes the indices of the drawn images, with repeats, and returns a number;
            draws where it returns NaN (AUROC of one class) are left out.
        n: N.
        samples: Bootstrap draws.
        confidence: Coverage aimed at.
        seed: Seed of the draws.
        strata: ``(N,)`` class of each image: each class keeps its size.
        groups: ``(N,)`` group of each image: whole groups are drawn.

    Returns:
        Low and high end; NaN if the statistic was NaN in every draw.

    Raises:
        DataError: Strata or groups of another length, or a group in two strata.
        ConfigError: Too few samples, or ``confidence`` outside (0, 1).
    """
    check_share("confidence", confidence)
    draws = resamples(n, samples=samples, seed=seed, strata=strata, groups=groups)
    values = np.array([statistic(indices) for indices in draws], dtype=np.float64)
    return percentile_interval(values[~np.isnan(values)], confidence=confidence)


def bootstrap_mean_interval(
    values: ArrayLike,
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    strata: ArrayLike | None = None,
    groups: ArrayLike | None = None,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over images, without a Python loop.

    Args:
        values: ``(N,)`` one number per image, such as 1.0 for right and 0.0 for wrong.
        samples: Bootstrap draws.
        confidence: Coverage aimed at.
        seed: Seed of the draws.
        strata: ``(N,)`` class of each image: each class keeps its size.
        groups: ``(N,)`` group of each image: whole groups are drawn.

    Raises:
        DataError: Values that are not finite; strata or groups that do not fit.
        ConfigError: Too few samples, or ``confidence`` outside (0, 1).
    """
    check_share("confidence", confidence)
    means = bootstrap_means(values, samples=samples, seed=seed, strata=strata, groups=groups)
    return percentile_interval(means, confidence=confidence)


def bootstrap_means(
    values: ArrayLike,
    *,
    samples: int,
    seed: int,
    strata: ArrayLike | None = None,
    groups: ArrayLike | None = None,
) -> Float64Array:
    """Draw the bootstrap distribution of a mean.

    Groups that agree in size and sum are interchangeable, so one multinomial draw over the
    different ones replaces the drawing of images: for right-or-wrong values this costs the same
    at any N.

    Returns:
        ``(samples,)`` means of the resampled images.

    Raises:
        DataError: Values that are not finite; strata or groups that do not fit.
        ConfigError: Fewer than one sample.
    """
    numbers = check_scores(values)
    _check_samples(samples)
    group, stratum = _units(len(numbers), strata=strata, groups=groups)
    sums = np.bincount(group, weights=numbers)
    sizes = np.bincount(group).astype(np.float64)
    rng = np.random.default_rng(seed)
    totals = np.zeros((samples, 2))
    for one in np.unique(stratum):
        units = np.column_stack([sums, sizes])[stratum == one]
        kinds, counts = np.unique(units, axis=0, return_counts=True)
        step = max(1, BLOCK // len(kinds))
        for start in range(0, samples, step):
            block = slice(start, min(start + step, samples))
            drawn = rng.multinomial(len(units), counts / len(units), size=block.stop - start)
            totals[block] += drawn @ kinds
    means: Float64Array = totals[:, 0] / totals[:, 1]
    return means


def resamples(
    n: int,
    *,
    samples: int,
    seed: int,
    strata: ArrayLike | None = None,
    groups: ArrayLike | None = None,
) -> Iterator[Int64Array]:
    """Yield the indices of each bootstrap draw from N images.

    Args:
        n: N.
        samples: Draws.
        seed: Seed of the draws.
        strata: ``(N,)`` class of each image: each class keeps its size.
        groups: ``(N,)`` group of each image: whole groups are drawn.

    Yields:
        Indices into the N images, with repeats; exactly N of them unless groups differ in size.

    Raises:
        DataError: Strata or groups of another length, or a group in two strata.
        ConfigError: Fewer than one sample.
    """
    _check_samples(samples)
    group, stratum = _units(n, strata=strata, groups=groups)
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    pools = [np.flatnonzero(stratum == one) for one in np.unique(stratum)]
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        drawn = np.concatenate([rng.choice(pool, len(pool)) for pool in pools])
        lengths = sizes[drawn]
        before = np.cumsum(lengths) - lengths
        yield order[np.repeat(starts[drawn] - before, lengths) + np.arange(lengths.sum())]


def percentile_interval(values: Float64Array, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the central ``confidence`` part of ``values``; NaN if there are none."""
    if len(values) == 0:
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _units(
    n: int, *, strata: ArrayLike | None, groups: ArrayLike | None
) -> tuple[Int64Array, Int64Array]:
    """Return the group of each image ``(N,)`` and the stratum of each group ``(G,)``."""
    if n < 1:
        raise DataError("There is nothing to resample: no image came.")
    group = group_codes(groups, n)
    kind = np.zeros(n, np.int64) if strata is None else group_codes(strata, n, what="strata")
    stratum = np.zeros(group.max() + 1, dtype=np.int64)
    stratum[group] = kind
    if (stratum[group] != kind).any():
        image = int(np.argmax(stratum[group] != kind))
        raise DataError(
            f"A group must lie within one stratum, but that of image {image} lies in two. "
            "Leave out the strata, or split the groups by stratum."
        )
    return group, stratum


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise ConfigError(f"samples must be at least 1; {samples} came.")


_BLOCK = 4_000_000  # weights held in memory at a time


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
    """Draw groups with replacement and count anew, ``samples`` times.

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

    Returns:
        Counts (B, K).
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
    step = max(1, _BLOCK // units)
    for start in range(0, samples, step):
        size = min(step, samples - start)
        weights = rng.multinomial(units, np.full(units, 1 / units), size=size)
        yield weights.astype(np.float64)
