"""Labels that contradict each other, and labels that a trivial statistic gives away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array
from transferkit.audit.finding import AuditConfig, Evidence, Finding
from transferkit.audit.image_statistics import ImageStatistics
from transferkit.audit.near_duplicates import DuplicatePairs
from transferkit.errors import DataError
from transferkit.metrics.intervals import wilson_interval

FEWEST = 5
"""Images that a class and the rest must have for a shortcut to be looked for."""


def check_label_conflicts(
    hashes: NDArray[np.bytes_],
    labels: Int64Array,
    *,
    classes: Sequence[str],
    names: Sequence[str],
    splits: Sequence[str],
    near: DuplicatePairs | None = None,
    config: AuditConfig | None = None,
) -> Finding:
    """Find the same picture under two labels, within a split or across splits.

    Args:
        hashes: Content hash of each pooled image (N,).
        labels: Its class (N,).
        classes: K class names.
        names: Its file name (N,).
        splits: Names of the splits that were pooled.
        near: Near-duplicates among the images, which should agree too.
        config: Threshold ``label_conflict``.

    Returns:
        ``conflicting_labels``; the statistic is the number of images concerned.
    """
    config = config or AuditConfig()
    if not len(hashes) == len(labels) == len(names):
        raise DataError(
            f"expected as many hashes, labels and names, got {len(hashes)}, {len(labels)} and "
            f"{len(names)}"
        )
    pairs = _identical(hashes, labels)
    if near is not None:
        differ = labels[near.first] != labels[near.second]
        pairs += list(zip(near.first[differ].tolist(), near.second[differ].tolist(), strict=True))
    pairs = list(dict.fromkeys(pairs))
    concerned = len({row for pair in pairs for row in pair})
    effect = concerned / max(1, len(labels))
    evidence = tuple(
        Evidence((names[a], names[b]), f"labels {classes[labels[a]]} and {classes[labels[b]]}")
        for a, b in pairs[: config.evidence]
    )
    return Finding(
        check="conflicting_labels",
        severity=config.label_conflict.severity(effect),
        splits=tuple(splits),
        statistic=concerned,
        effect=effect,
        interval=wilson_interval(concerned, len(labels)),
        message=f"{concerned} images show the same picture under different labels."
        if concerned
        else "No picture has two labels.",
        evidence=evidence,
        advice="Have these labels checked: at most one of each pair is right." if pairs else "",
    )


def _identical(hashes: NDArray[np.bytes_], labels: Int64Array) -> list[tuple[int, int]]:
    """Return pairs of identical pixels and different labels, one per odd label."""
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.append(True, hashes[order][1:] != hashes[order][:-1]))
    pairs = []
    for rows in np.split(order, starts[1:]):
        if len(rows) > 1 and len(np.unique(labels[rows])) > 1:
            odd = rows[labels[rows] != labels[rows[0]]]
            pairs += [(int(rows[0]), int(row)) for row in odd]
    return pairs


@dataclass(frozen=True, slots=True)
class Auc:
    """Area under the ROC curve of one statistic for one class against the rest.

    Attributes:
        value: The area, 0.5 for a statistic that says nothing.
        interval: Its interval.
        p_value: Two-sided, for an area of 0.5.
    """

    value: float
    interval: tuple[float, float]
    p_value: float


def statistic_auc(values: FloatArray, positive: BoolArray, *, tests: int = 1) -> Auc:
    """Judge how well one statistic tells a class from the rest.

    Mid-ranks for ties; variance after DeLong, DeLong and Clarke-Pearson (1988), never smaller
    than that of one undecided image a side; interval and p-value are Bonferroni-corrected.

    Args:
        values: The statistic (N,).
        positive: Which images are of the class (N,).
        tests: How many statistics and classes are looked at.
    """
    ranks = stats.rankdata(values)
    inside, outside = int(positive.sum()), int((~positive).sum())
    area = (ranks[positive].sum() - inside * (inside + 1) / 2) / (inside * outside)
    own = (ranks[positive] - stats.rankdata(values[positive])) / outside
    other = 1 - (ranks[~positive] - stats.rankdata(values[~positive])) / inside
    least = 0.25 / max(inside, outside) ** 2
    error = np.sqrt(own.var(ddof=1) / inside + other.var(ddof=1) / outside + least)
    z = float(stats.norm.isf(0.025 / tests))
    test = stats.mannwhitneyu(values[positive], values[~positive], method="asymptotic")
    return Auc(
        float(area),
        (max(0.0, float(area - z * error)), min(1.0, float(area + z * error))),
        min(1.0, tests * float(np.nan_to_num(test.pvalue, nan=1.0))),
    )


def check_shortcuts(
    measured: ImageStatistics,
    labels: Int64Array,
    *,
    classes: Sequence[str],
    split: str,
    names: Sequence[str],
    config: AuditConfig | None = None,
    alpha: float = 0.05,
) -> list[Finding]:
    """Find a class that one trivial statistic tells from the rest.

    A network learns the cheapest rule that works: if exposure or a marker in a corner gives the
    label away, it learns that, and fails where the shortcut is absent.

    Args:
        measured: Image and corner statistics of the split.
        labels: Classes (N,).
        classes: K class names.
        split: Name of the split.
        names: File names (N,).
        config: Threshold ``shortcut`` on 2 AUC - 1.
        alpha: Level of the corrected test.

    Returns:
        ``shortcut`` findings, the strongest statistic of each class above the threshold, or one
        without complaint that names the strongest. With two classes, each statistic counts once.
    """
    config = config or AuditConfig()
    if len(measured.values) != len(labels):
        raise DataError(f"got {len(labels)} labels for {len(measured.values)} measured images")
    found = _areas(measured, labels, len(classes))
    if not found:
        message = f"{split} has too few images of two classes to look for a shortcut."
        return [Finding(check="shortcut", severity="info", splits=(split,), message=message)]
    findings = []
    for label, (name, auc) in found.items():
        rows = np.argsort(measured[name])
        extremes = [int(rows[0]), int(rows[-1])]
        findings.append(_shortcut(name, auc, classes[label], split, config, alpha))
        findings[-1] = _with_evidence(findings[-1], measured[name], name, names, extremes)
    grave = [finding for finding in findings if finding.severity != "info"]
    return grave or [max(findings, key=lambda finding: finding.effect or 0.0)]


def _areas(measured: ImageStatistics, labels: Int64Array, count: int) -> dict[int, tuple[str, Auc]]:
    """Return the best statistic of each class that can be told from the rest."""
    sizes = np.bincount(labels, minlength=count)
    usable = [k for k in range(count) if FEWEST <= sizes[k] <= len(labels) - FEWEST]
    if count == 2:
        usable = usable[-1:]
    varying = [n for n in measured.names if np.ptp(measured[n]) > 0]
    tests = max(1, len(usable) * len(varying))
    best: dict[int, tuple[str, Auc]] = {}
    for label in usable:
        areas = {n: statistic_auc(measured[n], labels == label, tests=tests) for n in varying}
        if areas:
            name = max(areas, key=lambda n: abs(areas[n].value - 0.5))
            best[label] = (name, areas[name])
    return best


def _shortcut(
    name: str, auc: Auc, class_name: str, split: str, config: AuditConfig, alpha: float
) -> Finding:
    effect = abs(2 * auc.value - 1)
    ends = sorted((2 * bound - 1) * (1 if auc.value >= 0.5 else -1) for bound in auc.interval)
    interval = (max(0.0, ends[0]), max(0.0, ends[1]))
    severity = config.shortcut.severity(effect, interval=interval, p_value=auc.p_value, alpha=alpha)
    high = "higher" if auc.value >= 0.5 else "lower"
    area = max(auc.value, 1 - auc.value)
    message = (
        f"In {split}, {name} alone tells {class_name} from the rest with AUC {area:.2f} "
        f"({high} in {class_name})."
        if severity != "info"
        else f"In {split}, no trivial statistic gives a class away; the best is {name} with "
        f"AUC {area:.2f} for {class_name}."
    )
    advice = "Remove the shortcut (crop, mask or normalise it) or collect data without it."
    return Finding(
        check="shortcut",
        severity=severity,
        splits=(split,),
        class_name=class_name,
        statistic=auc.value,
        p_value=auc.p_value,
        effect=effect,
        interval=interval,
        message=message,
        advice=advice if severity != "info" else "",
    )


def _with_evidence(
    finding: Finding, values: Float64Array, name: str, names: Sequence[str], rows: Sequence[int]
) -> Finding:
    evidence = tuple(Evidence((names[row],), f"{name} {values[row]:.1f}") for row in rows)
    return replace(finding, evidence=evidence)
