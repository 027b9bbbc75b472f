"""Classifier two-sample test: can a classifier tell the splits apart?

The classifier is ridge regression on the membership (regularised linear discriminant), optionally
on random Fourier features too. Its cross-fitted scores are linear in the labels, so one
matrix product refits it for all permutations: the p-value is that of the whole procedure, refits
included. (The usual tests of a cross-validated AUC or accuracy ignore that folds share training
rows.) Source of the test: D. Lopez-Paz and M. Oquab, "Revisiting classifier two-sample tests",
ICLR 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cho_factor, cho_solve
from scipy.stats import rankdata
from sklearn.covariance import ledoit_wolf_shrinkage

from transferkit._format import percent, plain
from transferkit._typing import JSON, BoolArray, Float64Array, FloatArray, Int64Array
from transferkit._validation import check_share
from transferkit.audit.mmd import scaled_rows
from transferkit.audit.two_sample import (
    Groups,
    Pair,
    TwoSampleResult,
    check_pair,
    nothing_differs,
    permutation_p_value,
    permuted_members,
)
from transferkit.errors import ConfigError, DataError
from transferkit.metrics.intervals import normal_quantile

FEW_FEATURES = 32
"""Up to this many features ``form="auto"`` is non-linear: there it pays, beyond it adds noise."""
COLUMNS = 256
"""Memberships that are refitted at a time."""
FREQUENCIES = 128
"""Random frequencies of the non-linear classifier."""

Form: TypeAlias = Literal["auto", "linear", "fourier"]


@dataclass(frozen=True, slots=True, eq=False)
class DomainClassifierResult:
    """How well the two samples can be told apart, row by row.

    Attributes:
        test: The test; its ``statistic`` is the AUC and its ``effect`` is ``2 AUC - 1``.
        auc: Cross-fitted AUC: 0.5 where the samples look alike, 1 where they never overlap.
        auc_interval: Interval of the AUC; it holds 0.5 unless the test rejects.
        typical_a: ``(n_a,)`` how typical each row is of the first sample against the second, 0 to
            1: its rank by cross-fitted score within its fold.
        typical_b: ``(n_b,)`` the same (of the second sample) for each row of the second.
    """

    test: TwoSampleResult
    auc: float
    auc_interval: tuple[float, float]
    typical_a: Float64Array
    typical_b: Float64Array

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON, without the scores of single rows."""
        interval = plain(self.auc_interval)
        return {**self.test.to_dict(), "auc": plain(self.auc), "auc_interval": interval}

    def __str__(self) -> str:
        low, high = self.auc_interval
        return (
            f"domain classifier: AUC {self.auc:.3f} [{low:.3f}, {high:.3f}], "
            f"p = {self.test.p_value:.3g}, n = {self.test.n_a} and {self.test.n_b}: a pair of one "
            f"row from each is told apart {percent(self.auc)} of the time"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """What every fit shares, as nothing in it looks at the samples.

    Attributes:
        inputs: ``(N, P)`` standardised inputs.
        gram: ``(P, P)`` ``inputs' inputs``.
        shrinkage: Share of the identity in the covariance (O. Ledoit and M. Wolf, "A
            well-conditioned estimator for large-dimensional covariance matrices", JMVA 88, 2004).
        level: Mean variance of the inputs.
    """

    inputs: Float64Array
    gram: Float64Array
    shrinkage: float
    level: float

    @classmethod
    def of(cls, inputs: Float64Array) -> Design:
        """Prepare the fits on ``inputs``."""
        shrinkage = float(ledoit_wolf_shrinkage(inputs, assume_centered=True))
        return cls(inputs, inputs.T @ inputs, shrinkage + 1e-6, float(np.mean(inputs**2)))


def domain_classifier_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    form: Form = "auto",
    groups: Groups = None,
    folds: int = 5,
    repeats: int = 3,
    permutations: int = 199,
    confidence: float = 0.95,
    seed: int = 0,
) -> DomainClassifierResult:
    """Test whether a cross-fitted classifier tells two samples apart.

    Folds are drawn without regard to the samples and keep groups whole. The AUC is the mean over
    folds, weighted by pairs. Its interval is Wilson's, at the sample size at which an independent
    share would have the variance of the placements (by group); ``effect`` is ``2 AUC - 1``.

    Args:
        a: ``(n_a, D)`` features of the first sample, at least two rows.
        b: ``(n_b, D)`` features of the second, at least two rows.
        form: ``"linear"``; ``"fourier"`` for linear and random Fourier features together;
            ``"auto"`` by the number of features.
        groups: Group of each row of ``a``, and of ``b``: groups are permuted.
        folds: Folds of the cross-fitting, at most the number of groups or rows.
        repeats: Times that the cross-fitting is repeated with other folds, and averaged.
        permutations: B.
        confidence: Coverage of the interval.
        seed: Seed of folds, frequencies and permutations.

    Raises:
        DataError: Samples that are too small, of unequal width, not finite, or of one group only.
        ConfigError: An option out of its range.
    """
    check_share("confidence", confidence)
    if form not in get_args(Form):
        raise ConfigError(f"form must be one of {get_args(Form)}; {form!r} came.")
    if folds < 2 or repeats < 1:
        raise ConfigError(f"folds must be 2 or more, repeats 1 or more; {folds}, {repeats} came.")
    pair = check_pair(a, b, groups=groups)
    _refuse_single_group(pair)
    inputs = classifier_inputs(pair, form, seed)
    if inputs is None:
        return _undecided(pair)
    design = Design.of(inputs)
    members = permuted_members(
        pair.member, permutations=permutations, seed=seed, groups=pair.groups
    )
    rounds = [
        _round(design, pair, members, draw_folds(len(inputs), folds, groups=pair.groups, seed=s))
        for s in np.random.default_rng(seed).integers(2**32, size=repeats).tolist()
    ]
    aucs, influence, typical = (np.mean(part, axis=0) for part in zip(*rounds, strict=True))
    return _result(pair, aucs, influence, typical, confidence)


