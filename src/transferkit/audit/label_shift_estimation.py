"""Class shares of a split without labels, under label shift.

Both estimators assume that within each class the target looks like the source and only the class
shares differ: p(x | y) is shared. Where that fails they mislead; see
:func:`transferkit.audit.forecast.residual_shift`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize, nnls
from scipy.special import log_softmax, softmax

from transferkit._format import percent_interval, plain, table
from transferkit._typing import JSON, Float64Array, Int64Array
from transferkit._validation import (
    check_labels,
    check_probabilities,
    check_same_length,
    check_share,
)
from transferkit.errors import DataError
from transferkit.metrics.bootstrap import resamples

SMALLEST = 1e-9
"""Probabilities are kept at least this large before logarithms and divisions."""
ROUNDS = 500
"""Most steps of expectation maximisation."""


@dataclass(frozen=True, slots=True, eq=False)
class PriorEstimate:
    """Estimated class shares of an unlabelled target.

    Attributes:
        method: ``"bbse"`` or ``"mlls"``.
        shares: ``(K,)`` estimated shares.
        intervals: ``(K, 2)`` bootstrap intervals.
        weights: ``(K,)`` shares over those of the source.
        condition: Condition number of the confusion matrix: large means that the classifier
            cannot tell the shares.
        n: Target rows.
    """

    method: str
    shares: Float64Array
    intervals: Float64Array
    weights: Float64Array
    condition: float
    n: int

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        return {name: plain(getattr(self, name)) for name in self.__slots__}

    def __str__(self) -> str:
        rows = [
            [str(k), percent_interval(share, (float(ends[0]), float(ends[1]))), f"{weight:.2f}"]
            for k, (share, ends, weight) in enumerate(
                zip(self.shares, self.intervals, self.weights, strict=True)
            )
        ]
        return f"{self.method}\n{table(('class', 'share', 'weight'), rows)}"


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A labelled source and an unlabelled target, as one classifier sees them.

    Attributes:
        source: ``(N, K)`` probabilities of the source.
        labels: ``(N,)`` labels of the source.
        target: ``(M, K)`` probabilities of the target.
        groups: Group of each row of source and target, or None.
    """

    source: Float64Array
    labels: Int64Array
    target: Float64Array
    groups: tuple[ArrayLike | None, ArrayLike | None] = (None, None)


def check_scored(
    source: ArrayLike,
    labels: ArrayLike,
    target: ArrayLike,
    groups: tuple[ArrayLike, ArrayLike] | None = None,
) -> Scored:
    """Check the outputs of a classifier on a labelled source and an unlabelled target.

    Raises:
        DataError: Not probabilities over the same classes, or labels that do not fit.
    """
    first, second = check_probabilities(source), check_probabilities(target)
    if first.shape[1] != second.shape[1]:
        raise DataError(
            f"Source and target need the same classes, but have {first.shape[1]} and "
            f"{second.shape[1]} columns."
        )
    known = check_labels(labels, num_classes=first.shape[1])
    check_same_length(source=first, labels=known)
    return Scored(first, known, second, groups if groups is not None else (None, None))


