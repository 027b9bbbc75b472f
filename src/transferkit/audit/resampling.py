"""Bootstrap counts of right and wrong images by class, whole groups at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from transferkit._typing import BoolArray, Float64Array, Int64Array

_BLOCK = 4_000_000  # weights held in memory at a time


def group_codes(groups: Sequence[str] | None, count: int) -> Int64Array:
    """Return the group number of each image (N,); every image its own without groups."""
    if groups is None:
        return np.arange(count, dtype=np.int64)
    return np.unique(np.asarray(groups, np.str_), return_inverse=True)[1].astype(np.int64)


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
