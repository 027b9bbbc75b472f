"""The parts of the gap from val to test: class shares, recalls, leaks, threshold, choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import hypot, sqrt

import numpy as np

from transferkit._sampling import fold_numbers, group_codes, stream
from transferkit._typing import BoolArray, Float64Array, Int64Array
from transferkit.audit.gap import PRIOR_SHIFT, ClassGap, Estimate, GapReport
from transferkit.metrics.intervals import (
    difference_interval,
    mean_variance,
    paired_interval,
    share_interval,
)

FOLDS = 5
"""Parts of test, each classified with the threshold that is best on the others."""

_ROUNDS, _PARTS, _DEALS = 20, 4, 8
_Z = 1.96


@dataclass(frozen=True, eq=False)
class ScoredSplit:
    """One side of the gap."""

    labels: Int64Array  # (N,)
    scores: Float64Array  # logits (N, K)
    groups: Int64Array | None = None  # codes (N,)
    leaked: BoolArray | None = None  # whether an image also lies in train (N,)

    @cached_property
    def right(self) -> Float64Array:
        """1 for images that are predicted right, else 0 (N,)."""
        right: BoolArray = self.scores.argmax(axis=1) == self.labels
        return right.astype(np.float64)

    def accuracy(self, rows: BoolArray) -> Estimate:
        """Share of some images that are right, and its interval."""
        if not rows.any():
            return Estimate(float("nan"), (0.0, 1.0))
        right, groups = self.right[rows], None if self.groups is None else self.groups[rows]
        return Estimate(float(right.mean()), share_interval(right, groups))

    def variance(self, values: Float64Array) -> float:
        """Variance of the mean of a number per image (N,)."""
        return mean_variance(values, self.groups)


def decompose(
    val_shares: Float64Array,
    val_recalls: Float64Array,
    test_shares: Float64Array,
    test_recalls: Float64Array,
) -> tuple[float, Float64Array]:
    """Split accuracy of val minus that of test into prior shift and within-class parts (K,).

    Kitagawa, "Components of a difference between two rates" (1955), the symmetric form of the
    Oaxaca-Blinder decomposition.
    """
    # accuracy = sum over classes of share x recall, so the difference is, exactly,
    # sum (difference of shares) x (mean recall) + sum (mean share) x (difference of recalls).
    # A class that occurs on one side only (the other recall is NaN) counts as prior shift.
    a = np.nan_to_num(np.where(np.isnan(val_recalls), test_recalls, val_recalls))
    b = np.nan_to_num(np.where(np.isnan(test_recalls), val_recalls, test_recalls))
    prior = float(((val_shares - test_shares) * (a + b) / 2).sum())
    return prior, (a - b) * (val_shares + test_shares) / 2


# Intervals are closed formulas, whole groups counted by their effective size: Wilson's for
# scores, and sums and differences of shares from the ends of theirs (G. Zou and A. Donner,
# "Construction of confidence limits about effect measures", Statistics in Medicine 27, 2008).
# A bootstrap of few images per class covers too seldom: a class without an error looks
# infallible.
def explain_scores(
    val: ScoredSplit,
    test: ScoredSplit,
    *,
    classes: Sequence[str],
    seed: int = 0,
    splits: tuple[str, str] = ("val", "test"),
) -> GapReport:
    """Explain the gap between the scores of two splits."""
    sides, count = (val, test), len(classes)
    accuracies = [side.accuracy(np.ones(len(side.labels), np.bool_)) for side in sides]
    recalls = [[side.accuracy(side.labels == k) for k in range(count)] for side in sides]
    columns = np.array([[recall.value for recall in each] for each in recalls])
    shares = np.array([np.bincount(s.labels, minlength=count) / len(s.labels) for s in sides])
    prior, within = decompose(shares[0], columns[0], shares[1], columns[1])
    parts = {PRIOR_SHIFT: _prior_part(prior, shares, recalls, sides)}
    for k in np.flatnonzero(~np.isnan(columns).any(axis=0)).tolist():
        lost = _difference(recalls[0][k], recalls[1][k])
        parts[f"within {classes[k]}"] = _within_part(k, float(shares[:, k].mean()), lost, sides)
    return GapReport(
        val_score=accuracies[0].value,
        val_interval=accuracies[0].interval,
        test_score=accuracies[1].value,
        test_interval=accuracies[1].interval,
        gap=_difference(accuracies[0], accuracies[1]),
        parts=parts,
        worst_class=classes[int(np.argmax(within))],
        classes=tuple(
            ClassGap(name, *map(float, (*shares[:, k], *columns[:, k])))
            for k, name in enumerate(classes)
        ),
        threshold=threshold_gain(test, seed=seed),
        sampling_noise=hypot(*((high - low) / 2 for _, (low, high) in accuracies)),
        leakage={
            name: _leakage(side, side.leaked, count)
            for name, side in zip(splits, sides, strict=True)
            if side.leaked is not None and side.leaked.any() and not side.leaked.all()
        },
        splits=splits,
    )


def _difference(a: Estimate, b: Estimate) -> Estimate:
    return Estimate(a.value - b.value, difference_interval(*a, *b))


def _prior_part(
    prior: float,
    shares: Float64Array,
    recalls: Sequence[Sequence[Estimate]],
    sides: tuple[ScoredSplit, ScoredSplit],
) -> Estimate:
    """The prior part: its shares vary like the mean, over images, of their class's recall."""
    values = np.array([[recall.value for recall in each] for each in recalls])
    means = np.nansum(values, axis=0) / np.maximum(np.sum(~np.isnan(values), axis=0), 1)
    of_shares = sum(side.variance(means[side.labels]) for side in sides)
    halves = np.array([[np.ptp(recall.interval) / 2 for recall in each] for each in recalls])
    of_recalls = float(((shares[0] - shares[1]) ** 2 * (halves**2).sum(axis=0) / 4).sum())
    half = sqrt(_Z**2 * of_shares + of_recalls)
    return Estimate(prior, (prior - half, prior + half))


