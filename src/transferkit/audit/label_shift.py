"""Label shift: class shares compared where labels are known, and estimated where they are not.

The estimates assume that within each class the target looks like the source and only the class
shares differ: p(x | y) is shared. Where that fails they mislead; see
:func:`transferkit.audit.forecast.residual_shift`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize, nnls
from scipy.special import log_softmax, softmax
from scipy.stats import chi2, ncx2, random_table

from transferkit._sampling import stream
from transferkit._typing import BoolArray, Float64Array, Int64Array
from transferkit.audit.two_sample import (
    Groups,
    TwoSampleResult,
    fragments,
    permutation_p_value,
    permuted_members,
    pooled_groups,
)
from transferkit.metrics.intervals import resamples

ENOUGH = 10.0
"""Expected count in every cell from which on the chi-square distribution is trusted."""
BATCH = 999
"""Permutations at a time."""
BLOCK = 4_000_000
"""Weights of units held in memory at a time."""
REACHED = 20
"""Permuted statistics as large as the observed, after which no more are drawn."""
SMALLEST = 1e-9
"""Probabilities are kept at least this large before logarithms and divisions."""
PENALTY = 1e-3
"""Weight of the squared biases in the calibration."""
ROUNDS = 500
"""Most steps of expectation maximisation."""


def chi_square_test(
    a: Int64Array,
    b: Int64Array,
    *,
    groups: Groups = None,
    permutations: int = 1999,
    seed: int = 0,
) -> TwoSampleResult:
    """Pearson's chi-square test that labels ``(n_a,)`` and ``(n_b,)`` have equal class shares.

    ``effect`` is the total variation distance of the shares, ``sum |p - q| / 2``: the share of
    rows that would have to change class. Its interval leaves out 0 where the test rejects.
    """
    codes = np.unique(np.concatenate([a, b]), return_inverse=True)[1].astype(np.int64)
    kinds = int(codes.max()) + 1
    if kinds == 1:
        return TwoSampleResult(test="chi_square")
    parts = codes[: len(a)], codes[len(a) :]
    table = np.array([np.bincount(part, minlength=kinds) for part in parts], dtype=np.float64)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / len(codes)
    observed = robust = float(((table - expected) ** 2 / expected).sum())
    if groups is not None:
        first = np.arange(len(codes)) < len(a)
        draw = _by_group(codes, first, np.asarray(pooled_groups(groups)), seed)
        robust = float(draw(0)[0])
        p_value = _sequential_p_value(robust, draw, permutations)
    elif expected.min() >= ENOUGH:
        p_value = float(chi2.sf(observed, kinds - 1))
    else:
        p_value = _sequential_p_value(observed, _by_row(table, expected, seed), permutations)
    effect = float(np.abs(table[0] / len(a) - table[1] / len(b)).sum() / 2)
    return TwoSampleResult(
        test="chi_square",
        statistic=observed,
        p_value=p_value,
        effect=effect,
        interval=_interval(effect, min(observed, robust), kinds - 1),
    )


Draw: TypeAlias = Callable[[int], Float64Array]
"""From a number B to statistics ``(1 + B,)``, the observed and permuted ones."""


def _sequential_p_value(observed: float, draw: Draw, permutations: int) -> float:
    """P-value by permutation, which gives up once it cannot become small.

    Source: J. Besag and P. Clifford, "Sequential Monte Carlo p-values", Biometrika 78 (1991).
    """
    null = np.array([observed])
    for start in range(0, permutations, BATCH):
        null = np.append(null, draw(min(BATCH, permutations - start))[1:])
        p_value = permutation_p_value(null)
        if p_value * len(null) > REACHED:
            break
    return p_value


def _by_row(table: Float64Array, expected: Float64Array, seed: int) -> Draw:
    """Pearson's statistic of tables ``(2, K)`` with both margins as they are."""
    rng = np.random.default_rng(seed)
    margins = random_table(*(table.sum(axis=axis).astype(np.int64) for axis in (1, 0)))

    def draw(count: int) -> Float64Array:
        tables = np.concatenate([table[None], margins.rvs(size=count, random_state=rng)])
        statistics: Float64Array = ((tables - expected) ** 2 / expected).sum(axis=(1, 2))
        return statistics

    return draw


