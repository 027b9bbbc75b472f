"""Shortcuts: classes that something trivial about an image gives away.

A network learns the cheapest rule that works: if exposure, a marker or the size of the file tells
the class, it learns that, and fails where the shortcut is absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn.metrics import roc_auc_score

from transferkit._sampling import group_codes
from transferkit._typing import BoolArray, Float64Array, Int64Array
from transferkit.audit.audit_data import AuditData
from transferkit.audit.finding import SEVERITIES, Evidence, Finding, Thresholds
from transferkit.audit.image_statistics import SIZE_STATISTICS, corner_statistics
from transferkit.metrics.classification import auroc_influences

FEWEST = 5
"""Images that a class and the rest must have for a shortcut to be looked for."""


class Auc(NamedTuple):
    """Area under the ROC curve of one statistic for one class against the rest."""

    value: float
    interval: tuple[float, float]
    p_value: float  # two-sided, against 0.5


class Clue(NamedTuple):
    """Something trivial that may tell a class."""

    name: str
    values: Float64Array  # (N,)
    limits: Thresholds
    words: Sequence[str] = ()  # of a property of the files (N,); its values are higher in the class


def shortcuts(data: AuditData) -> Iterator[Finding]:
    """Classes that one trivial statistic, or a property of the files, tells from the rest."""
    for split, labels in data.labels.items():
        sizes = np.bincount(labels, minlength=len(data.classes))
        usable = [k for k, n in enumerate(sizes) if FEWEST <= n <= len(labels) - FEWEST]
        if len(data.classes) == 2:
            usable = usable[-1:]  # one class against the other
        measured = data.statistics[split] | corner_statistics(data.splits[split].images)
        measured = {name: values for name, values in measured.items() if np.ptp(values) > 0}
        kinds = file_properties(data, split)
        if not usable or not (measured or kinds):
            message = f"{split} has too few images of two classes to look for a shortcut."
            yield Finding(check="shortcut", severity="info", splits=(split,), message=message)
            continue
        tests = len(data.labels) * len(usable) * (len(measured) + len(kinds))
        corrected = data.comparisons("shortcut", tests)
        groups = group_codes((data.groups or {}).get(split), len(labels))
        findings = [
            max((_finding(data, split, k, clue, groups, corrected) for clue in clues), key=_weight)
            for k in usable
            for clues in [_clues(data, labels == k, measured, kinds, groups)]
        ]
        grave = [finding for finding in findings if finding.severity != "info"]
        yield from grave or [max(findings, key=_weight)]


def file_properties(data: AuditData, split: str) -> dict[str, list[str]]:
    """What can be told of the files without looking at the picture, in words (N,), if it varies."""
    found, part = data.statistics[split], data.splits[split]
    shapes = list(zip(found["height"].tolist(), found["width"].tolist(), strict=True))
    properties = {
        "the exact size": [f"{height:.0f} x {width:.0f}" for height, width in shapes],
        "the aspect": [f"{width / height:.3f} to 1" for height, width in shapes],
        "the file format": [PurePath(name).suffix.lower() or "no suffix" for name in part.names],
    }
    if "saturation" in found:
        properties["the colour mode"] = np.where(found["saturation"] > 0, "colour", "grey").tolist()
    return {name: kinds for name, kinds in properties.items() if len(set(kinds)) > 1}


def _clues(
    data: AuditData,
    positive: BoolArray,
    measured: Mapping[str, Float64Array],
    kinds: Mapping[str, Sequence[str]],
    groups: Int64Array,
) -> Iterator[Clue]:
    of_pixels, of_files = data.config.shortcut, data.config.file_shortcut
    for name, values in measured.items():
        yield Clue(name, values, of_files if name in SIZE_STATISTICS else of_pixels)
    for name, words in kinds.items():
        codes = np.unique(words, return_inverse=True)[1].astype(np.int64)
        yield Clue(name, likeness(codes, positive, groups), of_files, words)


def _finding(
    data: AuditData, split: str, label: int, clue: Clue, groups: Int64Array, corrected: float
) -> Finding:
    positive, class_name = data.labels[split] == label, data.classes[label]
    auc = statistic_auc(clue.values, positive, groups, tests=corrected)
    sign = -1 if auc.value < 0.5 and not clue.words else 1
    low, high = sorted(max(0.0, sign * (2 * bound - 1)) for bound in auc.interval)
    effect = max(0.0, sign * (2 * auc.value - 1))
    severity = clue.limits.severity(
        effect, interval=(low, high), p_value=auc.p_value, alpha=data.alpha
    )
    how = f"{clue.name} alone tells {class_name} from the rest with AUC {(1 + effect) / 2:.2f}"
    if severity == "info":
        message, advice = f"In {split}, nothing trivial gives a class away; at best, {how}.", ""
    else:
        detail = f"{'higher' if sign > 0 else 'lower'} in {class_name}"
        if clue.words:
            detail = _most_telling(clue.words, positive, class_name)
        message = f"In {split}, {how} ({detail})."
        advice = "Remove the shortcut (crop, mask or normalise it) or collect data without it."
    notes = clue.words or [f"{value:.1f}" for value in clue.values]
    return Finding(
        check="shortcut",
        severity=severity,
        splits=(split,),
        class_name=class_name,
        statistic=auc.value,
        p_value=auc.p_value,
        effect=effect,
        interval=(low, high),
        message=message,
        evidence=tuple(
            Evidence((data.splits[split].names[row],), f"{clue.name} {notes[row]}")
            for row in np.argsort(clue.values)[[0, -1]]
        ),
        advice=advice,
    )


def _weight(finding: Finding) -> tuple[int, float, str]:
    """Gravest, then strongest; ties go by name, not by the order of the classes."""
    effect = round(finding.effect or 0.0, 9)
    return SEVERITIES.index(finding.severity), effect, finding.class_name or ""


def _most_telling(words: Sequence[str], positive: BoolArray, class_name: str) -> str:
    """The word whose images are farthest from the share of the class among all."""
    names, codes = np.unique(words, return_inverse=True)
    counts, own = np.bincount(codes), np.bincount(codes, positive)
    most = int(np.argmax(np.abs(own - counts * positive.mean())))
    return f"{names[most]}: {own[most]:.0f} of {counts[most]} are {class_name}"


def likeness(codes: Int64Array, positive: BoolArray, groups: Int64Array) -> Float64Array:
    """Share of the class among the images of other groups with the same property (N,).

    An image does not vote on itself, so that a size of its own tells nothing of it.
    """
    pairs = np.unique(np.stack([codes, groups]), axis=1, return_inverse=True)[1].reshape(-1)

    def of_others(codes: Int64Array, own: Int64Array, weights: Float64Array) -> Float64Array:
        found = np.bincount(codes, weights)[codes] - np.bincount(own, weights)[own]
        return found.astype(np.float64)

    ones, hits, all_alike = np.ones(len(codes)), positive.astype(np.float64), np.zeros_like(codes)
    overall = of_others(all_alike, groups, hits) / np.maximum(1, of_others(all_alike, groups, ones))
    # One image more, of the overall share, stands in for what has not been seen before.
    shares: Float64Array = (of_others(codes, pairs, hits) + overall) / (
        of_others(codes, pairs, ones) + 1
    )
    return shares


def statistic_auc(
    values: Float64Array, positive: BoolArray, groups: Int64Array, *, tests: float = 1.0
) -> Auc:
    """AUC of ``values`` (N,) for ``positive`` (N,), Bonferroni-corrected for ``tests``.

    N. Obuchowski, "Nonparametric analysis of clustered ROC curve data" (1997): the area's standard
    error when whole ``groups`` (N,) are drawn; of independent images, that of DeLong (1988).
    """
    # Groups add to the area's error what their images do. That is 0 where the classes are apart,
    # which no sample proves: one undecided group is added.
    area = float(roc_auc_score(positive, values))
    added = np.bincount(groups, auroc_influences(positive, values))
    few, many = sorted(len(np.unique(groups[side])) for side in (positive, ~positive))
    error = float(np.sqrt(np.sum(added**2) * few / max(1, few - 1) + 0.25 / many**2))
    half = float(stats.t.isf(0.025 / tests, max(1, few - 1))) * error
    p_value = 2 * float(stats.t.sf(abs(area - 0.5) / error, max(1, few - 1)))
    return Auc(area, (max(0.0, area - half), min(1.0, area + half)), min(1.0, tests * p_value))
