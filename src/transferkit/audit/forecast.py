"""What to expect of a split without labels: its accuracy and class shares, if anything.

Three forecasts from a classifier's outputs on a labelled source (val) and an unlabelled target,
each right under its own assumption. No method can be right under every shift (S. Garg et al.,
ICLR 2022), so before any of them speaks, two checks look for what would void them all: a change
of the outputs, and of the features where they are given, that no change of class shares explains.
Both count only as far as proven.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from scipy.special import kolmogi, softmax, xlogy

from transferkit._format import percent_interval
from transferkit._sampling import stream
from transferkit._typing import Float64Array, FloatArray, Int64Array
from transferkit.audit.audit_data import AuditData
from transferkit.audit.domain_classifier import domain_classifier_test
from transferkit.audit.finding import Evidence, Finding
from transferkit.audit.label_shift import (
    Scored,
    bbse_shares,
    joint_shares,
    mlls,
    paired_draws,
)
from transferkit.audit.two_sample import SplitPair
from transferkit.metrics.intervals import percentile_interval

FEWEST = 10
"""Source images that must be right, and wrong, for a threshold or a recall to be settled."""
WORST_CONDITION = 100.0
"""Condition number of the confusion matrix beyond which class shares cannot be inferred."""
TOLERANCE = 0.05
"""Proven shift, 0 to 1, beyond which the forecasts abstain."""


def forecasts(data: AuditData) -> Iterator[Finding]:
    """Accuracy and class shares of the splits without labels, judged from val."""
    if data.scores is None or not _every_class_known(data):
        return
    source, val = softmax(data.scores["val"], axis=1), data.splits["val"]
    for name, part in data.splits.items():
        if part.labels is None:
            groups = (val.groups, part.groups) if data.groups else (None, None)
            target = softmax(data.scores[name], axis=1)
            scored = Scored(source, data.labels["val"], target, groups)
            features = (val.features, part.features)
            found = forecast_accuracy(scored, features=features, seed=data.seed)
            yield _accuracy_finding(data, name, scored, found)
            yield _shares_finding(data, name, scored, abstains=summary(found) is None)


def _every_class_known(data: AuditData) -> bool:
    """Whether every class occurs in val, and in train where a probe was fitted on it."""
    by_classifier = all(part.logits is not None for part in data.splits.values())
    needed = ("val",) if by_classifier else ("train", "val")
    return all(name in data.labels and data.class_counts[name].all() for name in needed)


def _accuracy_finding(
    data: AuditData, name: str, scored: Scored, forecasts: Sequence[Forecast]
) -> Finding:
    reasons = [Evidence((), f"{one.method}: {one.reason}") for one in forecasts if one.reason]
    finding = Finding(
        check="accuracy_forecast",
        severity="info",
        splits=("val", name),
        message=f"No forecast of the accuracy on {name}: the shift from val voids its assumptions.",
        evidence=tuple(reasons[: data.config.evidence]),
        advice=f"Label some images of {name} and measure.",
    )
    found = summary(forecasts)
    if found is None:
        return finding
    return replace(
        finding,
        severity="info",
        statistic=found[0],
        effect=abs(accuracy(scored.source, scored.labels) - found[0]),
        message=f"Expected accuracy on {name}, which has no labels: {percent_interval(*found)}.",
        advice="",
    )


def _shares_finding(data: AuditData, name: str, scored: Scored, *, abstains: bool) -> Finding:
    if abstains:
        message = f"No estimate of the class shares of {name}: the shift from val voids it too."
    else:
        shares, intervals = mlls(scored, seed=data.seed)
        each = zip(data.classes, shares.tolist(), intervals.tolist(), strict=True)
        said = [
            f"{title} {percent_interval(share, (low, high))}" for title, share, (low, high) in each
        ]
        message = f"Estimated class shares of {name} (mlls): {', '.join(said)}."
    return Finding(
        check="label_shift_estimate", severity="info", splits=("val", name), message=message
    )


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


def residual_shift(scored: Scored, weights: Float64Array) -> float:
    """Proven change of the outputs that class shares do not explain, 0 to 1.

    The largest Kolmogorov distance, over the K columns, between the source weighted by ``(N,)``
    and the target, less its critical value at the source's effective size.
    """
    m = len(scored.target)
    n = float(weights.sum() ** 2 / np.sum(weights**2))  # Kish's effective size
    signed = np.concatenate([weights / weights.sum(), np.full(m, -1 / m)])
    distance = 0.0
    for column in np.concatenate([scored.source, scored.target]).T:
        order = np.argsort(column, kind="stable")
        last = np.append(np.diff(column[order]) > 0, True)
        distance = max(distance, float(np.abs(np.cumsum(signed[order])[last]).max()))
    critical = float(kolmogi(0.05 / scored.source.shape[1])) * sqrt(1 / n + 1 / m)
    return max(0.0, distance - critical)


def accuracy(probabilities: Float64Array, labels: Int64Array) -> float:
    """Share of rows whose largest probability is that of their label."""
    return float(np.mean(probabilities.argmax(axis=1) == labels))


METHODS: dict[str, Callable[[Float64Array, Int64Array, Float64Array], float]] = {
    "atc": average_thresholded_confidence,
    "difference_of_confidences": difference_of_confidences,
    "bbse": reweighted_accuracy,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Expected accuracy on the target and its 95 % interval, or the reason why there is none."""

    method: str
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    reason: str = ""


