"""Images that are few, broken, empty, of odd size or unlike all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from transferkit._typing import Float64Array, FloatArray, Int64Array, UInt8Array
from transferkit.audit.audit_data import AuditData
from transferkit.audit.finding import Evidence, Finding, Thresholds, nothing_found
from transferkit.audit.image_statistics import SIZE_STATISTICS

BLANK_CONTRAST = 2.0  # grey levels
LOW_ENTROPY = 3.0  # bits
OUTLYING = 8.0  # robust standard deviations
DECODER_GREY = (126, 130)  # decoders fill the missing part of a file that was cut off with 128


def few_images(data: AuditData) -> Iterator[Finding]:
    """Splits with fewer images than features, in which only large shifts show."""
    for split, part in data.splits.items():
        count, width = part.features.shape
        if count < width:
            yield Finding(
                check="few_images",
                severity="warning" if count < 10 else "info",
                splits=(split,),
                statistic=count,
                message=f"{split} has {count} image(s), fewer than the {width} features: only "
                "large shifts can be told from chance.",
                advice=f"Add images to {split}." if count < 10 else "",
            )


def constant_features(data: AuditData) -> Iterator[Finding]:
    """An embedding that is blind to these images: no shift can show in it."""
    if all(np.ptp(part.features, axis=0).max() == 0 for part in data.splits.values()):
        yield Finding(
            check="embedding",
            severity="warning",
            splits=tuple(data.splits),
            message="Every feature is constant within each split: the embedding sees no "
            "difference between images.",
            advice="Audit with another model.",
        )


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
        rows = [row for row, image in enumerate(part.images) if _cut_off(image)]
        yield data.share_of_images(
            "corrupt_images",
            data.config.broken_images,
            (split,),
            [Evidence((part.names[row],), "the lower part is flat grey") for row in rows],
            total=len(part),
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
        yield replace(nothing_found("image_size_shift", tuple(sizes), message), interval=(0.0, 0.0))
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
        yield _images(
            data,
            "blank_images",
            data.config.broken_images,
            split,
            rows,
            [f"contrast {value:.1f}" for value in contrast[rows]],
            found="are blank",
            nothing=f"No image of {split} is blank.",
            advice="Delete them: they carry a label and no picture.",
        )


def low_information_images(data: AuditData) -> Iterator[Finding]:
    """Images with far fewer grey levels than the others, though not blank."""
    for split, stats in data.statistics.items():
        entropy = stats["entropy"]
        poor = (entropy < LOW_ENTROPY) & (robust_scores(entropy) < -OUTLYING / 2)
        rows = np.flatnonzero(poor & (stats["contrast"] >= BLANK_CONTRAST))
        yield _images(
            data,
            "low_information_images",
            data.config.broken_images,
            split,
            rows,
            [f"entropy {value:.1f} bits" for value in entropy[rows]],
            found="hold far less information than the others",
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
        yield _images(
            data,
            "odd_sized_images",
            data.config.odd_images,
            split,
            rows,
            [f"{height[row]:.0f} x {width[row]:.0f}" for row in rows],
            found="have a size or shape unlike the others",
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
        yield _images(
            data,
            "outlying_images",
            data.config.odd_images,
            split,
            rows,
            [
                f"{name} {stats[name][row]:.1f}, median {np.median(stats[name]):.1f}"
                for row, name in zip(rows, which, strict=True)
            ],
            found="lie far from all others",
            nothing=f"No image of {split} lies far from all others.",
            advice="Look at them: other devices, wrong files, or rare cases worth keeping.",
        )


def robust_scores(values: FloatArray) -> Float64Array:
    """Return deviations from the median in robust standard deviations (N,).

    1.4826 x the median absolute deviation; where more than half of the values are equal, the
    mean absolute deviation takes its place; where all are, the scores are 0.
    """
    deviation = np.asarray(values, np.float64) - np.median(values)
    spread = 1.4826 * float(np.median(np.abs(deviation)))
    if spread <= 1e-9 * max(1.0, float(np.abs(values).max())):
        spread = 1.2533 * float(np.abs(deviation).mean())
    return deviation / spread if spread > 0 else np.zeros(len(values))


def _images(
    data: AuditData,
    check: str,
    limits: Thresholds,
    split: str,
    rows: Int64Array,
    notes: Sequence[str],
    *,
    found: str,
    nothing: str,
    advice: str,
) -> Finding:
    """Make the finding of single images of one split: their rows (B,), and a note on each."""
    names = data.splits[split].names
    evidence = [Evidence((names[r],), note) for r, note in zip(rows.tolist(), notes, strict=True)]
    return data.share_of_images(
        check,
        limits,
        (split,),
        evidence,
        total=len(names),
        found=f"{len(rows)} images of {split} {found}.",
        nothing=nothing,
        advice=advice,
    )
