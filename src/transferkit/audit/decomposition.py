"""What a gap between two scores is made of: prior shift, and each class's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transferkit._typing import BoolArray, Float64Array, Int64Array
from transferkit.audit.gap import PRIOR_SHIFT, ClassGap, Estimate, GapReport
from transferkit.audit.resampling import Tally, bootstrap_tallies, group_codes, tally
from transferkit.audit.threshold import best_offsets
from transferkit.errors import DataError


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
