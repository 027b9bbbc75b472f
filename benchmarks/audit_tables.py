"""The audit's measured figures as text: whole tables in ``results/``, a summary in docs/audit.md.

    python benchmarks/audit_calibration.py tables

Nothing is measured here: it reads the CSV files that the other parts write.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from math import isnan
from pathlib import Path

from audit_draws import BESIDE, PEERS, POWER, RESULTS, Row, read_rows
from audit_growth import GROWTH, WHOLE, GrowthRow, read_growth, slope
from audit_null import NULL, SAMPLERS, NullRow, bounds, read_null
from audit_planted import PLANTED, PlantedRow, read_planted
from audit_rate import RateRow, read_rate
from transferkit.metrics.intervals import wilson_interval

PAGE = Path(__file__).resolve().parents[1] / "docs" / "audit.md"
BEGIN = "<!-- made by benchmarks/audit_calibration.py tables -->"
END = "<!-- end of what is made -->"
OURS = "transferkit"
COMMAND = "python benchmarks/audit_calibration.py"
ORDER = (OURS, "scipy", "alibi-detect", "frouros", "TorchDrift")
NAMES = {
    "digits": "scikit-learn's digits, 1797 images",
    "pneumonia": "PneumoniaMNIST, 5856 images",
    "phantom": "phantom data, 24 000 images",
}
Column = tuple[str, str]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Lay out a Markdown table."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    lines = [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]
    return "\n".join(lines)


def share(found: int, draws: int) -> str:
    """Percent with its Wilson interval."""
    low, high = wilson_interval(found, draws)
    return f"{100 * found / draws:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def flag(row: NullRow) -> str:
    """Say where the alarms leave what alpha allows."""
    low, high = bounds(row.draws)
    return " HIGH" if row.alarms > high else " low" if row.alarms < low else ""


def unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def null_table(rows: Sequence[NullRow]) -> str:
    """Every cell of the null table: percent of false alarms."""
    lines = []
    places = dict.fromkeys((row.test, row.n, row.m) for row in rows)
    for test, n, m in places:
        some = {r.features: r for r in rows if (r.test, r.n, r.m) == (test, n, m)}
        cells = [
            f"{100 * some[k].alarms / some[k].draws:.1f}{flag(some[k])}" if k in some else ""
            for k in SAMPLERS
        ]
        draws = unique(str(row.draws) for row in some.values())
        lines.append([test, f"{n:,} / {m:,}", " or ".join(draws), *cells])
    return markdown(("test", "rows", "draws", *SAMPLERS), lines, left=2)


def null_summary(rows: Sequence[NullRow]) -> str:
    """One line a test: all its draws together, and the cells out of bounds."""
    lines = []
    for test in unique(row.test for row in rows):
        some = [row for row in rows if row.test == test]
        high = sum(flag(row) == " HIGH" for row in some)
        low = sum(flag(row) == " low" for row in some)
        found, draws = sum(row.alarms for row in some), sum(row.draws for row in some)
        sizes = sorted({row.n for row in some})
        span = f"{sizes[0]:,} to {sizes[-1]:,}"
        a, b = (f"{100 * end:.1f}" for end in wilson_interval(found, draws))
        cell = f"{100 * found / draws:.1f} [{a}, {b}]"
        lines.append([test, span, str(len(some)), f"{draws:,}", cell, str(high), str(low)])
    header = ("test", "rows", "cells", "draws", "false alarms, %", "cells too high", "too low")
    return markdown(header, lines, left=2)


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """Libraries and tests, ours first."""
    found = dict.fromkeys((row.library, row.test) for row in rows)
    return sorted(found, key=lambda column: ORDER.index(column[0]))


def titled(column: Column) -> str:
    library, test = column
    return test if library == OURS else f"{library} {test}"


def power_table(rows: Sequence[Row], dataset: str) -> str:
    """Every cell of one set of images: percent of detections with intervals."""
    some = [row for row in rows if row.dataset == dataset]
    columns = columns_of(some)
    lines = []
    for shift, part, n in dict.fromkeys((row.shift, row.share, row.n) for row in some):
        cell = {(r.library, r.test): r for r in some if (r.shift, r.share, r.n) == (shift, part, n)}
        shown = [share(cell[c].detections, cell[c].draws) if c in cell else "" for c in columns]
        draws = " / ".join(unique(f"{r.draws}" for r in cell.values()))
        lines.append([shift, said(shift, part), f"{n:,}", draws, *shown])
    header = ("shift", "of images", "n", "draws", *map(titled, columns))
    return markdown(header, lines, left=2)


def said(shift: str, part: float) -> str:
    """The share of images that a shift changes; a missing class is no such thing."""
    return "" if shift == "none" or shift.startswith("knock") else f"{100 * part:.0f} %"


def needed(rows: Sequence[Row], column: Column, shift: str, part: float) -> str:
    """Smallest n from which on at least nine draws in ten are detected."""
    some = [r for r in rows if (r.library, r.test, r.shift, r.share) == (*column, shift, part)]
    some.sort(key=lambda row: -row.n)
    found = ""
    for row in some:
        if row.detections < 0.9 * row.draws:
            break
        found = f"{row.n:,}"
    return found or (f"> {some[0].n:,}" if some else "")


def needed_table(rows: Sequence[Row], dataset: str) -> str:
    """How many rows each of our tests needs, by shift, and its false alarms at all sizes."""
    some = [row for row in rows if row.dataset == dataset and row.library == OURS]
    columns = columns_of(some)
    shifts = dict.fromkeys((row.shift, row.share) for row in some if row.shift != "none")
    lines = [["none: false alarms, %", "", *(calm(some, column) for column in columns)]]
    lines += [[s, said(s, p), *(needed(some, c, s, p) for c in columns)] for s, p in shifts]
    return markdown(("shift", "of images", *map(titled, columns)), lines, left=2)


def calm(rows: Sequence[Row], column: Column) -> str:
    """The false alarms of one test at all sizes."""
    some = [r for r in rows if (r.library, r.test, r.shift) == (*column, "none")]
    return share(sum(row.detections for row in some), sum(row.draws for row in some))


def at(rows: Sequence[Row], dataset: str, wanted: Callable[[Row], bool]) -> str:
    """The detections of every library in the wanted cells, percent with intervals."""
    some = [row for row in rows if row.dataset == dataset and wanted(row)]
    columns = columns_of(some)
    shifts = dict.fromkeys((row.shift, row.share, row.n) for row in some)
    lines = []
    for library, test in columns:
        cell = {(r.shift, r.share, r.n): r for r in some if (r.library, r.test) == (library, test)}
        shown = [share(cell[k].detections, cell[k].draws) if k in cell else "" for k in shifts]
        lines.append([titled((library, test)), *shown])
    sizes = len({n for _, _, n in shifts}) > 1
    heads = [
        f"{s}{f', {said(s, p)}' if said(s, p) else ''}{f', n = {n}' if sizes else ''}"
        for s, p, n in shifts
    ]
    return markdown(("test", *heads), lines)


def planted_table(rows: Sequence[PlantedRow]) -> str:
    """How planted gaps come back, in points."""
    lines = [
        [
            row.plant,
            row.part,
            f"{row.n:,}",
            f"{100 * row.truth:.1f}",
            f"{100 * (row.mean - row.truth):+.2f}",
            f"{100 * row.deviation:.1f}",
            share(row.covered, row.repetitions),
        ]
        for row in rows
    ]
    header = ("planted", "part", "n", "truth", "mean error", "sd", "truth in the interval, %")
    return markdown(header, lines, left=2)


def growth_table(rows: Sequence[GrowthRow]) -> str:
    lines = []
    for job in unique(row.job for row in rows):
        some = sorted((row for row in rows if row.job == job), key=lambda row: row.n)
        last = some[-1]
        cells = [f"{last.n:,}", f"{last.cpu:.1f}", f"{last.memory:.0f}"]
        slopes = [slope(some, value) for value in ("cpu", "memory")]
        lines.append([job, *cells, *("" if isnan(x) else f"{x:.2f}" for x in slopes)])
    header = ("", "largest n", "CPU seconds", "extra MB", "exponent, time", "exponent, memory")
    return markdown(header, lines)


def rate_table(rows: Sequence[RateRow]) -> str:
    """How many whole reports of one source carry a warning that rests on a test."""
    lines = [[r.case, str(r.draws), share(r.alarms, r.draws), f"{r.seconds:.1f}"] for r in rows]
    header = ("one source, dealt out at random", "audits", "with a warning, %", "CPU seconds each")
    return markdown(header, lines)


def versions(rows: Sequence[Row]) -> str:
    return ", ".join(sorted({f"{row.library} {row.version}" for row in rows}, key=str.lower))


def summary(
    null: Sequence[NullRow],
    power: Sequence[Row],
    peers: Sequence[Row],
    planted: Sequence[PlantedRow],
    growth: Sequence[GrowthRow],
) -> str:
    """Return what docs/audit.md says."""
    worst = min(planted, key=lambda row: row.covered / row.repetitions)
    off = max(abs(row.mean - row.truth) for row in planted)
    largest = next(r for r in sorted(growth, key=lambda r: -r.n) if r.job == WHOLE)
    peers_at = [
        at(peers, name, lambda row: row.n == BESIDE and shown_beside(row))
        for name in ("digits", "pneumonia")
    ]
    large = large_samples(power)
    return f"""### False alarms

