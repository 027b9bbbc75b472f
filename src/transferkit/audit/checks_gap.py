"""The explained gap as findings."""

from __future__ import annotations

from transferkit._format import percent
from transferkit.audit.finding import AuditConfig, Evidence, Finding, known
from transferkit.audit.gap import PRIOR_SHIFT, Estimate, GapReport, points, resplit_score
from transferkit.audit.reshuffle import Reshuffle, Score


def gap_findings(gap: GapReport, *, config: AuditConfig | None = None) -> list[Finding]:
    """Turn an explained gap into findings: the gap, the reshuffle, leaks and optimism.

    Args:
        gap: From :func:`transferkit.explain_gap`.
        config: Threshold ``gap``, in accuracy.
    """
    config = config or AuditConfig()
    findings = [_gap(gap, config)]
    if gap.experiment is not None:
        findings += _experiment(gap.experiment, gap.splits[1], config)
    findings += [_leakage(gap, split, config) for split in gap.leakage]
    if gap.optimism is not None:
        findings.append(_optimism(gap.optimism, gap.splits[0], config))
    return findings


def _gap(gap: GapReport, config: AuditConfig) -> Finding:
    val, test = gap.splits
    severity = config.gap.severity(gap.gap.value, interval=gap.gap.interval)
    scores = (
        f"{percent(gap.val_score)} on {val} and {percent(gap.test_score)} on {test}, "
        f"by {gap.scored}"
    )
    if severity == "info":
        message = f"Accuracy is {scores}: no gap beyond the noise of the samples."
    else:
        message = (
            f"Accuracy is {scores}. The gap lives mostly in class {gap.worst_class}; "
            f"prior shift makes up {points(gap.parts[PRIOR_SHIFT])}, and a moved threshold would "
            f"bring back {points(gap.threshold)}."
        )
    return Finding(
        check="gap",
        severity=severity,
        splits=gap.splits,
        class_name=None,
        statistic=gap.gap.value,
        effect=gap.gap.value,
        interval=gap.gap.interval,
        message=message,
        evidence=tuple(Evidence((), f"{name}: {points(part)}") for name, part in gap.parts.items()),
        advice=f"Look at {gap.worst_class} of {test} first." if severity != "info" else "",
    )


def _experiment(experiment: Reshuffle, test: str, config: AuditConfig) -> list[Finding]:
    findings = [_reshuffle(experiment, test, config)]
    if experiment.group_gain is not None:
        findings.append(_group_gain(experiment.group_gain, config))
    return findings


def _reshuffle(experiment: Reshuffle, test: str, config: AuditConfig) -> Finding:
    reshuffled, official = experiment.reshuffled, experiment.official.test[0]
    lost = reshuffled.score - official
    low, high = (bound - official for bound in reshuffled.interval)
    interval = (low, high) if known((low, high)) else None
    severity = config.gap.severity(lost, interval=interval)
    said = (
        "no more than chance would do"
        if severity == "info"
        else "the official splits were not drawn from one source"
    )
    return Finding(
        check="reshuffle",
        severity=severity,
        splits=("train", "val", "test"),
        statistic=official,
        effect=lost,
        interval=interval,
        message=f"A probe scores {percent(official)} on {test} as it is, and "
        f"{resplit_score(reshuffled)} after pooling and re-splitting at random: {said}.",
        advice=f"Report the score on {test} as one on new data, not as one on more of the same."
        if severity != "info"
        else "",
    )


def _group_gain(gain: Score, config: AuditConfig) -> Finding:
    severity = config.gap.severity(gain.score, interval=gain.interval)
    return Finding(
        check="reshuffle_by_group",
        severity=severity,
        splits=("train", "val", "test"),
        statistic=gain.score,
        effect=gain.score,
        interval=gain.interval,
        message=f"Re-splitting at random instead of by group changes the score by {points(gain)}.",
        advice="Split by group: a random split is flattered by images of the same group."
        if severity != "info"
        else "",
    )


def _leakage(gap: GapReport, split: str, config: AuditConfig) -> Finding:
    estimate = gap.leakage[split]
    severity = config.gap.severity(estimate.value, interval=estimate.interval)
    return Finding(
        check="score_without_leaks",
        severity=severity,
        splits=(split,),
        statistic=estimate.value,
        effect=estimate.value,
        interval=estimate.interval,
        message=f"Images of {split} that also lie in train change its score by {points(estimate)}.",
        advice=f"Score {split} without them." if severity != "info" else "",
    )


def _optimism(optimism: Estimate, val: str, config: AuditConfig) -> Finding:
    severity = config.gap.severity(optimism.value, interval=optimism.interval)
    return Finding(
        check="choice_optimism",
        severity=severity,
        splits=(val,),
        statistic=optimism.value,
        effect=optimism.value,
        interval=optimism.interval,
        message=f"Choosing the best on {val} flatters its score there by {points(optimism)}.",
        advice=f"Judge on images that chose nothing, or enlarge {val}."
        if severity != "info"
        else "",
    )