def _within_part(
    k: int, share: float, lost: Estimate, sides: tuple[ScoredSplit, ScoredSplit]
) -> Estimate:
    """The part of one class: mean share times difference of recalls, both of which vary."""
    of_share = sum(side.variance((side.labels == k).astype(np.float64)) for side in sides) / 4
    half = _Z * sqrt(of_share) * abs(lost.value)
    value, (low, high) = share * lost.value, lost.interval
    below, above = hypot(share * (lost.value - low), half), hypot(share * (high - lost.value), half)
    return Estimate(value, (value - below, value + above))


def _leakage(split: ScoredSplit, leaked: BoolArray, num_classes: int) -> Estimate:
    """Estimate the accuracy with the leaked images minus that without them."""
    # Class by class, as leaving out images of an easy class would lower the score even if they
    # gave nothing away: the sum of (share of the leaked images of a class) x (their recall less
    # that of the class's other images).
    drops, below, above = np.zeros(num_classes), 0.0, 0.0
    for k in range(num_classes):
        own = split.labels == k
        if not ((own & leaked).any() and (own & ~leaked).any()):
            continue
        drop, (low, high) = _difference(split.accuracy(own & leaked), split.accuracy(own & ~leaked))
        share = float(np.mean(own & leaked))
        drops[k] = drop
        below = hypot(below, share * (drop - low))
        above = hypot(above, share * (high - drop))
    each = leaked * drops[split.labels]
    value, half = float(each.mean()), _Z * sqrt(split.variance(each))
    return Estimate(value, (value - hypot(below, half), value + hypot(above, half)))


def threshold_gain(test: ScoredSplit, *, seed: int = 0) -> Estimate:
    """Estimate the gain of a moved threshold on test, each image by a threshold from others."""
    predicted = test.scores.argmax(axis=1)
    rng = np.random.default_rng([seed, 2])
    folds = fold_numbers(test.labels, FOLDS, test.groups, rng=rng)
    for fold in np.unique(folds):
        held, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if len(rest):
            offsets = best_offsets(test.scores[rest], test.labels[rest])
            predicted[held] = (test.scores[held] + offsets).argmax(axis=1)
    gain = (predicted == test.labels) - test.right
    return Estimate(float(gain.mean()), paired_interval(gain, test.groups))