def summary(forecasts: Sequence[Forecast]) -> tuple[float, tuple[float, float]] | None:
    """Median of the forecasts, and the interval that holds those of all; None if all abstain."""
    made = [f.accuracy for f in forecasts if f.accuracy is not None]
    ends = [f.interval for f in forecasts if f.interval is not None]
    if not made or not ends:
        return None
    return float(np.median(made)), (min(e[0] for e in ends), max(e[1] for e in ends))


def forecast_accuracy(
    scored: Scored,
    *,
    features: tuple[FloatArray, FloatArray] | None = None,
    samples: int = 200,
    seed: int = 0,
) -> tuple[Forecast, ...]:
    """Forecast the accuracy on an unlabelled target by ATC, confidences and BBSE.

    All abstain where outputs or features shifted within classes, and where two forecasts
    contradict each other. Without ``features``, a shift that the outputs do not show goes unseen.
    """
    doubt = _doubt(scored, features, seed)
    forecasts = [
        Forecast(method=name, reason=reason)
        if (reason := doubt or _unsettled(name, scored))
        else _forecast(name, scored, samples, seed)
        for name in METHODS
    ]
    ends = [f.interval for f in forecasts if f.interval is not None]
    low, high = max((e[0] for e in ends), default=0.0), min((e[1] for e in ends), default=1.0)
    if low <= high:
        return tuple(forecasts)
    said = f"the methods contradict each other (below {high:.2f}, above {low:.2f})"
    return tuple(Forecast(method=f.method, reason=f.reason or said) for f in forecasts)


def _forecast(name: str, scored: Scored, samples: int, seed: int) -> Forecast:
    method = METHODS[name]
    rng = stream("forecast", seed)
    m = len(scored.target)
    # For the accuracy of these very images: each draw has the binomial noise of M images.
    drawn = [
        rng.binomial(m, method(scored.source[i], scored.labels[i], scored.target[j])) / m
        for i, j in paired_draws(scored, samples, seed)
    ]
    return Forecast(
        method=name,
        accuracy=method(scored.source, scored.labels, scored.target),
        interval=percentile_interval(np.array(drawn)),
    )


def _doubt(scored: Scored, features: tuple[FloatArray, FloatArray] | None, seed: int) -> str:
    """Say what shifted within classes, or return nothing."""
    # Rows of the source are weighted, or thinned, to the target's class shares.
    prior = np.bincount(scored.labels, minlength=scored.source.shape[1]) / len(scored.labels)
    shares = bbse_shares(scored.source, scored.labels, scored.target)
    weights = (shares / np.where(prior > 0, prior, 1.0))[scored.labels]
    if not weights.any():
        weights = np.ones(len(weights))
    if features is not None:
        drawn = stream("thinning", seed).random(len(weights))
        kept = np.flatnonzero(drawn < weights / weights.max())
        first, second = scored.groups
        groups = None if first is None or second is None else (np.asarray(first)[kept], second)
        pair = SplitPair.of(features[0][kept], features[1], groups=groups)
        shift = domain_classifier_test(pair, seed=seed).interval[0]
        if shift > TOLERANCE:
            return f"features shifted within classes ({shift:.2f} > {TOLERANCE})"
    shift = residual_shift(scored, weights)
    if shift > TOLERANCE:
        return f"outputs shifted within classes ({shift:.2f} > {TOLERANCE})"
    return ""


def _unsettled(name: str, scored: Scored) -> str:
    """Say why the source cannot settle a method, or return nothing."""
    right = int(np.sum(scored.source.argmax(axis=1) == scored.labels))
    if name == "bbse":
        counts = np.bincount(scored.labels, minlength=scored.source.shape[1])
        if counts.min() < FEWEST:
            return f"class {int(counts.argmin())} has {counts.min()} source images, under {FEWEST}"
        joint = joint_shares(scored.source, scored.labels)
        condition = float(np.linalg.cond(joint / joint.sum(axis=0)))
        if condition > WORST_CONDITION:
            return f"the confusion matrix is nearly singular (condition {condition:.0f})"
    elif name == "atc" and min(right, len(scored.labels) - right) < FEWEST:
        wrong = len(scored.labels) - right
        return f"{wrong} wrong and {right} right source images settle no threshold"
    return ""
