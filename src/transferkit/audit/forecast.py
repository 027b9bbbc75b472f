"""Expected accuracy on a split without labels, and when not to believe it.

Three forecasts from a classifier's outputs on a labelled source (val) and an unlabelled target,
each right under its own assumption. No method can be right under every shift (S. Garg et al.,
ICLR 2022), so before any of them speaks, two checks look for what would void them all: a change
of the outputs, and of the features where they are given, that no change of class shares explains.
Both count only as far as proven.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import kolmogi, xlogy

from transferkit._format import percent, percent_interval, plain, table
from transferkit._typing import JSON, Float64Array, Int64Array
from transferkit._validation import check_share
from transferkit.audit.domain_classifier import domain_classifier_test
from transferkit.audit.label_shift_estimation import (
    Scored,
    bbse_shares,
    joint_shares,
    paired_draws,
)
from transferkit.audit.two_sample import SplitPair
from transferkit.metrics.bootstrap import percentile_interval


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


FEWEST = 10
"""Source images that must be right, and wrong, for a threshold or a recall to be settled."""
WORST_CONDITION = 100.0
"""Condition number of the confusion matrix beyond which class shares cannot be inferred."""

Method = Callable[[Float64Array, Int64Array, Float64Array], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """One forecast, or one abstention.

    Attributes:
        method: ``"atc"``, ``"difference_of_confidences"`` or ``"bbse"``.
        accuracy: Expected accuracy on the target; None if it abstains.
        interval: Where the accuracy of these target images should lie; None if it abstains.
        reason: Why it abstains; empty if it does not.
    """

    method: str
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    reason: str = ""

    @property
    def abstained(self) -> bool:
        """Whether there is no forecast."""
        return self.accuracy is None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyForecast:
    """What to expect of a classifier on an unlabelled split.

    Attributes:
        source_accuracy: Accuracy on the labelled source.
        forecasts: One per method.
        output_shift: Change of the outputs that class shares do not explain: a Kolmogorov
            distance, as far as proven, 0 to 1.
        feature_shift: The same of the features: ``2 AUC - 1`` of a domain classifier as far as
            proven; None without features.
        n: Target images.
    """

    source_accuracy: float
    forecasts: tuple[Forecast, ...]
    output_shift: float
    feature_shift: float | None
    n: int

    @property
    def abstained(self) -> bool:
        """Whether every method abstains."""
        return all(forecast.abstained for forecast in self.forecasts)

    @property
    def accuracy(self) -> float | None:
        """Median of the forecasts; None if all abstain."""
        said = [f.accuracy for f in self.forecasts if f.accuracy is not None]
        return float(np.median(said)) if said else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval that holds those of all forecasts; None if all abstain."""
        ends = [f.interval for f in self.forecasts if f.interval is not None]
        return (min(e[0] for e in ends), max(e[1] for e in ends)) if ends else None

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        each = [
            {name: plain(getattr(forecast, name)) for name in forecast.__slots__}
            for forecast in self.forecasts
        ]
        own = ("source_accuracy", "accuracy", "interval", "abstained", "output_shift")
        rest = {name: plain(getattr(self, name)) for name in (*own, "feature_shift", "n")}
        return {**rest, "forecasts": list(each)}

    def __str__(self) -> str:
        rows = [[f.method, _said(f.accuracy, f.interval), f.reason] for f in self.forecasts]
        head = f"accuracy on the source {percent(self.source_accuracy)}; on {self.n} images without"
        return f"{head} labels:\n{table(('method', 'forecast', 'abstains because'), rows, left=3)}"