Both samples from one distribution, alpha 5 %: Gaussian, ReLU, discrete, heavily tied, heavy-tailed
and group-correlated features, equal and unequal sizes. A cell is *too high* or *too low* beyond the
central 99.9 % of the binomial distribution; coarse statistics (small samples, many ties) must be
low. `{COMMAND} null`;
every cell is in `benchmarks/results/audit_null.md`.

{null_summary(null)}

On Gaussian features cut at zero, where two rows in three tie, without shift, for every library,
percent [95 % interval]:

{at(peers, "relu", lambda row: row.shift == "none")}

A whole report of splits from one source, percent with any warning or error that rests on a test
[95 % interval]; `python benchmarks/audit_rate.py`:

{rate_table(read_rate())}

### What is seen

The shifts of Rabanser et al. (2019) on real images, embedded by the backbone in the box, 64
principal components. *Noise* has a deviation of 1, 10 or 100 grey levels; *image* is rotation,
shift, shear, zoom and flips together; *knock-out* takes 10, 50 or 100 % of one class away. Below
stands the smallest n (rows of each sample, of those tried) from which on nine draws in ten are
detected: of 100 draws up to n = 200, 20 at 500 and 10 beyond, five times as many without shift.
*together* is what an audit says: ks, mmd and classifier, corrected for being three.
`{COMMAND} images ...`, then `power ...`;
all cells with draws and intervals are in `benchmarks/results/audit_power.md`.