def _refuse_single_group(pair: Pair) -> None:
    if pair.groups is not None and len(np.unique(pair.groups)) == 1:
        raise DataError(
            f"All {len(pair.pooled)} rows of both samples are in one group, but cross-fitting "
            "needs at least two, to fit on some and score others; check the group names or "
            "leave out groups."
        )


def draw_folds(n: int, folds: int, *, groups: Int64Array | None, seed: int) -> Int64Array:
    """Assign rows to folds at random, groups whole and sizes nearly equal.

    Args:
        n: Rows.
        folds: Folds, at most as many as there are groups or rows.
        groups: ``(n,)`` group codes or None.
        seed: Seed of the draw.

    Returns:
        ``(n,)`` fold of each row.
    """
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


def classifier_inputs(pair: Pair, form: Form, seed: int) -> Float64Array | None:
    """Return standardised inputs ``(N, P)``, P at most N; None if all rows are equal.

    Nothing here looks at the samples. Where features outnumber rows they are rotated into as
    many as there are rows, which changes no prediction.
    """
    varies = np.ptp(pair.pooled, axis=0) > 0
    if not varies.any():
        return None
    inputs = _standardised(pair.pooled[:, varies])
    if form == "fourier" or (form == "auto" and inputs.shape[1] <= FEW_FEATURES):
        inputs = np.concatenate([inputs, _standardised(_waves(inputs, seed))], axis=1)
    if inputs.shape[1] > len(inputs):
        left, scale, _ = np.linalg.svd(inputs, full_matrices=False)
        inputs = left * scale
    return inputs


def _standardised(rows: FloatArray) -> Float64Array:
    standard = rows.astype(np.float64)
    standard -= standard.mean(axis=0)
    standard /= np.maximum(standard.std(axis=0), np.finfo(np.float64).tiny)
    return standard


def _waves(rows: Float64Array, seed: int) -> FloatArray:
    """Return random Fourier features of the Gaussian kernel of median bandwidth."""
    scaled = scaled_rows(rows, seed=seed)
    assert scaled is not None, "some feature varies"
    drawn = np.random.default_rng(seed).normal(size=(rows.shape[1], FREQUENCIES))
    angles = scaled @ drawn.astype(scaled.dtype)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float64)


def cross_fitted(design: Design, members: BoolArray, fold: Int64Array) -> Float64Array:
    """Return out-of-fold scores ``(N, R)``, one column per membership."""
    inputs, shrinkage = design.inputs, design.shrinkage
    scores = np.empty((len(inputs), len(members)))
    targets = members.T.astype(np.float64)
    for one in range(fold.max() + 1):
        held, kept = fold == one, fold != one
        covariance = (1 - shrinkage) * (design.gram - inputs[held].T @ inputs[held])
        covariance[np.diag_indices_from(covariance)] += shrinkage * design.level * kept.sum()
        centred = targets[kept] - targets[kept].mean(axis=0)
        moments = inputs[kept].T @ centred
        scores[held] = inputs[held] @ cho_solve(cho_factor(covariance), moments)
    return scores


