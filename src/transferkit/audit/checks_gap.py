"""The gap from val to test: its size, the reshuffle experiment, leaks and the choice on val."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from transferkit._format import percent
from transferkit.audit.audit_data import AuditData
from transferkit.audit.finding import AuditConfig, Evidence, Finding, Severity, known
from transferkit.audit.gap import PRIOR_SHIFT, Estimate, GapReport, points, resplit_score
from transferkit.audit.reshuffle import SPLITS, Reshuffle, Score


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
            yield _group_gain(gap.experiment, gap.group_gain, config)
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
    """Compare the official test score with that of re-splits: by group, where there are groups.

    Groups that straddle the official splits flatter its score: only a lower one tells then.
    """
    again = experiment.reshuffled_by_group if experiment.grouped else experiment.reshuffled
    official = experiment.official.test[0]
    message = f"A probe scores {percent(official)} on {test} as it is"
    if again is None:
        return Finding(
            check="reshuffle",
            severity="info",
            splits=SPLITS,
            statistic=official,
            message=f"{message}; the groups are too few, or too large, to re-split by them.",
        )
    lost = again.score - official
    low, high = (bound - official for bound in again.interval)
    interval = (low, high) if known((low, high)) else None
    severity = config.gap.severity(lost, interval=interval)
    if experiment.straddling and lost < 0:
        severity = "info"
    conclusion = (
        "no more than chance would do"
        if severity == "info"
        else "the official splits were not drawn from one source"
    )
    how = "by group" if experiment.grouped else "at random"
    advice = f"Report the score on {test} as one on new data, not as one on more of the same."
    return Finding(
        check="reshuffle",
        severity=severity,
        splits=SPLITS,
        statistic=official,
        effect=lost,
        interval=interval,
        message=f"{message}, and {resplit_score(again)} after pooling and re-splitting {how}: "
        f"{conclusion}.",
        advice=_unless_info(severity, advice),
    )


def _group_gain(experiment: Reshuffle, gain: Score, config: AuditConfig) -> Finding:
    """The cost of groups in two splits: a fault only where they are."""
    finding = _difference(
        "reshuffle_by_group",
        SPLITS,
        gain,
        config,
        "Re-splitting at random instead of by group changes the score by {}.",
        "Split by group: a random split is flattered by images of the same group.",
    )
    if experiment.straddling:
        return finding
    message = f"{finding.message} The official splits keep groups apart."
    return replace(finding, severity="info", message=message, advice="")


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
