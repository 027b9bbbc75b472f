"""The audit report as one self-contained HTML page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from transferkit._typing import UInt8Array
from transferkit.audit.finding import Finding, SplitSummary, known
from transferkit.audit.gap import GapReport

_ROW, _BAR, _LABEL, _VALUE, _WIDTH = 30, 16, 210, 160, 860
_MOST_PARTS = 8

Place: TypeAlias = Callable[[float], float]


def interval_bar(
    effect: float | None, interval: tuple[float, float] | None, *, width: int = 150
) -> Markup:
    """Draw an effect between 0 and 1 as a dot on a line, with its interval as a bar.

    Negative effects count by their size.
    """
    if effect is None or not math.isfinite(effect):
        return Markup("")
    ends = interval if interval is not None and known(interval) else (effect, effect)
    low, high = sorted(_unit(end if effect >= 0 else -end) for end in ends)
    x0, x1, at = (6 + value * (width - 12) for value in (low, high, _unit(abs(effect))))
    spread = f"interval {ends[0]:.3f} to {ends[1]:.3f}" if known(interval) else "no interval"
    title = f"effect {effect:.3f}, {spread}"
    return Markup(
        '<svg class="interval" viewBox="0 0 {w} 16" width="{w}" height="16" role="img">'
        "<title>{title}</title>"
        '<line class="rail" x1="6" x2="{end}" y1="8" y2="8"/>'
        '<line class="span" x1="{x0:.1f}" x2="{x1:.1f}" y1="8" y2="8"/>'
        '<circle class="dot" cx="{at:.1f}" cy="8" r="4"/></svg>'
    ).format(w=width, end=width - 6, x0=x0, x1=x1, at=at, title=title)


def share_bar(counts: Mapping[str, int], *, width: int = 260) -> Markup:
    """Draw the class shares of a split as one divided bar."""
    total = sum(counts.values())
    if not total:
        return Markup("")
    parts, left = [], 0.0
    for number, (name, count) in enumerate(counts.items()):
        wide = width * count / total
        title = f"{name}: {count} ({100 * count / total:.1f} %)"
        parts.append(
            Markup(
                '<rect class="class{n}" x="{x:.1f}" y="0" width="{w:.1f}" height="14">'
                "<title>{title}</title></rect>"
            ).format(n=number % 8, x=left, w=max(0.0, wide - 1), title=title)
        )
        left += wide
    return Markup(
        '<svg class="shares" viewBox="0 0 {w} 14" width="{w}" height="14" role="img">{p}</svg>'
    ).format(w=width, p=Markup("").join(parts))


@dataclass(frozen=True, slots=True)
class _Step:
    """One row of the waterfall: from where to where, on the scale of accuracy."""

    title: str
    start: float
    end: float
    text: str
    kind: str
    interval: tuple[float, float] | None = None


def gap_waterfall(gap: GapReport) -> Markup:
    """Draw how the val score becomes the test score, and the re-split scores below."""
    steps = _steps(gap)
    ends = [v for s in steps for v in (s.start, s.end, *(s.interval or ())) if math.isfinite(v)]
    lowest = min((end for end in ends if end > 0), default=0.0)
    low = max(0.0, math.floor((lowest - 0.05) * 10) / 10)
    scale: float = (_WIDTH - _LABEL - _VALUE) / (1 - low)

    def x(value: float) -> float:
        return _LABEL + (min(1.0, max(low, value)) - low) * scale

    rows = [_row(step, number, x, low) for number, step in enumerate(steps)]
    height = _ROW * len(steps) + 26
    return Markup(
        '<svg class="waterfall" viewBox="0 0 {w} {h}" role="img"><title>from {a} to {b}</title>'
        "{grid}{rows}</svg>"
    ).format(
        w=_WIDTH,
        h=height,
        a=gap.splits[0],
        b=gap.splits[1],
        grid=_axis(low, height, x),
        rows=Markup("").join(rows),
    )


def _steps(gap: GapReport) -> list[_Step]:
    val, test = gap.splits
    steps = [_Step(f"score on {val}", 0.0, gap.val_score, "", "score", gap.val_interval)]
    at = gap.val_score
    for name, value in _largest({name: part.value for name, part in gap.parts.items()}):
        kind = "loss" if value > 0 else "gain"
        steps.append(_Step(name, at, at - value, f"{-100 * value + 0.0:+.1f}", kind))
        at -= value
    steps.append(_Step(f"score on {test}", 0.0, gap.test_score, "", "score", gap.test_interval))
    moved = gap.test_score + gap.threshold.value
    steps.append(
        _Step(
            "with a moved threshold",
            gap.test_score,
            moved,
            f"{100 * gap.threshold.value:+.1f}, oracle",
            "gain",
        )
    )
    for title, score in (
        ("re-split at random", gap.reshuffled),
        ("re-split by group", gap.reshuffled_by_group),
    ):
        if score is not None:
            alone = "" if known(score.interval) else f"{100 * score.score:.1f} %, one re-split"
            steps.append(_Step(title, 0.0, score.score, alone, "other", score.interval))
    return steps


def _largest(parts: Mapping[str, float]) -> Sequence[tuple[str, float]]:
    """Return the largest parts; the rest as one, so that the sum stays."""
    if len(parts) <= _MOST_PARTS:
        return list(parts.items())
    order = sorted(parts, key=lambda name: -abs(parts[name]))
    kept, rest = order[: _MOST_PARTS - 1], order[_MOST_PARTS - 1 :]
    shown = [(name, parts[name]) for name in parts if name in kept]
    return [*shown, (f"{len(rest)} other parts", sum(parts[name] for name in rest))]


def _row(step: _Step, number: int, place: Place, low: float) -> Markup:
    y = number * _ROW + (_ROW - _BAR) / 2
    start = place(low if step.kind in ("score", "other") else step.start)
    end = place(step.end)
    left, right = sorted((start, end))
    text = step.text or f"{100 * step.end:.1f} %"
    whisker = Markup("")
    if step.interval is not None and known(step.interval):
        text += f" [{100 * step.interval[0]:.1f}, {100 * step.interval[1]:.1f}]"
        whisker = Markup(
            '<line class="whisker" x1="{a:.1f}" x2="{b:.1f}" y1="{y}" y2="{y}"/>'
        ).format(a=place(step.interval[0]), b=place(step.interval[1]), y=y + _BAR / 2)
    return Markup(
        '<g><text x="{lx}" y="{ty}" text-anchor="end">{title}</text>'
        '<rect class="{kind}" x="{x0:.1f}" y="{y}" width="{w:.1f}" height="{h}" rx="2"/>{whisker}'
        '<text class="value" x="{vx}" y="{ty}">{text}</text></g>'
    ).format(
        lx=_LABEL - 12,
        ty=y + _BAR - 4,
        title=_short(step.title),
        kind=step.kind,
        x0=left,
        y=y,
        w=max(1.5, right - left),
        h=_BAR,
        whisker=whisker,
        vx=_WIDTH - _VALUE + 12,
        text=text,
    )


def _axis(low: float, height: int, place: Place) -> Markup:
    step = 0.1 if 1 - low > 0.3 else 0.05
    ticks = [low + step * i for i in range(round((1 - low) / step) + 1)]
    lines = [
        Markup(
            '<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{h}"/>'
            '<text class="tick" x="{x:.1f}" y="{ty}" text-anchor="middle">{label}</text>'
        ).format(x=place(tick), h=height - 20, ty=height - 5, label=f"{100 * tick:.0f} %")
        for tick in ticks
    ]
    return Markup("").join(lines)


def _short(title: str, most: int = 30) -> Markup:
    return escape(title if len(title) <= most else title[: most - 1] + "…")


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))


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


SIDE = 128


def thumbnail(image: UInt8Array, *, side: int = SIDE) -> bytes:
    """Shrink an image (H, W, C) to at most ``side`` pixels, as a JPEG; small ones as a PNG."""
    plain = image[:, :, 0] if image.shape[2] == 1 else image
    picture = Image.fromarray(np.ascontiguousarray(plain))
    buffer = io.BytesIO()
    if max(picture.size) <= side // 2:
        picture.save(buffer, "PNG")
    else:
        picture.thumbnail((side, side), Image.Resampling.BOX)
        picture.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()
