"""The report of an audit: text, JSON, one HTML page, and a gate for CI."""

from __future__ import annotations

import base64
import io
import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image

from transferkit._files import replacing
from transferkit._format import PlainResult, percent, percent_interval, plain, table
from transferkit._typing import JSON, UInt8Array
from transferkit._validation import check_among
from transferkit.audit.audit_data import AuditData
from transferkit.audit.finding import SEVERITIES, Finding, known, order_by_cost
from transferkit.audit.gap import GapReport
from transferkit.audit.image_statistics import to_picture
from transferkit.errors import TransferkitError


class AuditError(TransferkitError):
    """The audit found faults as grave as those that it was to fail on.

    Attributes:
        findings: The findings at or above the level asked for, the gravest first.
    """

    def __init__(self, message: str, findings: tuple[Finding, ...] = ()) -> None:
        super().__init__(message)
        self.findings = findings


@dataclass(frozen=True, slots=True)
class SplitSummary(PlainResult):
    """The number, shape and classes of the images of a split.

    Attributes:
        name: Name of the split.
        images: How many images it holds.
        shape: Height, width and channels as the audit saw them.
        class_counts: Class name to number of images; empty where unlabelled.
    """

    name: str
    images: int
    shape: tuple[int, ...]
    class_counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class AuditReport:
    """The findings of an audit, ordered by what they cost.

    Attributes:
        findings: All findings, the gravest first; passed checks are those of severity "info".
        splits: The splits that were audited.
        gap: The explained gap between val and test, where both carry labels.
        settings: The settings of the audit (alpha, seed, embedding, ...), as text.
        thumbnails: File name to a small PNG or JPEG of it, for the HTML report.
    """

    findings: tuple[Finding, ...]
    splits: tuple[SplitSummary, ...] = ()
    gap: GapReport | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    thumbnails: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "findings", order_by_cost(self.findings))

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not self.at_least("error")

    def at_least(self, severity: Literal["info", "warning", "error"]) -> tuple[Finding, ...]:
        """Return the findings as grave as ``severity`` or graver."""
        check_among("severity", severity, SEVERITIES)
        floor = SEVERITIES.index(severity)
        return tuple(f for f in self.findings if SEVERITIES.index(f.severity) >= floor)

    def raise_if(self, severity: Literal["warning", "error"] = "error") -> None:
        """Fail if there is a finding as grave as ``severity`` or graver: a gate for CI.

        Raises:
            AuditError: With those findings in its message and its ``findings``.
        """
        grave = self.at_least(severity)
        if grave:
            lines = "\n".join(f"- {finding}" for finding in grave)
            raise AuditError(
                f"The audit failed with {len(grave)} finding(s) of severity {severity!r} "
                f"or graver:\n{lines}",
                grave,
            )

    def to_dict(self) -> dict[str, JSON]:
        """Return the report, without its pictures, as JSON-ready values."""
        return {
            "ok": self.ok,
            "findings": plain(self.findings),
            "splits": plain(self.splits),
            "gap": plain(self.gap),
            "settings": plain(self.settings),
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the report as JSON, and write it to ``path``, unless that is None.

        Raises:
            OutputError: ``path`` cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        if path is not None:
            _write_text(path, text + "\n")
        return text

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one self-contained HTML file and return its path.

        Raises:
            OutputError: ``path`` cannot be written.
        """
        page = _template().render(
            report=self,
            outline=_Outline.of(self.findings),
            classes=_class_names(self.splits),
            waterfall=None if self.gap is None else waterfall(self.gap),
        )
        return _write_text(path, page)

    def __str__(self) -> str:
        outline = _Outline.of(self.findings)
        shown = [_block(finding) for finding in (*outline.grave, *outline.drivers)]
        parts = [f"Audit {outline.verdict}: {outline.counts}", _split_table(self.splits), *shown]
        parts += [_passed(outline.passed), str(self.gap) if self.gap is not None else ""]
        return "\n\n".join(filter(None, parts))


def report_of(
    data: AuditData, findings: Sequence[Finding], settings: Mapping[str, str]
) -> AuditReport:
    """Put the report together; images that findings name are shrunk for the HTML page."""
    counts = {
        name: dict(zip(data.classes, own.tolist(), strict=True))
        for name, own in data.class_counts.items()
    }
    summaries = [
        SplitSummary(name, len(part), part.images.shape[1:], counts.get(name, {}))
        for name, part in data.splits.items()
    ]
    wanted = {name for f in findings for item in f.evidence for name in item.names}
    return AuditReport(
        findings=tuple(findings),
        splits=tuple(summaries),
        gap=data.gap,
        settings=settings,
        thumbnails={
            name: thumbnail(part.images[row])
            for part in data.splits.values()
            for row, name in enumerate(part.names)
            if name in wanted
        },
    )


class _Outline(NamedTuple):
    """The sections of the report, in the order of the text and of the page."""

    verdict: str
    counts: str
    grave: list[Finding]
    drivers: list[Finding]  # the images behind a shift: neither a fault nor a passed check
    passed: list[Finding]

    @classmethod
    def of(cls, findings: Sequence[Finding]) -> _Outline:
        grave = [f for f in findings if f.severity != "info"]
        drivers = [f for f in findings if f.check == "shift_drivers"]
        passed = [f for f in findings if f.severity == "info" and f.check != "shift_drivers"]
        errors = sum(f.severity == "error" for f in findings)
        counted = {"error": errors, "warning": len(grave) - errors, "check": len(passed)}
        counts = ", ".join(f"{n} {noun}{'' if n == 1 else 's'}" for noun, n in counted.items())
        verdict = "failed" if errors else "passed"
        return cls(verdict, f"{counts} without complaint", grave, drivers, passed)


def where(finding: Finding) -> str:
    """Name the splits and the class of a finding."""
    own = [] if finding.class_name is None else [f"class {finding.class_name}"]
    return "; ".join(filter(None, [", ".join(finding.splits), *own]))


def numbers(finding: Finding) -> list[str]:
    """Format the effect of a finding, its interval and its p-value, where there are any."""
    parts = []
    if finding.effect is not None and math.isfinite(finding.effect):
        low, high = finding.interval or (math.nan, math.nan)
        interval = f" [{low:.3f}, {high:.3f}]" if known(finding.interval) else ""
        parts.append(f"effect {finding.effect:.3f}{interval}")
    if finding.p_value is not None:
        small = finding.p_value < 0.001
        parts.append("adjusted p < 0.001" if small else f"adjusted p {finding.p_value:.3f}")
    return parts


def _class_names(splits: Sequence[SplitSummary]) -> list[str]:
    return list(dict.fromkeys(name for split in splits for name in split.class_counts))


def _split_table(splits: Sequence[SplitSummary]) -> str:
    if not splits:
        return ""
    names = _class_names(splits)
    rows = [
        [
            split.name,
            str(split.images),
            " x ".join(map(str, split.shape)),
            *(str(split.class_counts.get(name, "-")) for name in names),
        ]
        for split in splits
    ]
    return table(["split", "images", "height x width x channels", *names], rows)


def _block(finding: Finding) -> str:
    place = f"  ({where(finding)})" if where(finding) else ""
    shown = [f"{'e.g.' if item.names else '-'} {item}" for item in finding.evidence[:3]]
    advice = [f"-> {finding.advice}"] if finding.advice else []
    measured = [", ".join(numbers(finding))] if numbers(finding) else []
    wrapped = [
        textwrap.fill(line, 96, initial_indent="  ", subsequent_indent="     ")
        for line in (finding.message, *measured, *shown, *advice)
    ]
    return "\n".join([f"{finding.severity.upper():7}  {finding.check}{place}", *wrapped])


def _passed(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    counts = Counter(finding.check for finding in findings)
    names = ", ".join(f"{name} ({n})" if n > 1 else name for name, n in counts.items())
    return textwrap.fill(f"Without complaint: {names}", 96, subsequent_indent="  ")


def _write_text(path: str | Path, text: str) -> Path:
    """Write text as UTF-8; names that are not valid Unicode stay readable."""
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    return Path(path)


SIDE = 128
"""Longest side of a thumbnail, in pixels."""


def thumbnail(image: UInt8Array) -> bytes:
    """Shrink an image (H, W, C), and make it a JPEG; a PNG if it is small already."""
    picture = to_picture(image)
    buffer = io.BytesIO()
    if max(picture.size) <= SIDE // 2:
        picture.save(buffer, "PNG")
    else:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
        picture.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


@cache
def _template() -> Template:
    """The page: no script, nothing loaded from elsewhere, every text escaped."""
    environment = Environment(
        loader=PackageLoader("transferkit.audit", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(bar_ends=bar_ends, data_uri=data_uri, numbers=numbers, where=where)
    return environment.get_template("report.html.j2")


def data_uri(picture: bytes) -> str:
    """Return a PNG or JPEG as a data URI."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def bar_ends(finding: Finding) -> tuple[float, float, float] | None:
    """Lower end, effect and upper end of a finding's bar, from 0 to 1; by size if negative."""
    effect, interval = finding.effect, finding.interval
    if effect is None or not math.isfinite(effect):
        return None
    ends = interval if interval is not None and known(interval) else (effect, effect)
    low, high = sorted(min(1.0, max(0.0, end if effect >= 0 else -end)) for end in ends)
    return low, min(1.0, abs(effect)), high


class Bar(NamedTuple):
    """One bar of the gap's figure, ``[start, end]`` and ``whisker`` on the scale of accuracy."""

    title: str
    kind: Literal["score", "loss", "gain", "other"]
    span: tuple[float, float]
    text: str
    whisker: tuple[float, float] | None = None


def waterfall(gap: GapReport) -> dict[str, object]:
    """Lay out how val's score becomes test's: bars, ticks, and x: accuracy to place, 0 to 1."""
    bars = list(_bars(gap))
    values = [v for bar in bars for v in (*bar.span, *(bar.whisker or ()))]
    lowest = min((v for v in values if math.isfinite(v) and v > 0), default=0.0)
    low = max(0.0, math.floor((lowest - 0.05) * 10) / 10)  # the axis begins a little below it
    step = 0.1 if 1 - low > 0.3 else 0.05
    return {
        "bars": bars,
        "ticks": [low + step * i for i in range(round((1 - low) / step) + 1)],
        "x": lambda value: (min(1.0, max(low, value)) - low) / (1 - low),
    }


def _bars(gap: GapReport) -> Iterator[Bar]:
    val, test = gap.splits
    yield _score_bar(f"score on {val}", "score", gap.val_score, gap.val_interval)
    at = gap.val_score
    for name, value in _largest_parts(gap):
        yield _change_bar(name, at, -value)
        at -= value
    yield _score_bar(f"score on {test}", "score", gap.test_score, gap.test_interval)
    yield _change_bar("with a moved threshold", gap.test_score, gap.threshold.value)
    for how, again in (("at random", gap.reshuffled), ("by group", gap.reshuffled_by_group)):
        if again is not None:
            yield _score_bar(f"re-split {how}", "other", again.score, again.interval)


def _change_bar(title: str, start: float, change: float) -> Bar:
    kind: Literal["loss", "gain"] = "loss" if change < 0 else "gain"
    return Bar(title, kind, (start, start + change), f"{100 * change + 0.0:+.1f}")


def _score_bar(
    title: str, kind: Literal["score", "other"], score: float, interval: tuple[float, float]
) -> Bar:
    if not known(interval):
        return Bar(title, kind, (0.0, score), f"{percent(score)}, one re-split")
    return Bar(title, kind, (0.0, score), percent_interval(score, interval), interval)


def _largest_parts(gap: GapReport, most: int = 8) -> list[tuple[str, float]]:
    """Return the largest parts of the gap; the rest as one, so that the sum stays."""
    parts = {name: part.value for name, part in gap.parts.items()}
    if len(parts) <= most:
        return list(parts.items())
    order = sorted(parts, key=lambda name: -abs(parts[name]))
    rest = order[most - 1 :]
    shown = [(name, value) for name, value in parts.items() if name not in rest]
    return [*shown, (f"{len(rest)} other parts", sum(parts[name] for name in rest))]
