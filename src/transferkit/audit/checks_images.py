"""Checks of the images: broken, empty or outlying ones, and shortcuts to their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import stats as scipy_stats

from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array, UInt8Array
from transferkit.audit.audit_data import AuditData
from transferkit.audit.finding import Evidence, Finding, nothing_found
from transferkit.audit.image_statistics import SIZE_STATISTICS, ImageStatistics, corner_statistics

BLANK_CONTRAST = 2.0  # grey levels
LOW_ENTROPY = 3.0  # bits
OUTLYING = 8.0  # robust standard deviations
DECODER_GREY = (126, 130)  # decoders fill the missing part of a file that was cut off with 128
FEWEST = 5  # images that a class and the rest must have for a shortcut to be looked for


def corrupt_images(data: AuditData) -> Iterator[Finding]:
    """Files that cannot be decoded, and images whose lower part is the flat grey of cut files."""
    advice = "Fetch these files again, or delete them."
    yield data.share_of_images(
        "corrupt_images",
        data.config.broken_images,
        (),
        [Evidence((path,), reason) for path, reason in data.skipped],
        total=len(data.names) + len(data.skipped),
        found=f"{len(data.skipped)} files cannot be decoded.",
        nothing="Every file can be decoded.",
        advice=advice,
    )
    for split, part in data.splits.items():
        rows = np.flatnonzero([_cut_off(image) for image in part.images])
        yield data.share_of_images(
            "corrupt_images",
            data.config.broken_images,
            (split,),
            data.evidence(split, rows, ["the lower part is flat grey"] * len(rows)),
            found=f"{len(rows)} images of {split} end in flat grey, like files that were cut off.",
            nothing=f"No image of {split} looks cut off.",
            advice=advice,
        )


def _cut_off(image: UInt8Array) -> bool:
    """Whether the lowest tenth of (H, W, C), but not the whole, is flat at the decoders' grey."""
    band = max(2, len(image) // 10)
    low = image[-band:]
    if len(image) < 2 * band or low.min() != low.max():
        return False
    grey = DECODER_GREY[0] <= low.min() <= DECODER_GREY[1]
    return bool(grey and image.min() != image.max())


def image_sizes(data: AuditData) -> Iterator[Finding]:
    """Splits that share no original image size, as if they came from different sources."""
    sizes = {
        split: Counter(zip(stats["height"].tolist(), stats["width"].tolist(), strict=True))
        for split, stats in data.statistics.items()
    }
    kinds = set().union(*sizes.values())
    if len(kinds) == 1:
        height, width = kinds.pop()
        message = f"All images are {height:.0f} x {width:.0f}."
        yield nothing_found("image_size_shift", tuple(sizes), message)
        return
    for a, b in combinations(sizes, 2):
        if sizes[a].keys() & sizes[b].keys():
            continue
        (height_a, width_a), (height_b, width_b) = (sizes[s].most_common(1)[0][0] for s in (a, b))
        severity = data.config.shift.severity(1.0)
        yield Finding(
            check="image_size_shift",
            severity=severity,
            splits=(a, b),
            statistic=1.0,
            effect=1.0,
            interval=(1.0, 1.0),
            message=f"No image of {a} is as large as one of {b}: most of {a} are "
            f"{height_a:.0f} x {width_a:.0f}, most of {b} {height_b:.0f} x {width_b:.0f}.",
            advice="" if severity == "info" else "Bring all splits to one size in one way.",
        )


def blank_images(data: AuditData) -> Iterator[Finding]:
    """Images of one grey level, up to noise."""
    for split, stats in data.statistics.items():
        contrast = stats["contrast"]
        rows = np.flatnonzero(contrast < BLANK_CONTRAST)
        yield data.share_of_images(
            "blank_images",
            data.config.broken_images,
            (split,),
            data.evidence(split, rows, [f"contrast {value:.1f}" for value in contrast[rows]]),
            found=f"{len(rows)} images of {split} are blank.",
            nothing=f"No image of {split} is blank.",
            advice="Delete them: they carry a label and no picture.",
        )


def low_information_images(data: AuditData) -> Iterator[Finding]:
    """Images with far fewer grey levels than the others, though not blank."""
    for split, stats in data.statistics.items():
        entropy = stats["entropy"]
        poor = (entropy < LOW_ENTROPY) & (robust_scores(entropy) < -OUTLYING / 2)
        rows = np.flatnonzero(poor & (stats["contrast"] >= BLANK_CONTRAST))
        yield data.share_of_images(
            "low_information_images",
            data.config.broken_images,
            (split,),
            data.evidence(split, rows, [f"entropy {value:.1f} bits" for value in entropy[rows]]),
            found=f"{len(rows)} images of {split} hold far less information than the others.",
            nothing=f"No image of {split} holds far less information than the others.",
            advice="Look at them: faded, masked or overexposed pictures teach the wrong thing.",
        )


def odd_sized_images(data: AuditData) -> Iterator[Finding]:
    """Images whose original area or aspect is far from that of the others."""
    for split, stats in data.statistics.items():
        height, width = stats["height"], stats["width"]
        outlying = far = np.zeros(len(height), bool)
        for values, least_factor in ((height * width, 1.5), (stats["aspect"], 1.2)):
            logs = np.log(np.maximum(values, 1e-9))
            outlying = outlying | (np.abs(robust_scores(logs)) > OUTLYING)
            far = far | (np.abs(logs - np.median(logs)) > np.log(least_factor))
        rows = np.flatnonzero(outlying & far)
        yield data.share_of_images(
            "odd_sized_images",
            data.config.odd_images,
            (split,),
            data.evidence(split, rows, [f"{height[row]:.0f} x {width[row]:.0f}" for row in rows]),
            found=f"{len(rows)} images of {split} have a size or shape unlike the others.",
            nothing=f"All images of {split} are of similar size and shape.",
            advice="Look at what resizing makes of them, or crop them.",
        )


def outlying_images(data: AuditData) -> Iterator[Finding]:
    """Images that one statistic sets far apart from the others; skewed ones compare as logs."""
    skewed = ("contrast", "sharpness", "noise")
    for split, stats in data.statistics.items():
        columns = [name for name in stats.names if name not in SIZE_STATISTICS]
        levels = [
            np.log(np.maximum(stats[name], 0.1)) if name in skewed else stats[name]
            for name in columns
        ]
        scores = np.abs(np.column_stack([robust_scores(values) for values in levels]))
        far = scores.max(axis=1)
        rows = np.flatnonzero((far > OUTLYING) & (stats["contrast"] >= BLANK_CONTRAST))
        rows = rows[np.argsort(-far[rows])]
        which = [columns[column] for column in scores[rows].argmax(axis=1)]
        notes = [
            f"{name} {stats[name][row]:.1f}, median {np.median(stats[name]):.1f}"
            for row, name in zip(rows, which, strict=True)
        ]
        yield data.share_of_images(
            "outlying_images",
            data.config.odd_images,
            (split,),
            data.evidence(split, rows, notes),
            found=f"{len(rows)} images of {split} lie far from all others.",
            nothing=f"No image of {split} lies far from all others.",
            advice="Look at them: other devices, wrong files, or rare cases worth keeping.",
        )


def robust_scores(values: FloatArray) -> Float64Array:
    """Return deviations from the median in robust standard deviations (N,)."""
    deviation = np.asarray(values, np.float64) - np.median(values)
    # The median absolute deviation of a Gaussian is 1 / 1.4826 of its standard deviation. It is 0
    # where more than half of the values are equal; then the mean one (1 / 1.2533) takes its place.
    spread = 1.4826 * float(np.median(np.abs(deviation)))
    if spread <= 1e-9 * max(1.0, float(np.abs(values).max())):
        spread = 1.2533 * float(np.abs(deviation).mean())
    return deviation / spread if spread > 0 else np.zeros(len(values))


def shortcuts(data: AuditData) -> Iterator[Finding]:
    """Classes that one trivial statistic tells from the rest, such as a marker in a corner."""
    # A network learns the cheapest rule that works: if exposure or a marker gives the label away,
    # it learns that, and fails where the shortcut is absent.
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
    """Area under the ROC curve of one statistic for one class against the rest."""

    value: float
    interval: tuple[float, float]
    p_value: float  # two-sided, against 0.5


def statistic_auc(values: FloatArray, positive: BoolArray, *, tests: int = 1) -> Auc:
    """AUC of ``values`` (N,) for ``positive`` (N,), Bonferroni-corrected for ``tests``.

    E. DeLong et al., "Comparing the areas under two or more correlated ROC curves" (1988).
    """
    # With mid-ranks R among all and r among the own class, an image of the class beats
    # (R - r) / n_outside of the others, and the area is the mean of these placements. DeLong's
    # variance is that of the placements of both sides. It is 0 where the classes are apart, which
    # no sample proves: one undecided image a side is added.
    ranks = scipy_stats.rankdata(values)
    inside, outside = int(positive.sum()), int((~positive).sum())
    area = (ranks[positive].sum() - inside * (inside + 1) / 2) / (inside * outside)
    own = (ranks[positive] - scipy_stats.rankdata(values[positive])) / outside
    other = 1 - (ranks[~positive] - scipy_stats.rankdata(values[~positive])) / inside
    least = 0.25 / max(inside, outside) ** 2
    error = np.sqrt(own.var(ddof=1) / inside + other.var(ddof=1) / outside + least)
    z = float(scipy_stats.norm.isf(0.025 / tests))
    test = scipy_stats.mannwhitneyu(values[positive], values[~positive], method="asymptotic")
    return Auc(
        float(area),
        (max(0.0, float(area - z * error)), min(1.0, float(area + z * error))),
        min(1.0, tests * float(np.nan_to_num(test.pvalue, nan=1.0))),
    )
