"""The result of a check, and the thresholds that grade it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Literal, TypeAlias, get_args

from transferkit._format import PlainResult, plain
from transferkit._typing import JSON
from transferkit._validation import check_among, check_whole
from transferkit.errors import ConfigError

Severity: TypeAlias = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)

BUDGET = {
    "shift": 0.35,
    "gap": 0.25,
    "reshuffle": 0.15,
    "label_shift": 0.1,
    "image_size_shift": 0.05,
    "shortcut": 0.05,
    "label_errors": 0.05,
}
"""Share of alpha that the tests of each question may spend: together the report's whole alpha."""
SHIFTS = ("statistics_shift", "embedding_shift", "output_shift", "image_size_shift")
DISTANCES = ("shift", *SHIFTS, "label_shift", "shortcut")
"""Checks whose effect is a distance: neither accuracy nor a share of images."""
ANSWERS = ("accuracy_forecast", "label_shift_estimate", "shift_drivers")
"""Checks that answer a question rather than complain, or not: each result stands for itself."""


def known(interval: tuple[float, float] | None) -> bool:
    """Whether there is an interval: a single re-split has none, and gives NaN."""
    return interval is not None and all(map(math.isfinite, interval))


def json_interval(interval: tuple[float, float] | None) -> list[JSON] | None:
    """Return an interval for JSON: None if both bounds are infinite, else None for each that is."""
    if interval is None or not any(map(math.isfinite, interval)):
        return None
    return [plain(bound) for bound in interval]


