"""The formulas behind a forecast: three expectations of accuracy, and what would void them."""

from __future__ import annotations

from math import sqrt

import numpy as np
from scipy.special import kolmogi, xlogy

from transferkit._typing import Float64Array, Int64Array
from transferkit.audit.priors import Scored, bbse_shares, joint_shares


def average_thresholded_confidence(
    source: Float64Array, labels: Int64Array, target: Float64Array
) -> float:
    """Share of the target more confident than a threshold that fits the source's accuracy.

    The score is minus the entropy. Source: S. Garg et al., "Leveraging unlabeled data to predict
    out-of-distribution performance", ICLR 2022.
    """
    scores = xlogy(source, source).sum(axis=1)
    threshold = np.quantile(scores, 1 - accuracy(source, labels), method="higher")
    return float(np.mean(xlogy(target, target).sum(axis=1) >= threshold))


def difference_of_confidences(
    source: Float64Array, labels: Int64Array, target: Float64Array
) -> float:
    """Source accuracy less the fall of the mean largest probability.

    Source: D. Guillory et al., "Predicting with confidence on unseen distributions", ICCV 2021.
    """
    fall = source.max(axis=1).mean() - target.max(axis=1).mean()
    return float(np.clip(accuracy(source, labels) - fall, 0.0, 1.0))


def reweighted_accuracy(source: Float64Array, labels: Int64Array, target: Float64Array) -> float:
    """Source recalls weighted by the class shares that BBSE sees in the target: label shift."""
    joint = joint_shares(source, labels)
    recalls = np.diag(joint) / np.maximum(joint.sum(axis=0), np.finfo(np.float64).tiny)
    return float(np.clip(bbse_shares(source, labels, target) @ recalls, 0.0, 1.0))


def residual_shift(scored: Scored, weights: Float64Array, *, confidence: float = 0.95) -> float:
    """Return the proven change of the outputs that class shares do not explain.

    The largest Kolmogorov distance, over the K columns, between the source weighted by class and
    the target, less its critical value at the source's effective size.

    Args:
        scored: Outputs on source and target.
        weights: ``(N,)`` weight of each source row.
        confidence: Confidence of the critical value, over all columns.
    """
    n, m = effective_size(weights), len(scored.target)
    signed = np.concatenate([weights / weights.sum(), np.full(m, -1 / m)])
    distance = 0.0
    for column in np.concatenate([scored.source, scored.target]).T:
        order = np.argsort(column, kind="stable")
        last = np.append(np.diff(column[order]) > 0, True)
        distance = max(distance, float(np.abs(np.cumsum(signed[order])[last]).max()))
    critical = float(kolmogi((1 - confidence) / scored.source.shape[1])) * sqrt(1 / n + 1 / m)
    return max(0.0, distance - critical)


def accuracy(probabilities: Float64Array, labels: Int64Array) -> float:
    """Share of rows whose largest probability is that of their label."""
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def effective_size(weights: Float64Array) -> float:
    """Return Kish's effective sample size of weighted rows."""
    return float(weights.sum() ** 2 / np.sum(weights**2))
