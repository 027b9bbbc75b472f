"""Checks of the images: broken, empty or outlying ones, and shortcuts to their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy import stats as scipy_stats

from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array, UInt8Array
from transferkit.audit.audit_data import AuditData
from transferkit.audit.finding import Evidence, Finding, nothing_found
from transferkit.audit.image_statistics import SIZE_STATISTICS, corner_statistics

BLANK_CONTRAST = 2.0  # grey levels
LOW_ENTROPY = 3.0  # bits
OUTLYING = 8.0  # robust standard deviations
SKEWED = ("contrast", "sharpness", "noise")  # compared as logarithms
DECODER_GREY = (126, 130)  # decoders fill the missing part of a file that was cut off with 128
FEWEST = 5  # images that a class and the rest must have for a shortcut to be looked for

Statistics: TypeAlias = dict[str, Float64Array]
Rows: TypeAlias = tuple[Int64Array, list[str]]  # of the images found (B,), and a note on each
Faults: TypeAlias = dict[
    Callable[[UInt8Array, Statistics], Rows], tuple[str, str]
]  # find rows; what is said, advice


def corrupt_files(data: AuditData) -> Iterator[Finding]:
    """Files that cannot be decoded."""
    yield data.share_of_images(
        "corrupt_images",
        data.config.broken_images,
        (),
        [Evidence((path,), reason) for path, reason in data.skipped],
        f"{len(data.skipped)} files cannot be decoded."
        if data.skipped
        else "Every file can be decoded.",
        FETCH_AGAIN,
        total=len(data.names) + len(data.skipped),
    )


def broken_and_odd_images(data: AuditData) -> Iterator[Finding]:
    """Images that are broken or unlike the others of their split; a check for each kind."""
    for limits, faults in ((data.config.broken_images, BROKEN), (data.config.odd_images, ODD)):
        for find, (what, advice) in faults.items():
            for split, part in data.splits.items():
                rows, notes = find(part.images, data.statistics[split])
                names = [(part.names[row],) for row in rows]
                kinds = Counter(note.partition(":")[0] for note in notes if ":" in note)
                how = ", ".join(f"{n} by {kind}" for kind, n in kinds.most_common())
                yield data.share_of_images(
                    find.__name__,
                    limits,
                    (split,),
                    list(map(Evidence, names, notes)),
                    f"{len(rows) or 'No'} images of {split} {what}{how and f': {how}'}.",
                    advice,
                )


def corrupt_images(images: UInt8Array, _: Statistics) -> Rows:
    """Images whose lowest tenth, but not the whole, is flat at the grey of cut files."""
    band, found = max(2, images.shape[1] // 10), []
    for row, image in enumerate(images):
        low = image[-band:]
        flat = low.min() == low.max() and DECODER_GREY[0] <= low.min() <= DECODER_GREY[1]
        if flat and len(image) >= 2 * band and image.min() != image.max():
            found.append(row)
    return np.array(found, np.int64), ["the lower part is flat grey"] * len(found)


def blank_images(_: UInt8Array, stats: Statistics) -> Rows:
    """Images of one grey level, up to noise."""
    rows = np.flatnonzero(stats["contrast"] < BLANK_CONTRAST)
    return rows, [f"contrast {value:.1f}" for value in stats["contrast"][rows]]


def low_information_images(_: UInt8Array, stats: Statistics) -> Rows:
    """Images with far fewer grey levels than the others, though not blank."""
    entropy = stats["entropy"]
    poor = (entropy < LOW_ENTROPY) & (robust_scores(entropy) < -OUTLYING / 2)
    rows = np.flatnonzero(poor & (stats["contrast"] >= BLANK_CONTRAST))
    return rows, [f"entropy {value:.1f} bits" for value in entropy[rows]]


def odd_sized_images(_: UInt8Array, stats: Statistics) -> Rows:
    """Images whose original area or aspect is far from that of the others."""
    height, width = stats["height"], stats["width"]
    outlying = far = np.zeros(len(height), bool)
    for values, least_factor in ((height * width, 1.5), (stats["aspect"], 1.2)):
        logs = np.log(np.maximum(values, 1e-9))
        outlying = outlying | (np.abs(robust_scores(logs)) > OUTLYING)
        far = far | (np.abs(logs - np.median(logs)) > np.log(least_factor))
    rows = np.flatnonzero(outlying & far)
    return rows, [f"{height[row]:.0f} x {width[row]:.0f}" for row in rows]


def outlying_images(_: UInt8Array, stats: Statistics) -> Rows:
    """Images that one statistic sets far apart from the others, the farthest first."""
    columns = [name for name in stats if name not in SIZE_STATISTICS]
    levels = [np.log(np.maximum(stats[n], 0.1)) if n in SKEWED else stats[n] for n in columns]
    scores = np.column_stack([robust_scores(values) for values in levels])
    far = np.abs(scores).max(axis=1)
    rows = np.flatnonzero((far > OUTLYING) & (stats["contrast"] >= BLANK_CONTRAST))
    rows = rows[np.argsort(-far[rows])]
    notes = []
    for row in rows:
        column = int(np.abs(scores[row]).argmax())
        name, higher = columns[column], bool(scores[row, column] > 0)
        measured = f"{stats[name][row]:.1f}, median {np.median(stats[name]):.1f}"
        notes.append(f"{'high' if higher else 'low'} {name}: {measured}")
    return rows, notes


def robust_scores(values: FloatArray) -> Float64Array:
    """Return deviations from the median in robust standard deviations (N,)."""
    deviation = np.asarray(values, np.float64) - np.median(values)
    # The median absolute deviation is 0 where more than half of the values are equal; then the
    # mean one takes its place, which is 1 / 1.2533 of a Gaussian's standard deviation.
    spread = float(scipy_stats.median_abs_deviation(values, scale="normal"))
    if spread <= 1e-9 * max(1.0, float(np.abs(values).max())):
        spread = 1.2533 * float(np.abs(deviation).mean())
    return deviation / spread if spread > 0 else np.zeros(len(values))


FETCH_AGAIN = "Fetch these files again, or delete them."
# How images are found, to what is said about them and the advice.
BROKEN: Faults = {
    corrupt_images: ("end in flat grey, like files that were cut off", FETCH_AGAIN),
    blank_images: ("are blank", "Delete them: they carry a label and no picture."),
    low_information_images: (
        "hold far less information than the others",
        "Look at them: faded, masked or overexposed pictures teach the wrong thing.",
    ),
}
ODD: Faults = {
    odd_sized_images: (
        "have a size or shape unlike the others",
        "Look at what resizing makes of them, or crop them.",
    ),
    outlying_images: (
        "are unlike the others of their split",
        "Look at each: delete wrong files, repeat bad exports or scans, and keep rare cases.",
    ),
}


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
        most = [sizes[split].most_common(1)[0][0] for split in (a, b)]
        said = [f"{height:.0f} x {width:.0f}" for height, width in most]
        severity = data.config.shift.severity(1.0)
        yield Finding(
            check="image_size_shift",
            severity=severity,
            splits=(a, b),
            statistic=1.0,
            effect=1.0,
            interval=(1.0, 1.0),
            message=f"No image of {a} is as large as one of {b}: most of {a} are {said[0]}, most "
            f"of {b} {said[1]}.",
            advice="" if severity == "info" else "Bring all splits to one size in one way.",
        )


def shortcuts(data: AuditData) -> Iterator[Finding]:
    """Classes that one trivial statistic tells from the rest, such as a marker in a corner."""
    # A network learns the cheapest rule that works: if exposure or a marker gives the label away,
    # it learns that, and fails where the shortcut is absent.
    for split, labels in data.labels.items():
        measured = data.statistics[split] | corner_statistics(data.splits[split].images)
        varying = {name: values for name, values in measured.items() if np.ptp(values) > 0}
        sizes = np.bincount(labels, minlength=len(data.classes))
        usable = [k for k, n in enumerate(sizes) if FEWEST <= n <= len(labels) - FEWEST]
        if len(data.classes) == 2:
            usable = usable[-1:]  # one class against the other
        if not varying or not usable:
            message = f"{split} has too few images of two classes to look for a shortcut."
            yield Finding(check="shortcut", severity="info", splits=(split,), message=message)
            continue
        findings = [_best_shortcut(data, split, label, varying, len(usable)) for label in usable]
        grave = [finding for finding in findings if finding.severity != "info"]
        yield from grave or [max(findings, key=lambda finding: finding.effect or 0.0)]


def _best_shortcut(
    data: AuditData, split: str, label: int, measured: Statistics, classes: int
) -> Finding:
    """The statistic that best tells a class from the rest."""
    positive, tests = data.labels[split] == label, classes * len(measured)
    areas = {n: statistic_auc(values, positive, tests=tests) for n, values in measured.items()}
    name = max(areas, key=lambda n: abs(areas[n].value - 0.5))
    auc, values = areas[name], measured[name]
    effect, sign = abs(2 * auc.value - 1), 1 if auc.value >= 0.5 else -1
    low, high = sorted(sign * (2 * bound - 1) for bound in auc.interval)
    interval = (max(0.0, low), max(0.0, high))
    severity = data.config.shortcut.severity(
        effect, interval=interval, p_value=auc.p_value, alpha=data.alpha
    )
    class_name, area = data.classes[label], f"AUC {max(auc.value, 1 - auc.value):.2f}"
    if severity == "info":
        what = f"no trivial statistic gives a class away; the best is {name} with {area} for"
        message, advice = f"In {split}, {what} {class_name}.", ""
    else:
        rose = "higher" if sign > 0 else "lower"
        what = f"{name} alone tells {class_name} from the rest with {area} ({rose} in {class_name})"
        message = f"In {split}, {what}."
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
        evidence=tuple(
            Evidence((data.splits[split].names[row],), f"{name} {values[row]:.1f}")
            for row in np.argsort(values)[[0, -1]]
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