def forecast_accuracy(
    source: ArrayLike,
    labels: ArrayLike,
    target: ArrayLike,
    *,
    features: tuple[ArrayLike, ArrayLike] | None = None,
    groups: tuple[ArrayLike, ArrayLike] | None = None,
    tolerance: float = 0.05,
    samples: int = 200,
    permutations: int = 199,
    confidence: float = 0.95,
    seed: int = 0,
) -> AccuracyForecast:
    """Forecast the accuracy on an unlabelled target by ATC, confidences and BBSE.

    The interval is for the accuracy of these very images: bootstrap draws of source and target,
    each with the binomial noise of M images. All methods abstain where the outputs or the
    features changed by more than ``tolerance``, as far as proven, after the source is reweighted
    to the class shares that BBSE sees in the target, and where two forecasts contradict each other.
    Without ``features`` a shift that the outputs do not show goes unseen: pass them.

    Args:
        source: ``(N, K)`` probabilities of a labelled sample not trained on, such as val.
        labels: ``(N,)`` its labels.
        target: ``(M, K)`` probabilities of the unlabelled sample.
        features: ``(N, D)`` features of the source and ``(M, D)`` of the target.
        groups: Group of each row, of source and target.
        tolerance: Proven shift, 0 to 1, beyond which the forecasts abstain.
        samples: Bootstrap draws.
        permutations: Permutations of the feature check.
        confidence: Coverage of intervals and checks.
        seed: Seed of bootstrap and permutations.

    Raises:
        ConfigError: An option out of its range.
    """
    check_share("confidence", confidence)
    check_share("tolerance", tolerance)
    scored = Scored(
        np.asarray(source), np.asarray(labels), np.asarray(target), groups or (None, None)
    )
    weights = _weights(scored)
    outputs = residual_shift(scored, weights, confidence=confidence)
    inputs = None
    if features is not None:
        inputs = _feature_shift(scored, weights, features, permutations, confidence, seed)
    common = _doubt(outputs, inputs, tolerance)
    forecasts = [
        Forecast(method=name, reason=reason)
        if (reason := common or _unsettled(name, scored))
        else _forecast(name, method, scored, samples, confidence, seed)
        for name, method in METHODS.items()
    ]
    return AccuracyForecast(
        source_accuracy=accuracy(scored.source, scored.labels),
        forecasts=_agreeing(forecasts),
        output_shift=outputs,
        feature_shift=inputs,
        n=len(scored.target),
    )


METHODS: dict[str, Method] = {
    "atc": average_thresholded_confidence,
    "difference_of_confidences": difference_of_confidences,
    "bbse": reweighted_accuracy,
}


def _forecast(
    name: str, method: Method, scored: Scored, samples: int, confidence: float, seed: int
) -> Forecast:
    rng = np.random.default_rng(seed)
    m = len(scored.target)
    drawn = [
        rng.binomial(m, method(scored.source[i], scored.labels[i], scored.target[j])) / m
        for i, j in paired_draws(scored, samples, seed)
    ]
    return Forecast(
        method=name,
        accuracy=method(scored.source, scored.labels, scored.target),
        interval=percentile_interval(np.array(drawn), confidence=confidence),
    )


def _agreeing(forecasts: list[Forecast]) -> tuple[Forecast, ...]:
    """Return the forecasts, or abstentions where two contradict each other: one must be wrong."""
    ends = [f.interval for f in forecasts if f.interval is not None]
    low, high = max((e[0] for e in ends), default=0.0), min((e[1] for e in ends), default=1.0)
    if low <= high:
        return tuple(forecasts)
    said = f"the methods contradict each other (below {high:.2f}, above {low:.2f})"
    return tuple(Forecast(method=f.method, reason=f.reason or said) for f in forecasts)


def _weights(scored: Scored) -> Float64Array:
    """Weight of each source row ``(N,)`` that brings the source to the target's class shares."""
    prior = np.bincount(scored.labels, minlength=scored.source.shape[1]) / len(scored.labels)
    shares = bbse_shares(scored.source, scored.labels, scored.target)
    by_class = shares / np.where(prior > 0, prior, 1.0)
    weights: Float64Array = by_class[scored.labels]
    return weights if weights.sum() > 0 else np.ones(len(weights))


def _feature_shift(
    scored: Scored,
    weights: Float64Array,
    features: tuple[ArrayLike, ArrayLike],
    permutations: int,
    confidence: float,
    seed: int,
) -> float:
    """Tell target features from source features thinned to the target's class shares."""
    rng = np.random.default_rng(seed)
    kept = np.flatnonzero(rng.random(len(weights)) < weights / weights.max())
    first, second = scored.groups
    groups = None if first is None or second is None else (np.asarray(first)[kept], second)
    result = domain_classifier_test(
        SplitPair.of(np.asarray(features[0])[kept], features[1], groups=groups),
        permutations=permutations,
        confidence=confidence,
        seed=seed,
    )
    return max(0.0, result.test.interval[0])


def _doubt(outputs: float, inputs: float | None, tolerance: float) -> str:
    if inputs is not None and inputs > tolerance:
        return f"features shifted within classes ({inputs:.2f} > {tolerance})"
    if outputs > tolerance:
        return f"outputs shifted within classes ({outputs:.2f} > {tolerance})"
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


def _said(accuracy: float | None, interval: tuple[float, float] | None) -> str:
    return "-" if accuracy is None or interval is None else percent_interval(accuracy, interval)
