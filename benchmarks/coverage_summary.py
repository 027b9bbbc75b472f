"""The figures of the page on coverage, made from the table of rows."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from coverage_checks import CHECKS, CONSTRUCTION, FAIL, PASS, REFUSED, SKIPPED, Row

START, END = "<!-- made by benchmarks/coverage.py summary -->", "<!-- end of what is made -->"
MEANINGS = {
    "build": "builds with 7 classes, images to logits",
    "width": "the features are as wide as stated",
    "staged": "three ordered stages or more, every parameter in exactly one",
    "channels_1": "takes images of 1 channel",
    "channels_4": "takes images of 4 channels",
    "freezing": "at every boundary, exactly the right parameters learn",
    "contract": "what is frozen does not change",
    "cut": "cut in two, it gives what it gives uncut",
}
_SAY = {PASS: "", REFUSED: "refused", FAIL: "failed", CONSTRUCTION: CONSTRUCTION, SKIPPED: SKIPPED}


def read_rows(path: Path) -> list[Row]:
    """The rows of a table, its line of versions skipped."""
    lines = path.read_text("utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def write_summary(path: Path, page: Path) -> None:
    """Put the figures of the table at ``path`` between the marks of ``page``."""
    versions = path.read_text("utf-8").partition("\n")[0].lstrip("# ")
    rows = read_rows(path)
    parts = [
        f"{len(rows)} backbones, with {versions}.",
        _outcomes(rows),
        _sizes(rows),
        _exceptions(rows),
    ]
    put(page, START, parts)


def put(page: Path, start: str, parts: Sequence[str]) -> None:
    """Replace what stands between the mark ``start`` of a page and the end after it."""
    before, _, rest = page.read_text("utf-8").partition(start)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{start}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}", "utf-8")


def _outcomes(rows: Sequence[Row]) -> str:
    """One line a check, one column a kind of backbone."""
    groups = {
        "torchvision": [row for row in rows if row["name"].startswith("torchvision/")],
        "timm": [r for r in rows if r["name"].startswith("timm/") and r["classifier"] != "none"],
        "timm, without a classifier": [row for row in rows if row["classifier"] == "none"],
    }
    header = ["", *(f"{name} ({len(group)})" for name, group in groups.items())]
    lines = [
        [MEANINGS[check], *(_count(group, check) for group in groups.values())] for check in CHECKS
    ]
    return markdown(header, lines)


def _count(rows: Sequence[Row], check: str) -> str:
    counts = Counter(row[check] for row in rows)
    known = [f"{counts[key]} {say}".rstrip() for key, say in _SAY.items() if counts[key]]
    return ", ".join(known)


def _sizes(rows: Sequence[Row]) -> str:
    """What the figures rest on."""
    real = [row for row in rows if row["contract"] == PASS]
    stages = sorted(int(row["stages"]) for row in rows if row["stages"])
    teeth = sum(row["modes_differ"] == "yes" for row in real)
    largest = max((int(row["params"]) for row in real), default=0)
    cuts = sum(int(row["boundaries"] or 0) for row in rows)
    return (
        f"The contract was run for real on {len(real)} backbones, the largest of "
        f"{largest / 1e6:.0f} million parameters; of these, {teeth} give other features in train "
        f"mode than in eval mode while they are not frozen. {cuts} cuts were compared with the "
        f"uncut network. Backbones have {stages[0]} to {stages[-1]} stages before the head, "
        f"{stages[len(stages) // 2]} in the median."
    )


def _exceptions(rows: Sequence[Row]) -> str:
    """Every backbone that something failed or was refused for, and why."""
    lines = [[f"`{row['name']}`", row["reason"].replace("|", "/")] for row in rows if row["reason"]]
    if not lines:
        return "No check failed and none was refused."
    return "What failed or was refused:\n\n" + markdown(["backbone", "reason"], lines)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
