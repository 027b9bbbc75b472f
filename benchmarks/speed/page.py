"""The tables of the page on speed, made from the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speed.figures import Group, Spread, groups_of, short
from speed.job import JOB, START
from speed.rows import BENCHMARKS, FAILED, Row, read
from speed.task import COMPARED

DOCS = BENCHMARKS.parent / "docs"
PAGE = DOCS / "speed.md"
FIGURE = DOCS / "_static" / "speed.svg"
START_MARK, END_MARK = "<!-- made by benchmarks/run.py table -->", "<!-- end of what is made -->"
OURS, LOOP = "ours", "loop"
ONES = (OURS, LOOP, "peak")


def write_page(path: Path, page: Path = PAGE, figure: Path = FIGURE) -> None:
    """Put the tables of the file at ``path`` between the marks of ``page``, and draw the figure."""
    from speed.drawing import draw

    rows = read(path)
    text = tables(rows)
    before, _, rest = page.read_text("utf-8").partition(START_MARK)
    _, _, after = rest.partition(END_MARK)
    page.write_text(f"{before}{START_MARK}\n\n{text}\n\n{END_MARK}{after}", "utf-8")
    draw(rows, figure)


def tables(rows: Sequence[Row]) -> str:
    """Everything between the marks."""
    compared = groups_of(rows, *COMPARED)
    parts = [
        ("Against the loop", against_loop(compared)),
        ("Against the peers", against_peers(compared)),
        ("The whole job", whole_job(groups_of(rows, JOB))),
        ("Peak memory", memory(compared)),
        ("Share of the convolution peak", peak(compared)),
        ("What a fit costs", overhead(groups_of(rows, "overhead", START))),
        ("Growth", growth(groups_of(rows, "growth, fixed features", "growth, last stage"))),
        ("Made with", made_with(rows)),
    ]
    drawn = ["![Times as fast as the loop](_static/speed.svg)"] if compared else []
    return "\n\n".join([*drawn, *(f"## {title}\n\n{text}" for title, text in parts if text)])


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of Markdown, its figures flush right; nothing where there are no lines."""
    if not lines:
        return ""
    whole = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in whole)


def named(group: Group) -> list[str]:
    """The first cells of a line: what, by which network, on what."""
    row = group.first
    work = row.work if row.epochs == 1 else f"{row.work}, {row.epochs} epochs"
    return [work, row.backbone, str(row.pixels), str(row.images)]


NAMED = ("work", "network", "pixels", "images")


def against_loop(groups: Sequence[Group]) -> str:
    header = (*NAMED, "loop, s", "transferkit, s", "loop over transferkit")
    return markdown(
        header,
        [
            [
                *named(group),
                short(group.median(LOOP)),
                short(group.median(OURS)),
                str(group.ratio(LOOP, OURS)),
            ]
            for group in groups
            if {OURS, LOOP} <= {*group.sides}
        ],
    )


def against_peers(groups: Sequence[Group]) -> str:
    """Each peer against the loop and against ours, and those that could not take part."""
    header = ("side", *NAMED, "s", "loop over it", "it over transferkit", "versions")
    lines = []
    for group in groups:
        for side in sorted({row.side for row in group.rows} - {*ONES}):
            first = next(row for row in group.rows if row.side == side)
            figures = [
                short(group.median(side)),
                str(group.ratio(LOOP, side)),
                str(group.ratio(side, OURS)),
            ]
            if first.measure == FAILED:
                figures = ["", "", f"could not take part: {first.value}".replace("|", "/")]
            lines.append([side, *named(group), *figures, own_versions(first)])
    return markdown(header, lines)


def own_versions(row: Row) -> str:
    """The versions of a peer's own packages."""
    shared = ("torch ", "torchvision ")
    return ", ".join(part for part in row.versions.split(", ") if not part.startswith(shared))


def whole_job(groups: Sequence[Group]) -> str:
    header = ("side", "epochs", "s", "fastai over it", "val accuracy", "test accuracy", "peak, MB")
    lines = []
    for group in groups:
        for side in dict.fromkeys(row.side for row in group.rows):
            row = next(row for row in group.rows if row.side == side)
            if row.measure == FAILED:
                lines.append([side, str(row.epochs), "", f"not run: {row.value}", "", "", ""])
                continue
            scores = [group.median(side, f"{split} accuracy") for split in ("val", "test")]
            lines.append(
                [
                    side.replace(OURS, "transferkit").replace(",", ", cache"),
                    str(row.epochs),
                    str(Spread.of(group.rounds(side).values())),
                    str(group.ratio("fastai", side)),
                    *(f"{score:.3f}" for score in scores),
                    short(group.median(side, "peak MB")),
                ]
            )
    return markdown(header, lines)


def memory(groups: Sequence[Group]) -> str:
    header = (*NAMED, "imports alone, MB", "loop, MB", "transferkit, MB", "beyond imports")
    lines = []
    for group in groups:
        if {OURS, LOOP} <= {*group.sides}:
            most = {s: max(group.rounds(s, "peak MB").values()) for s in (OURS, LOOP)}
            start = {s: group.median(s, "start MB") for s in (OURS, LOOP)}
            beyond = (most[OURS] - start[OURS]) / (most[LOOP] - start[LOOP])
            cells = [short(start[LOOP]), short(most[LOOP]), short(most[OURS])]
            lines.append([*named(group), *cells, f"{short(beyond)} of the loop's"])
    return markdown(header, lines)


def peak(groups: Sequence[Group]) -> str:
    header = (*NAMED, "peak, GFLOP/s", "loop", "transferkit", "transferkit, images/s")
    return markdown(
        header,
        [
            [
                *named(group),
                short(group.median("peak", "peak GFLOP/s")),
                str(group.share_of_peak(LOOP)),
                str(group.share_of_peak(OURS)),
                short(1.25 * group.first.images * group.first.epochs / group.median(OURS)),
            ]
            for group in groups
            if {OURS, LOOP, "peak"} <= {*group.sides}
        ],
    )


def overhead(groups: Sequence[Group]) -> str:
    lines = []
    for group in groups:
        if group.first.work == START:
            own = group.rounds("transferkit"), group.rounds("python")
            spread = Spread.of(1e3 * (own[0][n] - own[1][n]) for n in own[0])
            lines.append(["`import transferkit`, beyond Python's own start", str(spread)])
            continue
        for measure, say in (
            ("ms at start", "`Trainer(...).fit`, at its start"),
            ("ms a step", "`fit`, a step, beyond the barest loop's"),
        ):
            lines.append([say, str(Spread.of(group.rounds("overhead", measure).values()))])
    return markdown(("", "ms"), lines)


def growth(groups: Sequence[Group]) -> str:
    header = (*NAMED, "s", "cache on disk, MB", "kB an image")
    lines = []
    for group in groups:
        size, images = group.median("growth", "cache MB"), 1.25 * group.first.images
        cells = [short(group.median("growth")), short(size), short(1e3 * size / images)]
        lines.append([cell.removeprefix("growth, ") for cell in named(group)] + cells)
    return markdown(header, lines)


def made_with(rows: Sequence[Row]) -> str:
    """Versions, machines, days and command lines, each as often as it differs."""
    ours = [row.versions for row in rows if row.side == OURS]
    facts = {
        "Versions": ours,
        "Machine": [row.machine for row in rows],
        "Date": [row.date for row in rows],
        "Command": [f"`{row.command}`" for row in rows],
    }
    return "\n".join(
        f"- {name}: {'; '.join(dict.fromkeys(found))}" for name, found in facts.items() if found
    )