{NAMES["digits"]}:

{needed_table(power, "digits")}

{NAMES["pneumonia"]}:

{needed_table(power, "pneumonia")}
{large}

### Beside others

Percent of draws detected [95 % interval] at n = {BESIDE}, on the same draws (20 of each shift, 100
without), all with their default settings, the peers each in an environment of its own (how to
install it stands in `benchmarks/peers_audit_*.py`); all cells are in
`benchmarks/results/audit_peers.md`.
{versions(peers)}.

{NAMES["digits"]}:

{peers_at[0]}

{NAMES["pneumonia"]}:

{peers_at[1]}

### Gaps of known size

Phantom data with a planted gap, drawn {worst.repetitions} times from a population of known truth:
the mean error of any part is at most {100 * off:.1f} points, and the 95 % intervals hold the truth
in {100 * worst.covered / worst.repetitions:.1f} % of the draws or more. `{COMMAND} planted`; all
parts are in `benchmarks/results/audit_planted.md`.

### Growth

`python benchmarks/audit_growth.py`, one thread of a busy machine. The tests at 64 features and 100
permutations; a whole audit of {largest.n:,} images of 32 pixels, embedding included, took
{largest.cpu:.0f} CPU seconds. An exponent of 1 between the two largest sizes is linear growth. MMD
walks the whole kernel matrix, in quadratic time: an audit gives it 2000 images of a split at most
(`max_images`). Kolmogorov-Smirnov sums its null distribution exactly up to 10 000 rows of both
samples together. The search for near-duplicates looks every image up in four buckets of images and
registers it with the best twelve, in time that grows with the images, not with their pairs
(`python benchmarks/audit_copies.py growth`; the row below is from before it did).

