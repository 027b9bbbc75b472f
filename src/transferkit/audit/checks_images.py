"""Images that are broken, empty, of odd size or unlike all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from transferkit._typing import BoolArray, Float64Array, FloatArray, UInt8Array
from transferkit.audit.finding import AuditConfig, Evidence, Finding, Severity, Thresholds
from transferkit.audit.image_statistics import SIZE_STATISTICS, ImageStatistics
from transferkit.errors import DataError
from transferkit.metrics.intervals import wilson_interval

BLANK_CONTRAST = 2.0  # grey levels
LOW_ENTROPY = 3.0  # bits
OUTLYING = 8.0  # robust standard deviations
_SKEWED = ("contrast", "sharpness", "noise")  # compared as logarithms


def check_unreadable(
    skipped: Sequence[tuple[str, str]], *, total: int, config: AuditConfig | None = None
) -> Finding:
    """Report the files that could not be decoded.

    Args:
        skipped: Path and reason of each file that was left out on loading.
        total: Images that were read.
        config: Threshold ``broken_images``.
    """
    config = config or AuditConfig()
    evidence = [Evidence((path,), reason) for path, reason in skipped]
    return _finding(
        "corrupt_images",
        evidence,
        total + len(skipped),
        (),
        config.broken_images,
        config,
        f"{len(skipped)} files cannot be decoded.",
        "Every file can be decoded.",
        "Fetch these files again, or delete them.",
    )


def check_truncated(
    images: UInt8Array,
    *,
    names: Sequence[str],
    split: str,
    config: AuditConfig | None = None,
) -> Finding:
    """Find images whose lower part is one flat middle grey: what decoders leave of cut files."""
    config = config or AuditConfig()
    rows = np.flatnonzero(_cut_off(images))
    return _finding(
        "corrupt_images",
        [Evidence((names[row],), "the lower part is flat grey") for row in rows.tolist()],
        len(images),
        (split,),
        config.broken_images,
        config,
        f"{len(rows)} images of {split} end in flat grey, like files that were cut off.",
        f"No image of {split} looks cut off.",
        "Fetch these files again, or delete them.",
    )


def check_blank(
    stats: ImageStatistics, *, names: Sequence[str], split: str, config: AuditConfig | None = None
) -> Finding:
    """Find images of one grey level, up to noise."""
    config = config or AuditConfig()
    contrast = stats["contrast"]
    rows = np.flatnonzero(contrast < BLANK_CONTRAST)
    return _finding(
        "blank_images",
        [Evidence((names[r],), f"contrast {contrast[r]:.1f}") for r in rows.tolist()],
        len(contrast),
        (split,),
        config.broken_images,
        config,
        f"{len(rows)} images of {split} are blank.",
        f"No image of {split} is blank.",
        "Delete them: they carry a label and no picture.",
    )


def check_low_information(
    stats: ImageStatistics, *, names: Sequence[str], split: str, config: AuditConfig | None = None
) -> Finding:
    """Find images with far fewer grey levels than the others, though not blank."""
    config = config or AuditConfig()
    entropy = stats["entropy"]
    poor = (entropy < LOW_ENTROPY) & (robust_scores(entropy) < -OUTLYING / 2)
    rows = np.flatnonzero(poor & (stats["contrast"] >= BLANK_CONTRAST))
    return _finding(
        "low_information_images",
        [Evidence((names[r],), f"entropy {entropy[r]:.1f} bits") for r in rows.tolist()],
        len(entropy),
        (split,),
        config.broken_images,
        config,
        f"{len(rows)} images of {split} hold far less information than the others.",
        f"No image of {split} holds far less information than the others.",
        "Look at them: faded, masked or overexposed pictures teach the wrong thing.",
    )


def check_odd_sizes(
    stats: ImageStatistics, *, names: Sequence[str], split: str, config: AuditConfig | None = None
) -> Finding:
    """Find images whose original area or aspect is far from that of the others."""
    config = config or AuditConfig()
    height, width = stats["height"], stats["width"]
    area, aspect = np.log(np.maximum(height * width, 1)), np.log(np.maximum(stats["aspect"], 1e-9))
    odd = (np.abs(robust_scores(area)) > OUTLYING) | (np.abs(robust_scores(aspect)) > OUTLYING)
    odd &= (np.abs(area - np.median(area)) > np.log(1.5)) | (
        np.abs(aspect - np.median(aspect)) > np.log(1.2)
    )
    rows = np.flatnonzero(odd)
    return _finding(
        "odd_sized_images",
        [Evidence((names[r],), f"{height[r]:.0f} x {width[r]:.0f}") for r in rows.tolist()],
        len(area),
        (split,),
        config.odd_images,
        config,
        f"{len(rows)} images of {split} have a size or shape unlike the others.",
        f"All images of {split} are of similar size and shape.",
        "Look at what resizing makes of them, or crop them.",
    )


def check_outlying(
    stats: ImageStatistics, *, names: Sequence[str], split: str, config: AuditConfig | None = None
) -> Finding:
    """Find images that one statistic sets far apart from the others.

    Far is 8 robust standard deviations (1.4826 x median absolute deviation) from the median;
    contrast, sharpness and noise are compared as logarithms.
    """
    config = config or AuditConfig()
    columns = [n for n in stats.names if n not in SIZE_STATISTICS]
    scores = np.column_stack([robust_scores(_levelled(stats, name)) for name in columns])
    far = np.abs(scores).max(axis=1)
    rows = np.flatnonzero((far > OUTLYING) & (stats["contrast"] >= BLANK_CONTRAST))
    rows = rows[np.argsort(-far[rows])]
    which = [columns[i] for i in np.abs(scores[rows]).argmax(axis=1)]
    evidence = [
        Evidence(
            (names[row],), f"{name} {stats[name][row]:.1f}, median {np.median(stats[name]):.1f}"
        )
        for row, name in zip(rows.tolist(), which, strict=True)
    ]
    return _finding(
        "outlying_images",
        evidence,
        len(far),
        (split,),
        config.odd_images,
        config,
        f"{len(rows)} images of {split} lie far from all others.",
        f"No image of {split} lies far from all others.",
        "Look at them: other devices, wrong files, or rare cases worth keeping.",
    )


def check_sizes(
    stats: Mapping[str, ImageStatistics], *, config: AuditConfig | None = None
) -> list[Finding]:
    """Compare the original sizes of the images between every two splits.

    Returns:
        ``image_size_shift`` findings whose effect is the total variation distance between the
        shares of each size, where every split has one size of its own or a few; a single finding
        without complaint if all images have one size.
    """
    config = config or AuditConfig()
    sizes = {split: list(zip(s["height"], s["width"], strict=True)) for split, s in stats.items()}
    kinds = {size for values in sizes.values() for size in values}
    if len(kinds) == 1:
        (height, width) = next(iter(kinds))
        message = f"All images are {height:.0f} x {width:.0f}."
        return [_size_finding("info", tuple(stats), 0.0, message)]
    names = list(stats)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    common = {split: max(set(values), key=values.count) for split, values in sizes.items()}
    findings = []
    for a, b in pairs:
        if common[a] != common[b] and not set(sizes[a]) & set(sizes[b]):
            (ha, wa), (hb, wb) = common[a], common[b]
            message = (
                f"No image of {a} is as large as one of {b}: most of {a} are "
                f"{ha:.0f} x {wa:.0f}, most of {b} {hb:.0f} x {wb:.0f}."
            )
            findings.append(_size_finding(config.shift.severity(1.0), (a, b), 1.0, message))
    return findings


def _size_finding(
    severity: Severity, splits: tuple[str, ...], effect: float, message: str
) -> Finding:
    return Finding(
        check="image_size_shift",
        severity=severity,
        splits=splits,
        statistic=effect,
        effect=effect,
        interval=(effect, effect),
        message=message,
        advice="" if severity == "info" else "Bring all splits to one size in one way.",
    )


def robust_scores(values: FloatArray) -> Float64Array:
    """Return deviations from the median in robust standard deviations (N,).

    Where more than half of the values agree, the mean absolute deviation takes the place of the
    median one; where all agree, the scores are 0.
    """
    if not len(values):
        return np.zeros(0)
    deviation = np.asarray(values, np.float64) - np.median(values)
    spread = 1.4826 * float(np.median(np.abs(deviation)))
    if spread <= 1e-9 * max(1.0, float(np.abs(values).max())):
        spread = 1.2533 * float(np.abs(deviation).mean())
    return deviation / spread if spread > 0 else np.zeros(len(values))


def _levelled(stats: ImageStatistics, name: str) -> Float64Array:
    column = stats[name]
    return np.log(np.maximum(column, 0.1)) if name in _SKEWED else column


def _cut_off(images: UInt8Array) -> BoolArray:
    """Mark images whose lowest tenth is exactly flat at the middle grey of decoders."""
    height = images.shape[1]
    band = max(2, height // 10)
    if height < 2 * band:
        return np.zeros(len(images), bool)
    cut = np.zeros(len(images), bool)
    for index, image in enumerate(images):
        low = image[-band:]
        if low.min() == low.max() and 126 <= int(low[0, 0, 0]) <= 130:
            cut[index] = image.min() != image.max()
    return cut


def _finding(
    check: str,
    evidence: Sequence[Evidence],
    total: int,
    splits: tuple[str, ...],
    limits: Thresholds,
    config: AuditConfig,
    bad: str,
    good: str,
    advice: str,
) -> Finding:
    if total < 1:
        raise DataError(f"{check}: the split {', '.join(splits)} is empty")
    count = len(evidence)
    return Finding(
        check=check,
        severity=limits.severity(count / total),
        splits=splits,
        statistic=count,
        effect=count / total,
        interval=wilson_interval(count, total),
        message=bad if count else good,
        evidence=tuple(evidence[: config.evidence]),
        advice=advice if count else "",
    )
