"""What the gap from val to test is made of: class shares, recalls, leaks, threshold, choice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from transferkit._sampling import group_codes
from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array
from transferkit.audit.gap import PRIOR_SHIFT, ClassGap, Estimate, GapReport
from transferkit.audit.reshuffle import SEEDS, reshuffle, right_by_strength, swap
from transferkit.errors import DataError
from transferkit.metrics.bootstrap import Tally, bootstrap_tallies, tally

_ROUNDS = 20


def best_offsets(scores: Float64Array, labels: Int64Array) -> Float64Array:
    """What to add to each class's score (N, K) so that the most images are right: (K,).

    With two classes this is the exact best threshold; with more, one class is moved at a time,
    exactly, until nothing improves. All zero where no threshold beats the plain one.
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
    """Labels (N,), logits (N, K), groups (N,) or None, and which images also lie in train (N,)."""

    labels: Int64Array
    scores: Float64Array
    groups: Sequence[str] | None = None
    leaked: BoolArray | None = None

    @property
    def right(self) -> Float64Array:
        """1 for images that are predicted right, else 0 (N,)."""
        right: BoolArray = self.scores.argmax(axis=1) == self.labels
        return right.astype(np.float64)


def decompose(val: Tally, test: Tally) -> tuple[Float64Array, Float64Array]:
    """Split accuracy of val minus that of test into prior shift (...) and within-class (..., K).

    accuracy = sum over classes of share x recall, so the difference is, exactly,
    sum (difference of shares) x (mean recall) + sum (mean share) x (difference of recalls):
    Kitagawa, "Components of a difference between two rates" (1955), the symmetric form of the
    Oaxaca-Blinder decomposition. A class that occurs on one side only keeps its recall of that
    side, and so counts as prior shift.
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
    """
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
    """
    codes = group_codes(groups, right.shape[1] if right.ndim == 2 else 0)
    if right.ndim != 2 or not len(right) or len(codes) < 2 or codes.max() < 1:
        raise DataError(
            "Right predictions must have shape (epochs, images), of two groups or more, got "
            f"{right.shape}."
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
