"""Class shares of a split without labels, under label shift.

Both estimators assume that within each class the target looks like the source and only the class
shares differ: p(x | y) is shared. Where that fails they mislead; see
:func:`transferkit.audit.forecast.residual_shift`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize, nnls
from scipy.special import log_softmax, softmax

from transferkit._typing import Float64Array, Int64Array
from transferkit.metrics.intervals import resamples

SMALLEST = 1e-9
"""Probabilities are kept at least this large before logarithms and divisions."""
PENALTY = 1e-3
"""Weight of the squared biases in the calibration."""
ROUNDS = 500
"""Most steps of expectation maximisation."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A labelled source and an unlabelled target, as one classifier sees them.

    Attributes:
        source: ``(N, K)`` probabilities of the source, on which it was not trained.
        labels: ``(N,)`` labels of the source.
        target: ``(M, K)`` probabilities of the target.
        groups: Group of each row of source and target, or None.
    """

    source: Float64Array
    labels: Int64Array
    target: Float64Array
    groups: tuple[ArrayLike | None, ArrayLike | None] = (None, None)


def mlls(
    scored: Scored, *, samples: int = 200, confidence: float = 0.95, seed: int = 0
) -> tuple[Float64Array, Float64Array]:
    """Maximum-likelihood label shift: the class shares that best explain the target's outputs.

    Returns shares ``(K,)`` and bootstrap intervals ``(K, 2)``; needs every class in the source.
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
    tail = (1 - confidence) / 2
    intervals = np.quantile(np.array(drawn), [tail, 1 - tail], axis=0).T
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
    first = resamples(len(scored.source), samples=samples, seed=seed, groups=of_source)
    second = resamples(len(scored.target), samples=samples, seed=seed + 1, groups=of_target)
    return list(zip(first, second, strict=True))
