"""The gap from val to test: its size, the reshuffle experiment, leaks and the choice on val."""

from __future__ import annotations

from collections.abc import Iterator

from transferkit._format import percent
from transferkit.audit.audit_data import AuditData
from transferkit.audit.finding import AuditConfig, Evidence, Finding, Severity, known
from transferkit.audit.gap import PRIOR_SHIFT, Estimate, GapReport, points, resplit_score
from transferkit.audit.reshuffle import Reshuffle, Score


def gap(data: AuditData) -> Iterator[Finding]:
    """Explain the gap from val to test, where train, val and test have labels."""
    if data.gap is not None:
        yield from gap_findings(data.gap, data.config)


def gap_findings(gap: GapReport, config: AuditConfig) -> Iterator[Finding]:
    """Findings of an explained gap: the gap, the reshuffle experiment, leaks and optimism."""
    val, test = gap.splits
    yield _gap(gap, config)
    if gap.experiment is not None:
        yield _reshuffle(gap.experiment, test, config)
    if gap.group_gain is not None:
        yield _difference(
            "reshuffle_by_group",
            ("train", "val", "test"),
            gap.group_gain,
            config,
            "Re-splitting at random instead of by group changes the score by {}.",
            "Split by group: a random split is flattered by images of the same group.",
        )
    for split, estimate in gap.leakage.items():
        yield _difference(
            "score_without_leaks",
            (split,),
            estimate,
            config,
            f"Images of {split} that also lie in train change its score by {{}}.",
            f"Score {split} without them.",
        )
    if gap.optimism is not None:
        yield _difference(
            "choice_optimism",
            (val,),
            gap.optimism,
            config,
            f"Choosing the best on {val} flatters its score there by {{}}.",
            f"Judge on images that chose nothing, or enlarge {val}.",
        )


def _gap(gap: GapReport, config: AuditConfig) -> Finding:
    val, test = gap.splits
    severity = config.gap.severity(gap.gap.value, interval=gap.gap.interval)
    message = (
        f"Accuracy is {percent(gap.val_score)} on {val} and {percent(gap.test_score)} on {test}, "
        f"by {gap.scored}. {gap.verdict}"
    )
    if severity != "info":
        message += (
            f" Prior shift makes up {points(gap.parts[PRIOR_SHIFT])}, and a moved threshold would "
            f"bring back {points(gap.threshold)}."
        )
    lost = gap.gap.value > 0
    return Finding(
        check="gap",
        severity=severity,
        splits=gap.splits,
        statistic=gap.gap.value,
        effect=gap.gap.value,
        interval=gap.gap.interval,
        message=message,
        evidence=tuple(Evidence((), f"{name}: {points(part)}") for name, part in gap.parts.items()),
        advice=_unless_info(severity, f"Look at {gap.worst_class} of {test} first." * lost),
    )


def _reshuffle(experiment: Reshuffle, test: str, config: AuditConfig) -> Finding:
    reshuffled, official = experiment.reshuffled, experiment.official.test[0]
    lost = reshuffled.score - official
    low, high = (bound - official for bound in reshuffled.interval)
    interval = (low, high) if known((low, high)) else None
    severity = config.gap.severity(lost, interval=interval)
    conclusion = (
        "no more than chance would do"
        if severity == "info"
        else "the official splits were not drawn from one source"
    )
    advice = f"Report the score on {test} as one on new data, not as one on more of the same."
    return Finding(
        check="reshuffle",
        severity=severity,
        splits=("train", "val", "test"),
        statistic=official,
        effect=lost,
        interval=interval,
        message=f"A probe scores {percent(official)} on {test} as it is, and "
        f"{resplit_score(reshuffled)} after pooling and re-splitting at random: {conclusion}.",
        advice=_unless_info(severity, advice),
    )


def _difference(
    check: str,
    splits: tuple[str, ...],
    estimate: Estimate | Score,
    config: AuditConfig,
    message: str,
    advice: str,
) -> Finding:
    """A difference of accuracies, graded by its interval; ``message`` has a place for it."""
    value, interval = estimate
    severity = config.gap.severity(value, interval=interval)
    return Finding(
        check=check,
        severity=severity,
        splits=splits,
        statistic=value,
        effect=value,
        interval=interval,
        message=message.format(points(estimate)),
        advice=_unless_info(severity, advice),
    )


def _unless_info(severity: Severity, advice: str) -> str:
    return "" if severity == "info" else advice
