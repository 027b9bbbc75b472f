"""Shift, label shift and forecasts as findings."""

from __future__ import annotations

from collections.abc import Sequence

from transferkit._text import percent, percent_interval
from transferkit.audit.drivers import Drivers
from transferkit.audit.finding import AuditConfig, Evidence, Finding
from transferkit.audit.forecast import AccuracyForecast
from transferkit.audit.label_shift import LabelShiftResult
from transferkit.audit.priors import PriorEstimate
from transferkit.audit.shift import ScopeShift, ShiftResult
from transferkit.audit.two_sample import TwoSampleResult
from transferkit.audit.univariate import FeatureTests

_TESTS = {
    "ks": "the Kolmogorov-Smirnov test",
    "mmd": "maximum mean discrepancy",
    "energy": "energy distance",
    "domain_classifier": "a domain classifier",
}


def shift_findings(
    result: ShiftResult,
    *,
    check: str,
    splits: tuple[str, str],
    comparisons: int = 1,
    alpha: float = 0.05,
    config: AuditConfig | None = None,
) -> list[Finding]:
    """Turn a shift test into findings, one for all images and one for each class.

    Each finding carries the test that proves the most: of those that reject, the one with the
    largest proven effect; if none does, the one with the smallest p-value.

    Args:
        result: The test of one pair of splits, at level ``alpha / comparisons``.
        check: Name of the findings, such as ``"embedding_shift"``.
        splits: The two splits.
        comparisons: How many such tests the audit makes; p-values are multiplied by it.
        alpha: Level over all of them.
        config: Threshold ``shift``.
    """
    config = config or AuditConfig()
    return [
        _skipped(scope, check, splits)
        if scope.skipped
        else _of_scope(scope, result.located, check, splits, comparisons, alpha, config)
        for scope in result.scopes
    ]


def _skipped(scope: ScopeShift, check: str, splits: tuple[str, str]) -> Finding:
    return Finding(
        check=check,
        severity="info",
        splits=splits,
        class_name=scope.class_name,
        message=f"Not tested: {scope.skipped}.",
    )


def _of_scope(
    scope: ScopeShift,
    located: Sequence[str],
    check: str,
    splits: tuple[str, str],
    comparisons: int,
    alpha: float,
    config: AuditConfig,
) -> Finding:
    test, p_value = _telling(scope, comparisons, alpha)
    severity = config.shift.severity(
        test.effect, interval=test.interval, p_value=p_value, alpha=alpha
    )
    a, b = splits
    who = "images" if scope.class_name is None else f"{scope.class_name} images"
    what = _TESTS[test.test] + (f" ({test.note})" if test.note else "")
    if p_value > alpha:
        message = f"No shift between the {who} of {a} and {b}."
    else:
        little = ", but by little" if severity == "info" else ""
        message = f"The {who} of {b} differ from those of {a}{little}, says {what}."
        if scope.class_name is None and located:
            message += f" The shift lives mostly in class {', '.join(located)}."
    return Finding(
        check=check,
        severity=severity,
        splits=splits,
        class_name=scope.class_name,
        statistic=test.statistic,
        p_value=p_value,
        effect=test.effect,
        interval=test.interval,
        message=message,
        evidence=_features(scope.features, comparisons, alpha, config),
        advice=_advice(splits) if severity != "info" else "",
    )


def _telling(scope: ScopeShift, comparisons: int, alpha: float) -> tuple[TwoSampleResult, float]:
    corrected = [min(1.0, p * comparisons) for p in scope.adjusted]
    rejecting = [i for i, p in enumerate(corrected) if p <= alpha]
    if rejecting:
        best = max(rejecting, key=lambda i: scope.tests[i].interval[0])
    else:
        best = min(range(len(corrected)), key=corrected.__getitem__)
    return scope.tests[best], corrected[best]


def _features(
    features: FeatureTests | None, comparisons: int, alpha: float, config: AuditConfig
) -> tuple[Evidence, ...]:
    """Name the statistics that differ, if they have names."""
    if features is None or features.names[0].startswith("feature["):
        return ()
    order = sorted(range(len(features.names)), key=lambda i: -features.distances[i])
    shown = [i for i in order if features.adjusted[i] * comparisons <= alpha]
    return tuple(
        Evidence(
            (),
            f"{features.names[i]} {'higher' if features.superiority[i] > 0.5 else 'lower'} in the "
            f"second split, distance {features.distances[i]:.2f}",
        )
        for i in shown[: config.evidence]
    )


