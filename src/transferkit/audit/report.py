"""The report of an audit: text, JSON, one HTML page, and a gate for CI."""

from __future__ import annotations

import base64
import json
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from transferkit._files import write_text
from transferkit._format import PlainResult, Table, percent, plain, table
from transferkit._typing import JSON
from transferkit._validation import check_among
from transferkit.audit.audit_data import AuditData
from transferkit.audit.finding import (
    ANSWERS,
    SEVERITIES,
    Finding,
    by_question,
    known,
    order_by_cost,
    some,
)
from transferkit.audit.gap import GapReport, points, waterfall
from transferkit.audit.image_statistics import thumbnail
from transferkit.errors import TransferkitError

END_OF_SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z])")


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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AuditReport:
    """The findings of an audit, ordered by what they cost.

    Attributes:
        findings: One finding for each question, the gravest first, then the costliest; questions
            without complaint have the severity "info". The results behind each are its ``parts``.
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
    def results(self) -> tuple[Finding, ...]:
        """The result of every test and check: the findings, with their parts in their place."""
        return tuple(part for finding in self.findings for part in finding.parts or (finding,))

    @property
    def summary(self) -> str:
        """What matters most, what it costs or comes with, and what to do, in three sentences."""
        return " ".join(_summary(self))

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
            "summary": self.summary,
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
            write_text(path, text + "\n")
        return text

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one self-contained HTML file and return its path.

        Raises:
            OutputError: ``path`` cannot be written.
        """
        page = _template().render(
            report=self,
            outline=_Outline.of(self.findings),
            rate=_rate(self.settings),
            classes=_class_names(self.splits),
            waterfall=None if self.gap is None else waterfall(self.gap),
        )
        return write_text(path, page)

    def __repr__(self) -> str:
        outline = _Outline.of(self.findings)
        sizes = ", ".join(f"{split.name} {split.images}" for split in self.splits)
        return f"AuditReport({outline.verdict}: {outline.counts}; images: {sizes or 'none'})"

    def _repr_html_(self) -> str:
        """The findings as a table, for notebooks."""
        rows = [(f.severity, f.check, f.where, f.message) for f in self.findings]
        header = ("severity", "check", "where", "finding")
        return Table(f"{self!r}. {self.summary}", header, tuple(rows), left=4).html()

    def __str__(self) -> str:
        outline = _Outline.of(self.findings)
        parts = [f"Audit {outline.verdict}: {outline.counts}.\n{textwrap.fill(self.summary, 96)}"]
        parts += [_split_table(self.splits), *map(_block, (*outline.grave, *outline.answers))]
        parts += [_passed(outline.passed), _rate(self.settings)]
        parts += [str(self.gap)] if self.gap is not None else []
        return "\n\n".join(filter(None, parts))