def bbse(
    source: ArrayLike,
    labels: ArrayLike,
    target: ArrayLike,
    *,
    groups: tuple[ArrayLike, ArrayLike] | None = None,
    samples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> PriorEstimate:
    """Black-box shift estimation: the class weights that explain the target's predictions.

    With C the joint shares of (predicted, true) in the source and mu the shares predicted in the
    target, the weights solve ``C w = mu``, here by least squares over ``w >= 0``. Source: Z.
    Lipton, Y.-X. Wang, A. Smola, "Detecting and correcting for label shift with black box
    predictors", ICML 2018.

    Args:
        source: ``(N, K)`` probabilities of a labelled sample not trained on, such as val.
        labels: ``(N,)`` its labels.
        target: ``(M, K)`` probabilities of the unlabelled sample.
        groups: Group of each row, of source and target: the bootstrap draws groups.
        samples: Bootstrap draws, of source and target both.
        confidence: Coverage of the intervals.
        seed: Seed of the bootstrap.

    Raises:
        DataError: Not probabilities, labels that do not fit, or a class absent from the source.
        ConfigError: An option out of its range.
    """
    scored = check_scored(source, labels, target, groups)
    return _estimate("bbse", scored, bbse_shares, samples, confidence, seed)


def mlls(
    source: ArrayLike,
    labels: ArrayLike,
    target: ArrayLike,
    *,
    calibrate: bool = True,
    groups: tuple[ArrayLike, ArrayLike] | None = None,
    samples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> PriorEstimate:
    """Maximum-likelihood label shift: the class shares that best explain the target's outputs.

    Expectation maximisation of ``sum_x log sum_k q_k p(k | x) / p_k`` over the shares q. It needs
    calibrated probabilities: by default they are calibrated on the source by temperature and
    per-class bias. Sources: M. Saerens, P. Latinne, C. Decaestecker, "Adjusting the outputs of a
    classifier to new a priori probabilities", Neural Computation 14 (2002); A. Alexandari, A.
    Kundaje, A. Shrikumar, "Maximum likelihood with bias-corrected calibration is hard-to-beat at
    label shift adaptation", ICML 2020.

    Args:
        source: ``(N, K)`` probabilities of a labelled sample not trained on, such as val.
        labels: ``(N,)`` its labels.
        target: ``(M, K)`` probabilities of the unlabelled sample.
        calibrate: Whether to calibrate on the source first.
        groups: Group of each row, of source and target: the bootstrap draws groups.
        samples: Bootstrap draws, of source and target both.
        confidence: Coverage of the intervals.
        seed: Seed of the bootstrap.

    Raises:
        DataError: Not probabilities, labels that do not fit, or a class absent from the source.
        ConfigError: An option out of its range.
    """
    scored = check_scored(source, labels, target, groups)
    if calibrate:
        scale = calibration(scored.source, scored.labels)
        first, second = (calibrated(part, scale) for part in (scored.source, scored.target))
        scored = Scored(first, scored.labels, second, scored.groups)
    return _estimate("mlls", scored, mlls_shares, samples, confidence, seed)


def bbse_shares(source: Float64Array, labels: Int64Array, target: Float64Array) -> Float64Array:
    """Return the BBSE estimate of the target's class shares ``(K,)``."""
    joint = joint_shares(source, labels)
    predicted = np.bincount(target.argmax(axis=1), minlength=target.shape[1]) / len(target)
    weights, _ = nnls(joint, predicted)
    return _normalised(weights * joint.sum(axis=0))


def mlls_shares(source: Float64Array, labels: Int64Array, target: Float64Array) -> Float64Array:
    """Return the MLLS estimate of the target's class shares ``(K,)``."""
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


def joint_shares(probabilities: Float64Array, labels: Int64Array) -> Float64Array:
    """Return the shares ``(K, K)`` of rows by (predicted, true) class."""
    kinds = probabilities.shape[1]
    cells = probabilities.argmax(axis=1) * kinds + labels
    return np.bincount(cells, minlength=kinds * kinds).reshape(kinds, kinds) / len(labels)


def calibration(probabilities: Float64Array, labels: Int64Array) -> Float64Array:
    """Fit an inverse temperature and K biases ``(1 + K,)`` by penalised maximum likelihood.

    The biases are drawn to zero by a weak penalty, which also settles their free sum.
    """
    logits = np.log(np.maximum(probabilities, SMALLEST))
    rows = np.arange(len(labels))

    def loss(scale: Float64Array) -> float:
        fitted = log_softmax(logits * scale[0] + scale[1:], axis=1)
        return float(-fitted[rows, labels].mean() + 1e-3 * np.sum(scale[1:] ** 2))

    start = np.concatenate([[1.0], np.zeros(logits.shape[1])])
    bounds = [(0.01, 100.0)] + [(-10.0, 10.0)] * logits.shape[1]
    return np.asarray(minimize(loss, start, method="L-BFGS-B", bounds=bounds).x, dtype=np.float64)


def calibrated(probabilities: Float64Array, scale: Float64Array) -> Float64Array:
    """Apply a :func:`calibration` to probabilities ``(N, K)``."""
    logits = np.log(np.maximum(probabilities, SMALLEST))
    return np.asarray(softmax(logits * scale[0] + scale[1:], axis=1), dtype=np.float64)


def paired_draws(scored: Scored, samples: int, seed: int) -> list[tuple[Int64Array, Int64Array]]:
    """Return bootstrap draws of source and target rows, independent of each other."""
    first, second = (
        resamples(len(part), samples=samples, seed=seed + i, groups=groups)
        for i, (part, groups) in enumerate(
            zip((scored.source, scored.target), scored.groups, strict=True)
        )
    )
    return list(zip(first, second, strict=True))


def _estimate(
    method: str,
    scored: Scored,
    shares_of: Callable[[Float64Array, Int64Array, Float64Array], Float64Array],
    samples: int,
    confidence: float,
    seed: int,
) -> PriorEstimate:
    check_share("confidence", confidence)
    prior = np.bincount(scored.labels, minlength=scored.source.shape[1]) / len(scored.labels)
    if not prior.all():
        raise DataError(
            f"Every class needs labelled source images, but class {int(np.argmin(prior))} has "
            "none; leave the class out of the columns or bring images of it."
        )
    shares = shares_of(scored.source, scored.labels, scored.target)
    drawn = [
        shares_of(scored.source[i], scored.labels[i], scored.target[j])
        for i, j in paired_draws(scored, samples, seed)
    ]
    tail = (1 - confidence) / 2
    return PriorEstimate(
        method=method,
        shares=shares,
        intervals=np.quantile(np.array(drawn), [tail, 1 - tail], axis=0).T,
        weights=shares / prior,
        condition=float(np.linalg.cond(joint_shares(scored.source, scored.labels) / prior)),
        n=len(scored.target),
    )


def _normalised(shares: Float64Array) -> Float64Array:
    total = float(shares.sum())
    return shares / total if total > 0 else np.full(len(shares), 1 / len(shares))