def _advice(splits: tuple[str, str]) -> str:
    a, b = splits
    return (
        f"Find out how {b} was collected; until then a score on {a} says little about {b}, "
        "and the other way round."
    )


def driver_finding(
    drivers: Drivers,
    *,
    splits: tuple[str, str],
    names: tuple[Sequence[str], Sequence[str]],
    config: AuditConfig | None = None,
) -> Finding:
    """Name the images that a shift rests on, and what is left of it without their like."""
    config = config or AuditConfig()
    half = max(1, config.evidence // 2)
    evidence = [
        Evidence((own[row],), f"typical of {split}")
        for split, own, rows in zip(splits, names, (drivers.rows_a, drivers.rows_b), strict=True)
        for row in rows[:half].tolist()
    ]
    explained = drivers.explained
    if explained is None:
        message = "These images are the most typical of either side."
    else:
        message = (
            f"Without the {percent(drivers.share, digits=0)} of images most typical of either "
            f"side, {percent(explained, digits=0)} of the shift is gone."
        )
    return Finding(
        check="shift_drivers",
        severity="info",
        splits=splits,
        statistic=drivers.effect_without,
        p_value=drivers.p_value_without,
        effect=explained,
        message=message,
        evidence=tuple(evidence),
        advice="Look at both rows of pictures: what tells them apart is what shifted.",
    )


def label_shift_finding(
    result: LabelShiftResult,
    *,
    splits: tuple[str, str],
    comparisons: int = 1,
    alpha: float = 0.05,
    config: AuditConfig | None = None,
) -> Finding:
    """Turn a comparison of class shares into a finding."""
    config = config or AuditConfig()
    test, (a, b) = result.test, splits
    p_value = min(1.0, test.p_value * comparisons)
    severity = config.label_shift.severity(
        test.effect, interval=test.interval, p_value=p_value, alpha=alpha
    )
    name = result.most_changed
    at = result.classes.index(name)
    shares = (
        f"{name} makes up {percent(float(result.shares_a[at]))} of {a} and "
        f"{percent(float(result.shares_b[at]))} of {b}"
    )
    return Finding(
        check="label_shift",
        severity=severity,
        splits=splits,
        statistic=test.statistic,
        p_value=p_value,
        effect=test.effect,
        interval=test.interval,
        message=f"Class shares differ: {shares}."
        if p_value <= alpha
        else f"Class shares agree: {shares}.",
        evidence=tuple(
            Evidence(
                (), f"{c}: {percent_interval(float(s), (float(i[0]), float(i[1])))} of {split}"
            )
            for split, all_shares, ends in (
                (a, result.shares_a, result.intervals_a),
                (b, result.shares_b, result.intervals_b),
            )
            for c, s, i in zip(result.classes, all_shares, ends, strict=True)
        )[: config.evidence],
        advice="Compare recalls or balanced accuracy, or reweight the classes."
        if severity != "info"
        else "",
    )


def forecast_findings(
    forecast: AccuracyForecast,
    priors: PriorEstimate,
    *,
    splits: tuple[str, str],
    classes: Sequence[str],
    config: AuditConfig | None = None,
) -> list[Finding]:
    """Say what to expect on a split without labels: its accuracy and its class shares."""
    config = config or AuditConfig()
    a, b = splits
    reasons = tuple(
        Evidence((), f"{one.method}: {one.reason}") for one in forecast.forecasts if one.reason
    )
    if forecast.accuracy is None or forecast.interval is None:
        message = f"No forecast of the accuracy on {b}: the shift from {a} voids its assumptions."
    else:
        said = percent_interval(forecast.accuracy, forecast.interval)
        message = f"Expected accuracy on {b}, which has no labels: {said}."
    shares = ", ".join(
        f"{c} {percent_interval(float(s), (float(i[0]), float(i[1])))}"
        for c, s, i in zip(classes, priors.shares, priors.intervals, strict=True)
    )
    return [
        Finding(
            check="accuracy_forecast",
            severity="warning" if forecast.abstained else "info",
            splits=splits,
            statistic=forecast.accuracy,
            effect=None
            if forecast.accuracy is None
            else abs(forecast.source_accuracy - forecast.accuracy),
            message=message,
            evidence=reasons[: config.evidence],
            advice=f"Label some images of {b} and measure." if forecast.abstained else "",
        ),
        Finding(
            check="label_shift_estimate",
            severity="info",
            splits=splits,
            message=f"Estimated class shares of {b} ({priors.method}): {shares}.",
        ),
    ]
