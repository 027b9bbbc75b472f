"""The audit report as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from transferkit.audit.figures import gap_waterfall, interval_bar, share_bar
from transferkit.audit.finding import Finding
from transferkit.audit.gap import GapReport
from transferkit.audit.summary import SplitSummary

_TITLES = {"labels": "Missing labels", "gap": "The gap"}


def render(
    *,
    findings: Sequence[Finding],
    splits: Sequence[SplitSummary],
    gap: GapReport | None,
    settings: Mapping[str, str],
    thumbnails: Mapping[str, bytes],
) -> str:
    """Fill the page: no script, nothing loaded from elsewhere, every text escaped.

    Args:
        findings: In the order to show.
        splits: What was audited.
        gap: The explained gap, or None.
        settings: What the audit ran with.
        thumbnails: File name to a PNG or JPEG.
    """
    classes = list(dict.fromkeys(name for split in splits for name in split.class_counts))
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            grave=[finding for finding in findings if finding.severity != "info"],
            drivers=[f for f in findings if f.check == "shift_drivers"],
            passed=[f for f in findings if f.severity == "info" and f.check != "shift_drivers"],
            errors=sum(finding.severity == "error" for finding in findings),
            warnings=sum(finding.severity == "warning" for finding in findings),
            splits=splits,
            classes=classes,
            gap=gap,
            settings=settings,
            pictures={name: data_uri(picture) for name, picture in thumbnails.items()},
        )
    )


def data_uri(picture: bytes) -> str:
    """Return a PNG or JPEG as a data URI."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def title_of(check: str) -> str:
    """Return the name of a check as a title."""
    return _TITLES.get(check, check.replace("_", " ").capitalize())


def p_in_words(p_value: float | None) -> Markup:
    """Format an adjusted p-value."""
    if p_value is None:
        return Markup("")
    small = p_value < 0.001
    return Markup("adjusted p &lt; 0.001") if small else Markup(f"adjusted p {p_value:.3f}")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("transferkit.audit", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["title_of"] = title_of
    environment.filters["p_in_words"] = p_in_words
    environment.globals.update(
        interval_bar=interval_bar, share_bar=share_bar, gap_waterfall=gap_waterfall
    )
    return environment
