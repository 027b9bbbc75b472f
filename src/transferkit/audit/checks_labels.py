"""Labels that are missing, that contradict each other, or that a trivial statistic gives away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from transferkit._typing import BoolArray, FloatArray, Int64Array
from transferkit.audit.audit_data import AuditData
from transferkit.audit.finding import Evidence, Finding
from transferkit.audit.image_statistics import ImageStatistics, corner_statistics

FEWEST = 5
"""Images that a class and the rest must have for a shortcut to be looked for."""


def missing_labels(data: AuditData) -> Iterator[Finding]:
    """Splits without labels: several checks cannot run there."""
    missing = tuple(split for split in data.splits if split not in data.labels)
    if missing:
        yield Finding(
            check="labels",
            severity="warning" if not data.labels else "info",
            splits=missing,
            statistic=len(missing),
            message=f"No labels in {', '.join(missing)}: there, nothing is compared within "
            "classes and no score is measured.",
        )


def empty_classes(data: AuditData) -> Iterator[Finding]:
    """Classes without an image in a labelled split."""
    for split, counts in data.class_counts.items():
        for name, count in zip(data.classes, counts, strict=True):
            if count:
                continue
            yield Finding(
                check="empty_class",
                severity="error" if split == "train" else "warning",
                splits=(split,),
                class_name=name,
                statistic=0,
                message=f"{split} has no image of class {name}.",
                advice=f"Split again, stratified by class, or leave {name} out everywhere.",
            )


def conflicting_labels(data: AuditData) -> Iterator[Finding]:
    """The same picture under two labels, within a split or across splits."""
    if not data.labels:
        return
    labels = np.concatenate(list(data.labels.values()))
    names = [name for split in data.labels for name in data.splits[split].names]
    pairs = _identical_but_for_the_label(
        np.concatenate([data.hashes[split] for split in data.labels]), labels
    )
    if data.copies is not None and len(data.labels) == len(data.splits):
        edited = zip(data.copies.first.tolist(), data.copies.second.tolist(), strict=True)
        pairs += [(i, j) for i, j in edited if labels[i] != labels[j]]
    pairs = list(dict.fromkeys(pairs))
    concerned = len({row for pair in pairs for row in pair})
    titles = [data.classes[label] for label in labels]
    yield data.share_of_images(
        "conflicting_labels",
        data.config.label_conflict,
        tuple(data.labels),
        [Evidence((names[i], names[j]), f"labels {titles[i]} and {titles[j]}") for i, j in pairs],
        concerned=concerned,
        total=len(labels),
        found=f"{concerned} images show the same picture under different labels.",
        nothing="No picture has two labels.",
        advice="Have these labels checked: at most one of each pair is right.",
    )


def _identical_but_for_the_label(
    hashes: NDArray[np.bytes_], labels: Int64Array
) -> list[tuple[int, int]]:
    """Pair each image with the first of the same pixels, where their labels differ."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    twin = first[inverse]
    odd = np.flatnonzero(labels != labels[twin])
    order = odd[np.argsort(inverse[odd], kind="stable")]
    return list(zip(twin[order].tolist(), order.tolist(), strict=True))


def shortcuts(data: AuditData) -> Iterator[Finding]:
    """Classes that one trivial statistic tells from the rest, the strongest for each class.

    A network learns the cheapest rule that works: if exposure or a marker in a corner gives the
    label away, it learns that, and fails where the shortcut is absent.
    """
    for split, labels in data.labels.items():
        measured = data.statistics[split].beside(corner_statistics(data.splits[split].images))
        best = _best_statistics(measured, labels, len(data.classes))
        if not best:
            message = f"{split} has too few images of two classes to look for a shortcut."
            yield Finding(check="shortcut", severity="info", splits=(split,), message=message)
            continue
        findings = [
            _shortcut(data, split, label, name, measured[name], auc)
            for label, (name, auc) in best.items()
        ]
        grave = [finding for finding in findings if finding.severity != "info"]
        yield from grave or [max(findings, key=lambda finding: finding.effect or 0.0)]


def _best_statistics(
    measured: ImageStatistics, labels: Int64Array, num_classes: int
) -> dict[int, tuple[str, Auc]]:
    """Return the statistic that best tells each class from the rest; of two classes, one."""
    sizes = np.bincount(labels, minlength=num_classes)
    usable = [k for k in range(num_classes) if FEWEST <= sizes[k] <= len(labels) - FEWEST]
    if num_classes == 2:
        usable = usable[-1:]
    varying = [name for name in measured.names if np.ptp(measured[name]) > 0]
    tests = max(1, len(usable) * len(varying))
    best: dict[int, tuple[str, Auc]] = {}
    for label in usable if varying else []:
        areas = {n: statistic_auc(measured[n], labels == label, tests=tests) for n in varying}
        name = max(areas, key=lambda n: abs(areas[n].value - 0.5))
        best[label] = (name, areas[name])
    return best


def _shortcut(
    data: AuditData, split: str, label: int, name: str, values: FloatArray, auc: Auc
) -> Finding:
    effect, sign = abs(2 * auc.value - 1), 1 if auc.value >= 0.5 else -1
    low, high = sorted(sign * (2 * bound - 1) for bound in auc.interval)
    interval = (max(0.0, low), max(0.0, high))
    severity = data.config.shortcut.severity(
        effect, interval=interval, p_value=auc.p_value, alpha=data.alpha
    )
    class_name, area = data.classes[label], max(auc.value, 1 - auc.value)
    if severity == "info":
        message = (
            f"In {split}, no trivial statistic gives a class away; the best is {name} with AUC "
            f"{area:.2f} for {class_name}."
        )
        advice = ""
    else:
        message = (
            f"In {split}, {name} alone tells {class_name} from the rest with AUC {area:.2f} "
            f"({'higher' if sign > 0 else 'lower'} in {class_name})."
        )
        advice = "Remove the shortcut (crop, mask or normalise it) or collect data without it."
    names, order = data.splits[split].names, np.argsort(values)
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
        evidence=tuple(
            Evidence((names[row],), f"{name} {values[row]:.1f}")
            for row in (int(order[0]), int(order[-1]))
        ),
        advice=advice,
    )


class Auc(NamedTuple):
    """Area under the ROC curve of one statistic for one class against the rest.

    ``value`` is 0.5 for a statistic that says nothing; the p-value is two-sided, for 0.5.
    """

    value: float
    interval: tuple[float, float]
    p_value: float


def statistic_auc(values: FloatArray, positive: BoolArray, *, tests: int = 1) -> Auc:
    """Measure how well ``values`` (N,) tell the images of a class, ``positive`` (N,), apart.

    Interval and p-value are Bonferroni-corrected for ``tests``. DeLong, DeLong and Clarke-Pearson,
    "Comparing the areas under two or more correlated ROC curves" (1988).
    """
    # With mid-ranks R among all and r among the own class, an image of the class beats
    # (R - r) / n_outside of the others, and the area is the mean of these placements. DeLong's
    # variance is that of the placements of both sides. It is 0 where the classes are apart, which
    # no sample proves: one undecided image a side is added.
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