def _by_group(codes: Int64Array, first: BoolArray, groups: Int64Array, seed: int) -> Draw:
    """Cluster-robust statistic of classes ``(N,)``, as units of groups are permuted."""
    # With w_u = 1/n_a for units of the first sample, -1/n_b for the others, the shares differ by
    # d_k = sum_u w_u c_uk. Were images independent, chi-square would be K - 1 times
    # sum_k d_k^2 / p_k over its mean; here the mean is taken with the residuals
    # r_uk = c_uk - n_u p_k summed by group, both units of one that lies in both samples together:
    # J. Rao and A. Scott, "The analysis of categorical data from complex sample surveys", JASA 76
    # (1981). By it the permuted statistics, whose groups lie otherwise, stay comparable.
    unit, first_row = fragments(first, groups)
    counts = np.zeros((len(first_row), codes.max() + 1))
    np.add.at(counts, (unit, codes), 1)
    sizes, shares = counts.sum(axis=1), counts.sum(axis=0) / len(codes)
    residuals = (counts - np.outer(sizes, shares)) / np.sqrt(shares)
    split = np.flatnonzero(np.diff(groups[first_row]) == 0)  # the next unit is of the same group
    alone = np.sum(residuals**2, axis=1)
    together = 2 * np.sum(residuals[split] * residuals[split + 1], axis=1)
    rng = np.random.default_rng(seed)

    def statistics(members: BoolArray) -> Float64Array:
        n_a = (members @ sizes)[:, None]
        weights = np.where(members, 1 / n_a, -1 / (len(codes) - n_a))
        distance = ((weights @ counts) ** 2 / shares).sum(axis=1)
        mean = weights**2 @ alone + (weights[:, split] * weights[:, split + 1]) @ together
        return np.asarray((len(shares) - 1) * distance / np.maximum(mean, SMALLEST))

    def draw(count: int) -> Float64Array:
        members = permuted_members(first[first_row], permutations=count, seed=rng)
        blocks = np.array_split(members, members.size // BLOCK + 1)
        return np.concatenate([statistics(block) for block in blocks])

    return draw


def _interval(effect: float, statistic: float, freedom: int) -> tuple[float, float]:
    """95 % interval of the total variation distance: M. Smithson, "Confidence intervals" (2003)."""
    # Chi-square has noncentrality l about n V^2, so its root is proportional to the effect: the
    # ends are effect * sqrt(l / statistic) at the l where the statistic is a tail's quantile.
    if statistic <= 0:
        return 0.0, effect
    ends = [_noncentrality(statistic, freedom, level) for level in (0.975, 0.025)]
    low, high = (effect * sqrt(end / statistic) for end in ends)
    return min(low, effect), min(1.0, max(high, effect))


def _noncentrality(statistic: float, freedom: int, level: float) -> float:
    """Noncentrality at which P(chi-square <= statistic) is ``level``; 0 if none is."""
    if chi2.cdf(statistic, freedom) <= level:
        return 0.0
    top = statistic + 10 * sqrt(statistic) + 50
    return float(brentq(lambda value: ncx2.cdf(statistic, freedom, value) - level, 1e-9, top))


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Probabilities of a labelled source, which the classifier was not trained on, and a target."""

    source: Float64Array  # (N, K)
    labels: Int64Array  # (N,) of the source
    target: Float64Array  # (M, K)
    groups: tuple[ArrayLike | None, ArrayLike | None] = (None, None)  # of source and target


def mlls(scored: Scored, *, samples: int = 200, seed: int = 0) -> tuple[Float64Array, Float64Array]:
    """Maximum-likelihood class shares of the target ``(K,)``, and bootstrap intervals ``(K, 2)``.

    Sources: M. Saerens, P. Latinne, C. Decaestecker, "Adjusting the outputs of a classifier to
    new a priori probabilities", Neural Computation 14 (2002); A. Alexandari, A. Kundaje, A.
    Shrikumar, "Maximum likelihood with bias-corrected calibration is hard-to-beat at label shift
    adaptation", ICML 2020.
    """
    start = calibration(scored.source, scored.labels)

    def shares(of_source: Int64Array, of_target: Int64Array) -> Float64Array:
        # Each draw is calibrated anew: the calibration is an estimate from the source too.
        source, labels = scored.source[of_source], scored.labels[of_source]
        scale = calibration(source, labels, start=start)
        return mlls_shares(
            calibrated(source, scale), labels, calibrated(scored.target[of_target], scale)
        )

    drawn = [shares(*rows) for rows in paired_draws(scored, samples, seed)]
    intervals = np.quantile(np.array(drawn), [0.025, 0.975], axis=0).T
    return shares(np.arange(len(scored.source)), np.arange(len(scored.target))), intervals


def mlls_shares(source: Float64Array, labels: Int64Array, target: Float64Array) -> Float64Array:
    """MLLS estimate of the target's class shares ``(K,)``."""
    # With q the target's shares and p the source's, p(x | k) is proportional to p(k | x) / p_k.
    # Expectation maximisation climbs sum_x log sum_k q_k p(k | x) / p_k: the new q_k is the mean
    # over x of the posterior q_k p(k | x) / p_k, normalised over k.
    prior = np.bincount(labels, minlength=source.shape[1]) / len(labels)
    likelihood = np.maximum(target, SMALLEST) / np.maximum(prior, SMALLEST) * (prior > 0)
    shares = prior.copy()
    for _ in range(ROUNDS):
        weighted = likelihood * shares
        following = np.mean(weighted / weighted.sum(axis=1, keepdims=True), axis=0)
        done = np.abs(following - shares).max() < 1e-5
        shares = following
        if done:
            break
    return shares


def calibration(
    probabilities: Float64Array, labels: Int64Array, *, start: Float64Array | None = None
) -> Float64Array:
    """Fit an inverse temperature and K biases ``(1 + K,)`` by penalised maximum likelihood."""
    logits = np.log(np.maximum(probabilities, SMALLEST))
    truth = np.eye(logits.shape[1])[labels]

    def loss(scale: Float64Array) -> tuple[float, Float64Array]:
        fitted = log_softmax(logits * scale[0] + scale[1:], axis=1)
        # d(-log p_y) / d(logit k) = p_k - [k = y]. A constant added to all biases changes
        # nothing: the weak penalty also settles that.
        error = (np.exp(fitted) - truth) / len(labels)
        value = -np.sum(fitted * truth) / len(labels) + PENALTY * np.sum(scale[1:] ** 2)
        slope = np.append(np.sum(error * logits), error.sum(axis=0) + 2 * PENALTY * scale[1:])
        return float(value), slope

    count = logits.shape[1]
    first = np.concatenate([[1.0], np.zeros(count)]) if start is None else start
    bounds = [(0.01, 100.0)] + [(-10.0, 10.0)] * count
    fit = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(fit.x, dtype=np.float64)


def calibrated(probabilities: Float64Array, scale: Float64Array) -> Float64Array:
    """Apply a :func:`calibration` to probabilities ``(N, K)``."""
    logits = np.log(np.maximum(probabilities, SMALLEST))
    return np.asarray(softmax(logits * scale[0] + scale[1:], axis=1), dtype=np.float64)


def bbse_shares(source: Float64Array, labels: Int64Array, target: Float64Array) -> Float64Array:
    """Black-box shift estimate of the target's class shares ``(K,)``.

    Source: Z. Lipton, Y.-X. Wang, A. Smola, "Detecting and correcting for label shift with black
    box predictors", ICML 2018.
    """
    # C holds the joint shares of (predicted, true) in the source, m the shares predicted in the
    # target: the ratios w of target to source shares solve C w = m, by least squares over w >= 0.
    joint = joint_shares(source, labels)
    predicted = np.bincount(target.argmax(axis=1), minlength=target.shape[1]) / len(target)
    shares = nnls(joint, predicted)[0] * joint.sum(axis=0)
    total = float(shares.sum())
    return shares / total if total > 0 else np.full(len(shares), 1 / len(shares))


def joint_shares(probabilities: Float64Array, labels: Int64Array) -> Float64Array:
    """Shares ``(K, K)`` of rows by (predicted, true) class."""
    kinds = probabilities.shape[1]
    cells = probabilities.argmax(axis=1) * kinds + labels
    return np.bincount(cells, minlength=kinds * kinds).reshape(kinds, kinds) / len(labels)


def paired_draws(scored: Scored, samples: int, seed: int) -> list[tuple[Int64Array, Int64Array]]:
    """Bootstrap draws of source and target rows, independent of each other."""
    of_source, of_target = scored.groups
    rngs = stream("source", seed), stream("target", seed)
    first = resamples(len(scored.source), samples=samples, rng=rngs[0], groups=of_source)
    second = resamples(len(scored.target), samples=samples, rng=rngs[1], groups=of_target)
    return list(zip(first, second, strict=True))
