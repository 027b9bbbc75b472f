"""What an audit found, as text, JSON, one HTML file and a gate."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transferkit._format import table
from transferkit._typing import JSON
from transferkit.audit.finding import SEVERITIES, Finding, SplitSummary, order_by_cost
from transferkit.audit.gap import GapReport
from transferkit.audit.html import render
from transferkit.errors import ConfigError, OutputError, TransferkitError


class AuditError(TransferkitError):
    """The audit found what it was told to fail on.

    Attributes:
        findings: The findings at or above the level asked for, the gravest first.
    """

    def __init__(self, message: str, findings: tuple[Finding, ...] = ()) -> None:
        super().__init__(message)
        self.findings = findings


@dataclass(frozen=True, slots=True, eq=False)
class AuditReport:
    """The findings of an audit, ordered by what they cost.

    Attributes:
        findings: All findings, the gravest first; passed checks are those of severity "info".
        splits: What was audited.
        gap: The explained gap between val and test, where both carry labels.
        settings: What the audit ran with (alpha, seed, embedding, ...), as text.
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
        if severity not in SEVERITIES:
            raise ConfigError(f"severity must be one of {SEVERITIES}, got {severity!r}")
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
                f"the audit failed with {len(grave)} finding(s) of severity {severity!r} "
                f"or graver:\n{lines}",
                grave,
            )

    def to_dict(self) -> dict[str, JSON]:
        """Return the report, without its pictures, as JSON-ready values."""
        return {
            "ok": self.ok,
            "findings": [finding.to_dict() for finding in self.findings],
            "splits": [split.to_dict() for split in self.splits],
            "gap": self.gap.to_dict() if self.gap is not None else None,
            "settings": dict(self.settings),
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the report as JSON, and write it to ``path`` if one is given.

        Raises:
            OutputError: ``path`` cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        if path is not None:
            write_text(Path(path), text + "\n")
        return text

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one self-contained HTML file and return its path.

        Raises:
            OutputError: ``path`` cannot be written.
        """
        page = render(
            findings=self.findings,
            splits=self.splits,
            gap=self.gap,
            settings=self.settings,
            thumbnails=self.thumbnails,
        )
        return write_text(Path(path), page)

    def __str__(self) -> str:
        parts = [_headline(self.findings), _split_table(self.splits)]
        parts += [_block(finding) for finding in self.at_least("warning")]
        parts += [_passed(self.findings), str(self.gap) if self.gap is not None else ""]
        return "\n\n".join(filter(None, parts))


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` to ``path`` as UTF-8; names that are not valid Unicode stay readable."""
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; does its folder exist?"
        ) from error
    return path


def _headline(findings: tuple[Finding, ...]) -> str:
    counts = Counter(finding.severity for finding in findings)
    verdict = "failed" if counts["error"] else "passed"
    errors = _counted(counts["error"], "error")
    warnings, passed = _counted(counts["warning"], "warning"), _counted(counts["info"], "check")
    return f"Audit {verdict}: {errors}, {warnings}, {passed} without complaint"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _split_table(splits: tuple[SplitSummary, ...]) -> str:
    if not splits:
        return ""
    names = list(dict.fromkeys(name for split in splits for name in split.class_counts))
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
    where = ", ".join(finding.splits)
    if finding.class_name is not None:
        where = f"{where}; class {finding.class_name}" if where else f"class {finding.class_name}"
    title = f"{finding.severity.upper():7}  {finding.check}" + (f"  ({where})" if where else "")
    shown = [f"{'e.g.' if item.names else '-'} {item}" for item in finding.evidence[:3]]
    advice = [f"-> {finding.advice}"] if finding.advice else []
    wrapped = [
        textwrap.fill(line, 96, initial_indent="  ", subsequent_indent="     ")
        for line in (finding.message, *_numbers(finding), *shown, *advice)
    ]
    return "\n".join([title, *wrapped])


def _numbers(finding: Finding) -> list[str]:
    """Say how large the effect of a finding is and how sure, where that was measured."""
    said = []
    if finding.effect is not None and finding.interval is not None:
        low, high = finding.interval
        said.append(f"effect {finding.effect:.2f} [{low:.2f}, {high:.2f}]")
    if finding.p_value is not None:
        small = finding.p_value < 0.001
        said.append("adjusted p < 0.001" if small else f"adjusted p {finding.p_value:.3f}")
    return [", ".join(said)] if said else []


def _passed(findings: tuple[Finding, ...]) -> str:
    counts = Counter(finding.check for finding in findings if finding.severity == "info")
    if not counts:
        return ""
    names = ", ".join(f"{name} ({n})" if n > 1 else name for name, n in counts.items())
    return textwrap.fill(f"Without complaint: {names}", 96, subsequent_indent="  ")
