"""Classifier two-sample test: can a classifier tell two splits apart, and by which images?

The classifier is ridge regression on the membership (a regularised linear discriminant), with few
features on random Fourier features too. Source of the test: D. Lopez-Paz and M. Oquab,
"Revisiting classifier two-sample tests", ICLR 2017.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.stats import rankdata
from sklearn.covariance import ledoit_wolf_shrinkage

from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array
from transferkit.audit.mmd import scaled_rows
from transferkit.audit.two_sample import (
    SplitPair,
    TwoSampleResult,
    permutation_p_value,
    permuted_members,
)
from transferkit.errors import DataError
from transferkit.metrics.intervals import wilson_interval

FEW_FEATURES = 32
"""Up to this many features the classifier is non-linear: there it pays, beyond it adds noise."""
FOLDS = 5
"""Folds of the cross-fitting, at most the number of groups or rows."""
FREQUENCIES = 128
"""Random frequencies of the non-linear classifier."""
TYPICAL_SHARE = 0.1
"""Share of all rows that is removed at each end of the score, to see what drives a shift."""
FEWEST = 10
"""Rows of each split that must be left once the typical rows are removed."""


def domain_classifier_test(
    pair: SplitPair,
    *,
    repeats: int = 3,
    permutations: int = 199,
    confidence: float = 0.95,
    seed: int = 0,
) -> TwoSampleResult:
    """Test whether a cross-fitted classifier tells two splits of at least two rows apart.

    The statistic is the AUC, the mean over folds, weighted by pairs of rows, and over ``repeats``
    of the cross-fitting; the effect is 2 AUC - 1; the p-value is that of the whole procedure,
    refits included. A row is typical of its split by its rank within the fold.
    """
    if _single_group(pair):
        raise DataError(
            f"All {len(pair.values)} images of both splits are in one group, but the domain "
            "classifier needs at least two groups, to fit on some and score others. Check the "
            "group names, or leave out groups."
        )
    inputs = classifier_inputs(pair, seed)
    if inputs is None:
        halves = np.full(len(pair.values), 0.5)
        return TwoSampleResult(test="domain_classifier", statistic=0.5, typical=halves)
    members = permuted_members(
        pair.member, permutations=permutations, seed=seed, groups=pair.groups
    )
    rounds = [
        _round(inputs, pair, members, draw_folds(len(inputs), FOLDS, groups=pair.groups, seed=s))
        for s in np.random.default_rng(seed).integers(2**32, size=repeats).tolist()
    ]
    aucs, influence, typical = (np.mean(part, axis=0) for part in zip(*rounds, strict=True))
    auc, p_value = float(aucs[0]), permutation_p_value(aucs)
    low, high = _auc_interval(auc, influence, pair, confidence)
    if p_value > 1 - confidence:
        low, high = min(low, 0.5), max(high, 0.5)
    return TwoSampleResult(
        test="domain_classifier",
        statistic=auc,
        p_value=p_value,
        effect=max(0.0, 2 * auc - 1),
        interval=(max(0.0, 2 * low - 1), max(0.0, 2 * high - 1)),
        null=aucs,
        typical=np.where(pair.member, typical, 1 - typical),
    )


def _single_group(pair: SplitPair) -> bool:
    return pair.groups is not None and np.ptp(pair.groups) == 0


def draw_folds(n: int, folds: int, *, groups: Int64Array | None, seed: int) -> Int64Array:
    """Fold of each of n rows ``(n,)``, at random; groups stay whole, sizes are nearly equal."""
    rng = np.random.default_rng(seed)
    if groups is None:
        return rng.permutation(np.arange(n) % min(folds, n))
    _, code, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    load = np.zeros(min(folds, len(sizes)), dtype=np.int64)
    assigned = np.empty(len(sizes), dtype=np.int64)
    shuffled = rng.permutation(len(sizes))
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        assigned[group] = np.argmin(load)
        load[assigned[group]] += sizes[group]
    result: Int64Array = assigned[code]
    return result


def classifier_inputs(pair: SplitPair, seed: int) -> Float64Array | None:
    """Standardised inputs ``(N, P)``, P at most N; None if all rows are equal."""
    varies = np.ptp(pair.values, axis=0) > 0
    if not varies.any():
        return None
    inputs = _standardised(pair.values[:, varies])
    if inputs.shape[1] <= FEW_FEATURES:
        inputs = np.concatenate([inputs, _standardised(_fourier_features(inputs, seed))], axis=1)
    if inputs.shape[1] > len(inputs):
        # Where features outnumber rows, X = U S V' is rotated into U S: all inner products, and so
        # all predictions of ridge regression, stay the same.
        left, scale, _ = np.linalg.svd(inputs, full_matrices=False)
        inputs = left * scale
    return inputs


def _standardised(rows: FloatArray) -> Float64Array:
    standard = rows.astype(np.float64)
    standard -= standard.mean(axis=0)
    standard /= np.maximum(standard.std(axis=0), np.finfo(np.float64).tiny)
    return standard


def _fourier_features(rows: Float64Array, seed: int) -> FloatArray:
    """Random Fourier features of the Gaussian kernel of median bandwidth."""
    scaled = scaled_rows(rows, seed=seed)
    assert scaled is not None, "some feature varies"
    drawn = np.random.default_rng(seed).normal(size=(rows.shape[1], FREQUENCIES))
    angles = scaled @ drawn.astype(scaled.dtype)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float64)


def cross_fitted(inputs: Float64Array, members: BoolArray, fold: Int64Array) -> Float64Array:
    """Out-of-fold scores ``(N, R)``, one column per membership ``(R, N)``.

    Shrinkage: O. Ledoit and M. Wolf, "A well-conditioned estimator for large-dimensional covariance
    matrices", JMVA 88 (2004).
    """
    # Outside fold f, with X centred inputs and y the centred membership, the ridge weights are
    #   w = ((1 - s) X'X + s n v I)^-1 X'y,   s the shrinkage, v the level, n the rows.
    # X'X is the Gram matrix of all rows less that of the fold. w is linear in y: one Cholesky
    # factor serves all R memberships.
    gram, level = inputs.T @ inputs, float(np.mean(inputs**2))
    shrinkage = float(ledoit_wolf_shrinkage(inputs, assume_centered=True)) + 1e-6
    scores = np.empty((len(inputs), len(members)))
    targets = members.T.astype(np.float64)
    for one in range(fold.max() + 1):
        held, kept = fold == one, fold != one
        covariance = (1 - shrinkage) * (gram - inputs[held].T @ inputs[held])
        covariance[np.diag_indices_from(covariance)] += shrinkage * level * kept.sum()
        centred = targets[kept] - targets[kept].mean(axis=0)
        moments = inputs[kept].T @ centred
        scores[held] = inputs[held] @ cho_solve(cho_factor(covariance), moments)
    return scores


def _round(
    inputs: Float64Array, pair: SplitPair, members: BoolArray, fold: Int64Array
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Cross-fit once: AUC per membership, influence of each row on the AUC, rank of each row."""
    ranks = _ranks(cross_fitted(inputs, members, fold), fold)
    typical = (ranks[:, 0] - 0.5) / np.bincount(fold)[fold]
    return _aucs(ranks, members, fold), _influence(pair, ranks[:, 0], fold), typical