def _ranks(scores: Float64Array, fold: Int64Array) -> Float64Array:
    """Return ranks from 1 within each fold, column by column, ties at their mean."""
    scale = np.abs(scores).max(axis=0)
    rounded = np.round(scores / np.where(scale > 0, scale, 1.0), 10)
    ranks = np.empty_like(scores)
    for one in range(fold.max() + 1):
        held = fold == one
        ranks[held] = rankdata(rounded[held], axis=0)
    return ranks


def _aucs(ranks: Float64Array, members: BoolArray, fold: Int64Array) -> Float64Array:
    """Return the AUC per membership ``(1 + B,)``: wins over pairs within folds."""
    wins, pairs = np.zeros(len(members)), np.zeros(len(members))
    for one in range(fold.max() + 1):
        held = fold == one
        inside = members[:, held].T
        n = inside.sum(axis=0)
        wins += np.sum(ranks[held] * inside, axis=0) - n * (n + 1) / 2
        pairs += n * (held.sum() - n)
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), 0.5)


def _round(
    design: Design, pair: Pair, members: BoolArray, fold: Int64Array
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Cross-fit once: AUC per membership, influence of each row on the AUC, rank of each row."""
    observed, aucs = np.empty(0), []
    for start in range(0, len(members), COLUMNS):
        some = members[start : start + COLUMNS]
        ranks = _ranks(cross_fitted(design, some, fold), fold)
        observed = observed if start else ranks[:, 0]
        aucs.append(_aucs(ranks, some, fold))
    typical = (observed - 0.5) / np.bincount(fold)[fold]
    return np.concatenate(aucs), _influence(pair, observed, fold), typical


def _result(
    pair: Pair,
    aucs: Float64Array,
    influence: Float64Array,
    typical: Float64Array,
    confidence: float,
) -> DomainClassifierResult:
    auc, p_value = float(aucs[0]), permutation_p_value(aucs)
    by_unit = influence if pair.groups is None else np.bincount(pair.groups, weights=influence)
    error = sqrt(float(np.sum(by_unit**2)))
    low, high = _auc_interval(auc, error, min(pair.units()), confidence)
    if p_value > 1 - confidence:
        low, high = min(low, 0.5), max(high, 0.5)
    test = TwoSampleResult(
        test="domain_classifier",
        statistic=auc,
        p_value=p_value,
        effect=max(0.0, 2 * auc - 1),
        interval=(max(0.0, 2 * low - 1), max(0.0, 2 * high - 1)),
        n_a=pair.n_a,
        n_b=pair.n_b,
        permutations=len(aucs) - 1,
    )
    return DomainClassifierResult(
        test, auc, (low, high), typical[: pair.n_a], 1 - typical[pair.n_a :]
    )


def _influence(pair: Pair, ranks: Float64Array, fold: Int64Array) -> Float64Array:
    """Return the influence of each row on the AUC ``(N,)``: its placement, centred.

    Sources: E. DeLong et al., Biometrics 44 (1988); N. Obuchowski, Biometrics 53 (1997).
    """
    influence = np.zeros(len(ranks))
    pairs = 0
    for one in range(fold.max() + 1):
        held = np.flatnonzero(fold == one)
        first = pair.member[held]
        pairs += int(first.sum() * (~first).sum())
        if first.all() or not first.any():
            continue
        for rows, sign in ((held[first], 1), (held[~first], -1)):
            wins = ranks[rows] - rankdata(ranks[rows])
            influence[rows] = sign * (wins - wins.mean())
    influence /= max(pairs, 1)
    return influence


def _auc_interval(auc: float, error: float, units: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval at the effective sample size ``auc (1 - auc) / error^2``."""
    z = normal_quantile(confidence)
    spread = auc * (1 - auc)
    size = spread / error**2 if error > 0 and spread > 0 else float(units)
    centre = (auc + z * z / (2 * size)) / (1 + z * z / size)
    half = z * sqrt(spread / size + z * z / (4 * size * size)) / (1 + z * z / size)
    return max(0.0, centre - half), min(1.0, centre + half)


def _undecided(pair: Pair) -> DomainClassifierResult:
    test = nothing_differs("domain_classifier", pair.n_a, pair.n_b)
    return DomainClassifierResult(
        test, 0.5, (0.5, 0.5), np.full(pair.n_a, 0.5), np.full(pair.n_b, 0.5)
    )