def _summary(report: AuditReport) -> Iterator[str]:
    outline, gap = _Outline.of(report.findings), report.gap
    first = outline.grave[0] if outline.grave else None
    if first is None:
        yield f"Nothing speaks against these splits, in {len(outline.passed)} checks."
    else:
        yield f"What matters most: {re.split(END_OF_SENTENCE, first.message)[0]}"
    if gap is not None and (first is None or first.check != "gap"):
        val, test = gap.splits
        yield (
            f"Accuracy is {percent(gap.val_score)} on {val} and {percent(gap.test_score)} on "
            f"{test}: {gap.verdict[0].lower()}{gap.verdict[1:]}"
        )
    elif forecast := next((f for f in outline.answers if f.check == "accuracy_forecast"), None):
        yield forecast.message
    elif len(outline.grave) > 1:
        others = some([finding.check.replace("_", " ") for finding in outline.grave[1:]])
        yield f"Beside it there is: {others}."
    if first is None:
        yield "Nothing needs to be done before training."
    else:
        yield f"Do this first: {first.advice or 'look at the evidence below.'}"


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
    facts = by_question(findings, data.config.evidence)
    if data.gap is not None and data.gap.gap.interval[0] <= 0:
        facts = [_shift_without_gap(fact, data.gap) for fact in facts]
    wanted = {name for fact in facts for item in fact.evidence for name in item.names}
    return AuditReport(
        findings=tuple(facts),
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


def _shift_without_gap(finding: Finding, gap: GapReport) -> Finding:
    """Say beside a shift that it has cost no accuracy where that was measured."""
    if finding.check != "shift" or finding.severity == "info":
        return finding
    lost = f"from {gap.splits[0]} to {gap.splits[1]}, {gap.scored} loses {points(gap.gap)}"
    message = f"{finding.message} It has cost no accuracy that is proven: {lost}."
    return replace(finding, message=message)


class _Outline(NamedTuple):
    """The sections of the report, in the order of the text and of the page."""

    verdict: str
    counts: str
    grave: list[Finding]
    answers: list[Finding]  # what was asked for, or is worth a look, and is no fault
    passed: list[Finding]

    @classmethod
    def of(cls, findings: Sequence[Finding]) -> _Outline:
        grave = [f for f in findings if f.severity != "info"]
        info = [f for f in findings if f.severity == "info"]
        answers = [f for f in info if f.check in ANSWERS or f.advice]
        passed = [f for f in info if f not in answers]
        errors = sum(f.severity == "error" for f in findings)
        counted = {"error": errors, "warning": len(grave) - errors, "check": len(passed)}
        counts = ", ".join(f"{n} {noun}{'' if n == 1 else 's'}" for noun, n in counted.items())
        verdict = "failed" if errors else "passed"
        return cls(verdict, f"{counts} without complaint", grave, answers, passed)


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
    names, most = _class_names(splits), 8
    header = ["split", "images", "height x width x channels", *names]
    if len(names) > most:
        header = [*header[:3], "classes", "images a class"]
    rows = []
    for split in splits:
        counts = [str(split.class_counts.get(name, "-")) for name in names]
        if len(names) > most:
            own = split.class_counts.values()
            counts = (
                [str(sum(n > 0 for n in own)), f"{min(own)} to {max(own)}"] if own else ["-", "-"]
            )
        rows.append([split.name, str(split.images), " x ".join(map(str, split.shape)), *counts])
    return table(header, rows)


def _block(finding: Finding) -> str:
    place = f"  ({finding.where})" if finding.where else ""
    told = [part for part in finding.parts if part.severity != "info"]
    more = [f"- {_brief(part)}" for part in told[1:4]]
    more += [f"- and {len(told) - 4} more"] if len(told) > 4 else []
    shown = [f"{'e.g.' if item.names else '-'} {item}" for item in finding.evidence[:3]]
    advice = [f"-> {finding.advice}"] if finding.advice else []
    measured = [", ".join(numbers(finding))] if numbers(finding) else []
    wrapped = [
        textwrap.fill(line, 96, initial_indent="  ", subsequent_indent="     ")
        for line in (finding.message, *measured, *more, *shown, *advice)
    ]
    return "\n".join([f"{finding.severity.upper():7}  {finding.check}{place}", *wrapped])


def _brief(part: Finding) -> str:
    return ": ".join(filter(None, [f"{part.check}, {part.where}", ", ".join(numbers(part))]))


def _passed(findings: Sequence[Finding]) -> str:
    text = f"Without complaint: {', '.join(finding.check for finding in findings)}"
    return textwrap.fill(text, 96, subsequent_indent="  ") if findings else ""


def _rate(settings: Mapping[str, str]) -> str:
    """Say how often a report warns of a difference where there is none."""
    if "alpha" not in settings:
        return ""
    rate = percent(float(settings["alpha"]), digits=0)
    return f"Of reports on splits from one source, at most {rate} warn of what a test found."


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
    environment.filters.update(bar_ends=bar_ends, data_uri=data_uri, numbers=numbers)
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