{growth_table(growth)}

![Time and memory against rows, on logarithmic axes](results/audit_growth.png)"""


def large_samples(power: Sequence[Row]) -> str:
    """The cells of the phantom set, whose samples are the largest."""
    some = [row for row in power if row.dataset == "phantom" and row.library == OURS]
    if not some:
        return ""
    n = max(row.n for row in some)
    names = unique(row.test for row in some)
    cells: dict[tuple[str, float], dict[str, Row]] = {}
    for row in some:
        cells.setdefault((row.shift, row.share), {})[row.test] = row
    lines = [
        [s, said(s, p), *(f"{cell[t].detections} of {cell[t].draws}" for t in names)]
        for (s, p), cell in cells.items()
    ]
    return f"""
{NAMES["phantom"]}, {n:,} rows a sample; detections in the few draws that were made:

{markdown(("shift", "of images", *names), lines, left=2)}
"""


def shown_beside(row: Row) -> bool:
    return (row.shift, row.share) in (
        ("none", 1.0),
        ("noise medium", 0.1),
        ("noise medium", 0.5),
        ("image small", 1.0),
        ("image medium", 0.5),
        ("flips", 1.0),
        ("knock-out large", 1.0),
    )


def write_page(page: Path, text: str) -> None:
    """Put the summary between the marks of the page."""
    whole = page.read_text("utf-8")
    before, _, rest = whole.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", "utf-8")


def write_tables(page: Path, results: Path) -> None:
    """Write the whole tables to ``results`` and the summary to ``page``."""
    null, planted = read_null(NULL), read_planted(PLANTED)
    power, peers = read_rows(POWER), read_rows(PEERS)
    sets = [name for name in NAMES if any(row.dataset == name for row in power)]
    parts = [f"## {NAMES[name]}\n\n{power_table(power, name)}\n" for name in sets]
    beside = [
        f"## {title}\n\n{power_table(peers, name)}\n"
        for name, title in {**NAMES, "relu": "Gaussian rows cut at zero"}.items()
        if any(row.dataset == name for row in peers)
    ]
    files = {
        "audit_null.md": f"Percent of false alarms; `{COMMAND} null`\n\n{null_table(null)}\n",
        "audit_power.md": (
            f"Percent of draws in which a shift is detected [95 % interval]; `{COMMAND} power`. "
            f"{versions(power)}.\n\n" + "\n".join(parts)
        ),
        "audit_peers.md": (
            "The same draws for every library, percent of detections [95 % interval]; "
            f"`{COMMAND} power --beside` and `peers_audit_*.py`. {versions(peers)}.\n\n"
            + "\n".join(beside)
        ),
        "audit_planted.md": f"In points; `{COMMAND} planted`\n\n{planted_table(planted)}\n",
    }
    for name, text in files.items():
        results.joinpath(name).write_text(text, "utf-8")
    write_page(page, summary(null, power, peers, planted, read_growth(GROWTH)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    write_tables(options.page, options.results)


if __name__ == "__main__":
    main()