def _ranks(scores: Float64Array, fold: Int64Array) -> Float64Array:
    """Ranks from 1 within each fold, column by column, ties at their mean."""
    # Rounded to 10 digits of the largest: scores that are equal but for rounding are ties.
    scale = np.abs(scores).max(axis=0)
    rounded = np.round(scores / np.where(scale > 0, scale, 1.0), 10)
    ranks = np.empty_like(scores)
    for one in range(fold.max() + 1):
        held = fold == one
        ranks[held] = rankdata(rounded[held], axis=0)
    return ranks


def _aucs(ranks: Float64Array, members: BoolArray, fold: Int64Array) -> Float64Array:
    """AUC per membership ``(1 + B,)``: wins over pairs within folds (Mann-Whitney)."""
    wins, pairs = np.zeros(len(members)), np.zeros(len(members))
    for one in range(fold.max() + 1):
        held = fold == one
        inside = members[:, held].T
        n = inside.sum(axis=0)
        wins += np.sum(ranks[held] * inside, axis=0) - n * (n + 1) / 2
        pairs += n * (held.sum() - n)
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), 0.5)


def _influence(pair: SplitPair, ranks: Float64Array, fold: Int64Array) -> Float64Array:
    """Influence of each row on the AUC ``(N,)``: its centred placement (Obuchowski 1997)."""
    influence = np.zeros(len(ranks))
    pairs = 0
    for one in range(fold.max() + 1):
        held = np.flatnonzero(fold == one)
        first = pair.member[held]
        pairs += int(first.sum() * (~first).sum())
        if first.all() or not first.any():
            continue
        for rows, sign in ((held[first], 1), (held[~first], -1)):
            wins = ranks[rows] - rankdata(ranks[rows])  # rows of the other split that it beats
            influence[rows] = sign * (wins - wins.mean())
    influence /= max(pairs, 1)
    return influence


def _auc_interval(
    auc: float, influence: Float64Array, pair: SplitPair, confidence: float
) -> tuple[float, float]:
    by_unit = influence if pair.groups is None else np.bincount(pair.groups, weights=influence)
    error = sqrt(float(np.sum(by_unit**2)))
    # Wilson's interval of a share, at the number of independent rows n that would give it the
    # variance of the AUC: auc (1 - auc) / n = error^2.
    spread = auc * (1 - auc)
    n = spread / error**2 if error > 0 and spread > 0 else float(min(pair.units))
    return wilson_interval(auc * n, n, confidence=confidence)


def without_typical(
    pair: SplitPair, *, permutations: int = 199, seed: int = 0
) -> tuple[float, float, float] | None:
    """What is left of a shift without the rows most typical of either split.

    The effect, its p-value, and the share of the effect that went; None if too few rows are left.
    """
    inputs = classifier_inputs(pair, seed)
    if inputs is None:
        return None
    # Each half of the rows (whole groups) is scored by a classifier fitted on the other half, and
    # all rows go whose score is extreme, from whichever split they are. Were a row's own label
    # used, by dropping the typical rows of each split or by scores that its label helped to fit,
    # the effect would change by that choice alone. Effects are means over both halves, and the
    # p-value is Bonferroni's.
    half = draw_folds(len(inputs), 2, groups=pair.groups, seed=seed)
    scores = cross_fitted(inputs, pair.member[None], half)[:, 0]
    before, after = [], []
    for one in (0, 1):
        rows = half == one
        low, high = np.quantile(scores[rows], [TYPICAL_SHARE, 1 - TYPICAL_SHARE])
        rest = pair.take(rows & (scores >= low) & (scores <= high))
        if min(rest.n_a, rest.n_b) < FEWEST or _single_group(rest):
            return None
        before.append(domain_classifier_test(pair.take(rows), permutations=1, seed=seed).effect)
        after.append(domain_classifier_test(rest, permutations=permutations, seed=seed))
    effect, rest_effect = float(np.mean(before)), float(np.mean([test.effect for test in after]))
    if effect == 0:
        return None
    p_value = min(1.0, 2 * min(test.p_value for test in after))
    return rest_effect, p_value, max(0.0, 1 - rest_effect / effect)
