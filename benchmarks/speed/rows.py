"""The file of every single figure, and the marks of the machine that they come from."""

from __future__ import annotations

import csv
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
RESULTS = BENCHMARKS / "results" / "speed.csv"
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one round.

    Attributes:
        work: What was done.
        backbone: By which network.
        pixels: Side of the images.
        images: Training images; a quarter as many are val.
        epochs: Epochs of the round.
        side: Who did it.
        round: Which round, from 1; 0 where the side failed.
        measure: What was measured, with its unit.
        value: The figure, or the reason of a failure.
        versions: Of the side's packages.
        machine: Processor, cores and threads.
        date: Day of the run.
        command: The command line.
    """

    work: str
    backbone: str
    pixels: int
    images: int
    epochs: int
    side: str
    round: int
    measure: str
    value: str
    versions: str
    machine: str
    date: str
    command: str

    @property
    def case(self) -> tuple[str, str, int, int, int]:
        """What tells one measurement from another; all sides of one are interleaved."""
        return self.work, self.backbone, self.pixels, self.images, self.epochs

    @property
    def number(self) -> float:
        """The figure; not a number where the side failed."""
        return float("nan") if self.measure == FAILED else float(self.value)


NUMBERS = ("pixels", "images", "epochs", "round")


def read(path: Path) -> list[Row]:
    """The rows that are there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return [row_of(line) for line in lines]


def row_of(line: Mapping[str, str]) -> Row:
    """A row from its cells."""
    texts = {name: cell for name, cell in line.items() if name not in NUMBERS}
    pixels, images, epochs, number = (int(line[name]) for name in NUMBERS)
    return Row(**texts, pixels=pixels, images=images, epochs=epochs, round=number)


def write(rows: Iterable[Row], path: Path) -> None:
    """Replace the file, in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    with draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    draft.replace(path)


def command() -> str:
    """The command line of this process, as one would type it."""
    return shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]])


def today() -> str:
    """The day, in UTC."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def machine(threads: int) -> str:
    """The processor, and how much of it is used."""
    name = platform.machine()
    about = Path("/proc/cpuinfo")
    if about.exists():
        found = [line for line in about.read_text().splitlines() if line.startswith("model name")]
        name = found[0].partition(":")[2].strip() if found else name
    return f"{name}, {threads} threads on {threads} of {os.cpu_count()} cores, {platform.system()}"