@dataclass(frozen=True, slots=True)
class Evidence(PlainResult):
    """The image, or the images that belong together, that a finding rests on, and a note.

    Attributes:
        names: File names; one for a single image, two for a pair.
        note: A few words, such as ``"labels NORMAL and PNEUMONIA"`` or ``"flipped"``.
    """

    names: tuple[str, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        names = " and ".join(self.names)
        return f"{names} ({self.note})" if names and self.note else names or self.note


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(PlainResult):
    """One typed result of one audit check.

    A check that finds nothing wrong says so in a finding of severity ``"info"``.

    Attributes:
        check: Name of the check; shift checks have ``shift`` in theirs.
        severity: ``"info"``, ``"warning"`` or ``"error"``.
        splits: The splits concerned, one or two or more.
        class_name: The class in which it was found, or None where it concerns all.
        statistic: The measured value, in its own unit (pairs found, a KS distance, an AUC).
        p_value: Its p-value, corrected for the number of tests, or None without a test.
        effect: Its size between 0 (nothing) and 1, so that findings compare: a share of images,
            a KS distance, 2 AUC - 1, accuracy lost.
        interval: Confidence interval of ``effect``, or None where there is none.
        message: The result, in one sentence.
        evidence: The images or statistics that it rests on, the strongest first.
        advice: The next step, in one sentence.
        parts: The results, the costliest first, that are one fact together, such as the tests of
            all pairs of splits and of all classes; empty where there is one result.
    """

    check: str
    severity: Severity
    splits: tuple[str, ...] = ()
    class_name: str | None = None
    statistic: float | None = None
    p_value: float | None = None
    effect: float | None = None
    interval: tuple[float, float] | None = None
    message: str
    evidence: tuple[Evidence, ...] = ()
    advice: str = ""
    parts: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        check_among("severity", self.severity, SEVERITIES)
        if json_interval(self.interval) is None:
            object.__setattr__(self, "interval", None)

    def __str__(self) -> str:
        return f"{self.severity} {self.check} [{self.where}] {self.message}"

    @property
    def where(self) -> str:
        """The splits and the class, in words."""
        *most, last = self.splits or ("",)
        named = f"{', '.join(most)} and {last}" if most else last
        return ", ".join(filter(None, [named, self.class_name and f"class {self.class_name}"]))


def nothing_found(check: str, splits: tuple[str, ...], message: str) -> Finding:
    """Make the finding of a check that found nothing wrong."""
    return Finding(
        check=check, severity="info", splits=splits, statistic=0, effect=0.0, message=message
    )


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Effects beyond which a finding is a warning, and an error; 0.0 means any effect.

    An effect counts as far as it is proven: with an interval, by the bound nearer zero; with a
    p-value, only if that is at most alpha.
    """

    warning: float
    error: float

    def __post_init__(self) -> None:
        if not 0 <= self.warning <= self.error:
            raise ConfigError(
                f"Thresholds must have 0 <= warning <= error, got {self.warning} and {self.error}."
            )

    def severity(
        self,
        effect: float,
        *,
        interval: tuple[float, float] | None = None,
        p_value: float | None = None,
        alpha: float = 0.05,
    ) -> Severity:
        """Grade ``effect``, whose sign does not matter."""
        if not math.isfinite(effect) or (p_value is not None and not p_value <= alpha):
            return "info"
        proven = abs(effect) if interval is None else _nearest_to_zero(interval)
        if proven > self.error:
            return "error"
        return "warning" if proven > self.warning else "info"


def _nearest_to_zero(interval: tuple[float, float]) -> float:
    low, high = interval
    return max(low, -high, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """Severity thresholds of every family of checks, and how much evidence to keep.

    Effects are shares of images, distances in [0, 1] or accuracy; see :class:`Finding`.

    Attributes:
        shift: Distance between two splits (KS distance, 2 AUC - 1, ...).
        label_shift: Total variation distance between class shares.
        exact_leak: Share of the later split that is pixel-identical to an image of the earlier.
        near_leak: The same for near-duplicates.
        group_leak: Share of the later split whose group also lies in the earlier.
        repeats: Share of a split that repeats another image of the same split.
        label_conflict: Share of images that carry another image's pixels and another label.
        label_errors: Share of labels that are wrong, as far as probes can tell.
        broken_images: Share of corrupt, blank or low-information images.
        odd_images: Share of images of odd size or of outlying statistics.
        shortcut: How well one trivial statistic tells the classes: 2 AUC - 1.
        file_shortcut: The same for size, aspect, format and colour mode, which should tell nothing.
        gap: Accuracy lost from one split to another.
        evidence: How many pieces of evidence a finding keeps.
    """

    shift: Thresholds = field(default=Thresholds(0.05, 0.3))
    label_shift: Thresholds = field(default=Thresholds(0.02, 0.1))
    exact_leak: Thresholds = field(default=Thresholds(0.0, 0.0))
    near_leak: Thresholds = field(default=Thresholds(0.0, 0.01))
    group_leak: Thresholds = field(default=Thresholds(0.0, 0.01))
    repeats: Thresholds = field(default=Thresholds(0.0, 0.1))
    label_conflict: Thresholds = field(default=Thresholds(0.0, 0.01))
    label_errors: Thresholds = field(default=Thresholds(0.0, 0.05))
    broken_images: Thresholds = field(default=Thresholds(0.0, 0.01))
    odd_images: Thresholds = field(default=Thresholds(0.01, 0.2))
    shortcut: Thresholds = field(default=Thresholds(0.8, 0.96))
    file_shortcut: Thresholds = field(default=Thresholds(0.2, 0.8))
    gap: Thresholds = field(default=Thresholds(0.01, 0.05))
    evidence: int = 24

    def __post_init__(self) -> None:
        check_whole("evidence", self.evidence, least=1)


def order_by_cost(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Put the gravest first; among equals, what costs most, as far as its interval proves it.

    What is measured in accuracy or in images comes before distances, which say nothing of points.
    """
    return tuple(sorted(findings, key=_cost, reverse=True))


def _cost(finding: Finding) -> tuple[int, bool, float]:
    effect = finding.effect if finding.effect is not None else 0.0
    proven = abs(effect) if finding.interval is None else _nearest_to_zero(finding.interval)
    grave = SEVERITIES.index(finding.severity)
    return grave, finding.check not in DISTANCES, proven if math.isfinite(proven) else 0.0


def by_question(results: Iterable[Finding], evidence: int) -> list[Finding]:
    """Make one finding of the results of each check, and one of those of all tests of shift.

    Each keeps so many pieces of ``evidence``.
    """
    questions: dict[object, list[Finding]] = {}
    for result in results:
        question = "shift" if result.check in SHIFTS else result.check
        key = (question, result.splits) if question in ANSWERS else question
        questions.setdefault(key, []).append(result)
    return [_one_fact(order_by_cost(parts), evidence) for parts in questions.values()]


def _one_fact(parts: Sequence[Finding], most: int) -> Finding:
    """The costliest result, of all classes if there is one, speaks for all; the rest is counted."""
    if len(parts) == 1:
        return parts[0]
    gravest = [part for part in parts if part.severity == parts[0].severity]
    speaker = next((part for part in gravest if part.class_name is None), parts[0])
    told = [part for part in parts if part.severity != "info"] or list(parts)
    others = [part for part in told if part is not speaker]
    message, calm = speaker.message, speaker.severity == "info"
    if others:
        said = "Likewise" if calm else f"{len(others)} more like it"
        message += f" {said}: {some([*dict.fromkeys(part.where for part in others)])}."
    evidence = [part.evidence for part in ([speaker] if calm else [speaker, *others])]
    notes = next(filter(None, evidence), ())  # of one part: they do not say of which
    pictured = (item for rank in zip_longest(*evidence) for item in rank if item and item.names)
    return replace(
        speaker,
        check="shift" if speaker.check in SHIFTS else speaker.check,
        splits=tuple(dict.fromkeys(split for part in told for split in part.splits)),
        class_name=None if others else speaker.class_name,
        message=message,
        evidence=tuple([*(item for item in notes if not item.names), *pictured][:most]),
        parts=tuple(parts),
    )


def some(names: Sequence[str], most: int = 3) -> str:
    """List the first few, and count the rest."""
    rest = len(names) - most
    more = [f"and {rest} other{'s' * (rest > 1)}"] if rest > 0 else []
    return "; ".join([*names[:most], *more])
