"""Checks of the images: broken, empty or odd ones, and splits of other sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import TypeAlias

import numpy as np
from scipy import stats as scipy_stats

from transferkit._typing import Float64Array, FloatArray, Int64Array, UInt8Array
from transferkit.audit.audit_data import AuditData
from transferkit.audit.finding import Evidence, Finding, nothing_found
from transferkit.audit.image_statistics import SIZE_STATISTICS
from transferkit.audit.label_shift import chi_square_test

BLANK_CONTRAST = 2.0  # grey levels
LOW_ENTROPY = 3.0  # bits
OUTLYING = 8.0  # robust standard deviations
SKEWED = ("contrast", "sharpness", "noise")  # compared as logarithms
DECODER_GREY = (126, 130)  # decoders fill the missing part of a file that was cut off with 128

Statistics: TypeAlias = dict[str, Float64Array]
Rows: TypeAlias = tuple[Int64Array, list[str]]  # of the images found (B,), and a note on each
Fault: TypeAlias = tuple[str, Callable[[UInt8Array, Statistics], Rows], str, str]


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
        for check, find, what, advice in faults:
            for split, part in data.splits.items():
                rows, notes = find(part.images, data.statistics[split])
                names = [(part.names[row],) for row in rows]
                kinds = Counter(note.partition(":")[0] for note in notes if ":" in note)
                how = ", ".join(f"{n} by {kind}" for kind, n in kinds.most_common())
                yield data.share_of_images(
                    check,
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
# The check, how it finds images, what is said about them, and the advice.
BROKEN: tuple[Fault, ...] = (
    (
        "corrupt_images",
        corrupt_images,
        "end in flat grey, like files that were cut off",
        FETCH_AGAIN,
    ),
    ("blank_images", blank_images, "are blank", "Delete them: they carry a label and no picture."),
    (
        "low_information_images",
        low_information_images,
        "hold far less information than the others",
        "Look at them: faded, masked or overexposed pictures teach the wrong thing.",
    ),
)
ODD: tuple[Fault, ...] = (
    (
        "odd_sized_images",
        odd_sized_images,
        "have a size or shape unlike the others",
        "Look at what resizing makes of them, or crop them.",
    ),
    (
        "outlying_images",
        outlying_images,
        "are unlike the others of their split",
        "Look at each: delete wrong files, repeat bad exports or scans, and keep rare cases.",
    ),
)


def image_sizes(data: AuditData) -> Iterator[Finding]:
    """Splits that share no original image size, beyond what chance would do."""
    sizes = {
        split: [f"{height:.0f} x {width:.0f}" for height, width in zip(*shape, strict=True)]
        for split, stats in data.statistics.items()
        for shape in [(stats["height"], stats["width"])]
    }
    kinds = set().union(*sizes.values())
    if len(kinds) == 1:
        message = f"All images are {kinds.pop()}."
        yield nothing_found("image_size_shift", tuple(sizes), message)
        return
    pairs = list(combinations(sizes, 2))
    for a, b in pairs:
        if set(sizes[a]) & set(sizes[b]):
            continue
        codes = np.unique(sizes[a] + sizes[b], return_inverse=True)[1]
        groups = None if data.groups is None else (data.groups[a], data.groups[b])
        n_a, corrected = len(sizes[a]), data.comparisons("image_size_shift", len(pairs))
        enough = max(1999, round(2 * corrected / data.alpha) - 1)
        parts = codes[:n_a], codes[n_a:]
        test = chi_square_test(*parts, groups=groups, permutations=enough, seed=data.seed)
        p_value = min(1.0, test.p_value * corrected)
        severity = data.config.shift.severity(1.0, p_value=p_value, alpha=data.alpha)
        most = [Counter(sizes[split]).most_common(1)[0][0] for split in (a, b)]
        yield Finding(
            check="image_size_shift",
            severity=severity,
            splits=(a, b),
            statistic=test.statistic,
            p_value=p_value,
            effect=1.0,
            message=f"No image of {a} is as large as one of {b}: most of {a} are {most[0]}, most "
            f"of {b} {most[1]}.",
            advice="" if severity == "info" else "Bring all splits to one size in one way.",
        )
