"""What to expect of a split without labels: its accuracy and its class shares."""

from __future__ import annotations

from collections.abc import Iterator

from scipy.special import softmax

from transferkit._format import percent_interval
from transferkit._typing import Float64Array
from transferkit.audit.audit_data import AuditData
from transferkit.audit.finding import Evidence, Finding
from transferkit.audit.forecast import AccuracyForecast, forecast_accuracy
from transferkit.audit.label_shift_estimation import Scored, mlls


def forecasts(data: AuditData) -> Iterator[Finding]:
    """Accuracy and class shares of the splits without labels, judged from val."""
    if data.scores is None or not _every_class_known(data):
        return
    source = softmax(data.scores["val"], axis=1)
    for name, part in data.splits.items():
        if part.labels is not None:
            continue
        target = softmax(data.scores[name], axis=1)
        groups = None if data.groups is None else (data.groups["val"], data.groups[name])
        forecast = forecast_accuracy(
            source,
            data.labels["val"],
            target,
            features=(data.splits["val"].features, part.features),
            groups=groups,
            seed=data.seed,
        )
        scored = Scored(source, data.labels["val"], target, groups or (None, None))
        yield _accuracy_finding(data, name, forecast)
        yield _shares_finding(data, name, *mlls(scored, seed=data.seed))


def _every_class_known(data: AuditData) -> bool:
    """Whether every class occurs in val, and in train where a probe was fitted on it."""
    by_classifier = all(part.logits is not None for part in data.splits.values())
    needed = ("val",) if by_classifier else ("train", "val")
    return all(name in data.labels and data.class_counts[name].all() for name in needed)


def _accuracy_finding(data: AuditData, name: str, forecast: AccuracyForecast) -> Finding:
    if forecast.accuracy is None or forecast.interval is None:
        message = (
            f"No forecast of the accuracy on {name}: the shift from val voids its assumptions."
        )
        effect = None
    else:
        said = percent_interval(forecast.accuracy, forecast.interval)
        message = f"Expected accuracy on {name}, which has no labels: {said}."
        effect = abs(forecast.source_accuracy - forecast.accuracy)
    reasons = [
        Evidence((), f"{one.method}: {one.reason}") for one in forecast.forecasts if one.reason
    ]
    return Finding(
        check="accuracy_forecast",
        severity="warning" if forecast.abstained else "info",
        splits=("val", name),
        statistic=forecast.accuracy,
        effect=effect,
        message=message,
        evidence=tuple(reasons[: data.config.evidence]),
        advice=f"Label some images of {name} and measure." if forecast.abstained else "",
    )


def _shares_finding(
    data: AuditData, name: str, shares: Float64Array, intervals: Float64Array
) -> Finding:
    said = ", ".join(
        f"{title} {percent_interval(share, (low, high))}"
        for title, share, (low, high) in zip(
            data.classes, shares.tolist(), intervals.tolist(), strict=True
        )
    )
    return Finding(
        check="label_shift_estimate",
        severity="info",
        splits=("val", name),
        message=f"Estimated class shares of {name} (mlls): {said}.",
    )