def best_offsets(scores: Float64Array, labels: Int64Array) -> Float64Array:
    """Offsets (K,) of the scores (N, K) that make the most images right; zeros if none helps.

    Exact with two classes; with more, one class is moved at a time until nothing improves.
    """
    moved, offsets = scores.copy(), np.zeros(scores.shape[1])
    first, second = _two_largest(moved)
    best = np.sum(first == labels)
    for _ in range(_ROUNDS):
        before = best
        for label in range(scores.shape[1]):
            rival = np.where(first == label, second, first)
            lead = moved[np.arange(len(moved)), rival] - moved[:, label]
            step = _best_move(lead, rival, labels, label)
            count = np.sum(np.where(step > lead, label, rival) == labels)
            if count > best:
                best, offsets[label] = count, offsets[label] + step
                moved[:, label] += step
                first, second = _two_largest(moved)
        if best == before:
            break
    return offsets


def _two_largest(scores: Float64Array) -> tuple[Int64Array, Int64Array]:
    """The classes of the largest and the second largest score of each image (N, K)."""
    first = scores.argmax(axis=1)
    rest = scores.copy()
    np.put_along_axis(rest, first[:, None], -np.inf, axis=1)
    return first, rest.argmax(axis=1)


def _best_move(lead: Float64Array, rival: Int64Array, labels: Int64Array, label: int) -> float:
    """Return the best shift of one class's scores, from the best other class and its lead."""
    # An image goes to ``label`` once the shift passes that lead: there it is won if it is of that
    # class, and lost if it was right before.
    gain = np.where(labels == label, 1, np.where(rival == labels, -1, 0))
    use = np.isfinite(lead)
    order = np.argsort(lead[use], kind="stable")
    leads, gains = lead[use][order], np.cumsum(gain[use][order])
    if not len(leads):
        return 0.0
    # no threshold fits between equal leads, which rounding may have set apart
    last = np.append(leads[1:] - leads[:-1] > 1e-9 * np.maximum(1, np.abs(leads[1:])), True)
    gains = np.where(last, gains, -len(labels) - 1)
    place = int(gains.argmax())
    if gains[place] <= 0:
        return float(leads[0]) - 1.0
    upper = leads[place + 1] if place + 1 < len(leads) else leads[place] + 2.0
    return float((leads[place] + upper) / 2)


def choice_optimism(
    right: BoolArray, *, groups: Int64Array | None = None, samples: int = 200, seed: int = 0
) -> Estimate | None:
    """Estimate how much choosing the best of E epochs on a split flatters its score there.

    ``right`` (E, N) holds which images each epoch predicts right, ``groups`` their codes (N,). From
    the best epoch's score goes the mean score, on one quarter of the groups, of the epoch that is
    best on the others; None for a single group. The standard error is a bootstrap's over groups.
    """
    # Halves would choose from half of the images: too badly where epochs differ, as rising ones do.
    codes = group_codes(groups, right.shape[1])
    units = int(codes.max()) + 1
    if units < 2:
        return None
    hits = np.zeros((units, len(right)))
    np.add.at(hits, codes, right.T.astype(np.float64))
    sizes, rng = np.bincount(codes).astype(np.float64), stream("choice", seed)
    value = _optimism(hits, sizes, 25 * _DEALS, rng)
    draws = []
    for weights in rng.multinomial(units, np.full(units, 1 / units), size=samples):
        drawn = np.flatnonzero(weights)
        often = weights[drawn].astype(np.float64)
        draws.append(_optimism(hits[drawn] * often[:, None], sizes[drawn] * often, _DEALS, rng))
    half = _Z * float(np.std(draws))
    return Estimate(value, (value - half, value + half))


def _optimism(
    hits: Float64Array, sizes: Float64Array, deals: int, rng: np.random.Generator
) -> float:
    """Optimism of the best epoch from right images (G, E) and all images (G,) of each group."""
    parts = rng.permuted(np.tile(np.arange(len(sizes)) % _PARTS, (deals, 1)), axis=1)
    total, scored, images = hits.sum(axis=0), 0.0, 0.0
    for part in range(_PARTS):
        held = (parts == part).astype(np.float64)
        found = held @ hits  # (deals, E)
        best = (total - found).argmax(axis=1)
        scored += float(np.take_along_axis(found, best[:, None], axis=1).sum())
        images += float((held @ sizes).sum())
    return float(total.max() / sizes.sum()) - scored / images
