"""Let the sides take turns at a case, and keep every figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from speed.envs import PACKAGES
from speed.plan import Case
from speed.process import Side, SideError
from speed.rows import FAILED, Row, command, machine, read, today, write


def measure(cases: Sequence[Case], path: Path, *, again: bool = False) -> None:
    """Measure what the file lacks; each case is written as soon as it is done.

    Args:
        cases: What to measure.
        path: The file of rows.
        again: Measure anew what is there.
    """
    for case in cases:
        rows = read(path)
        there = {row.side for row in rows if row.case == case.key}
        if there >= set(case.sides) and not again:
            print("there already:", *case.key, flush=True)
            continue
        print(*case.key, flush=True)
        made = list(rows_of(case))  # all sides anew: only what was interleaved is compared
        write([row for row in read(path) if row.case != case.key] + made, path)


def rows_of(case: Case) -> Iterator[Row]:
    """Start the sides, let them take turns, and stop them."""
    with ExitStack() as stack:
        sides = []
        for name in case.sides:
            try:
                sides.append(stack.enter_context(Side(name, case.task)))
            except SideError as error:
                if name not in PACKAGES:
                    raise
                yield row(case, name, {}, 0, FAILED, str(error))
        for number in range(1, case.rounds + 1):
            turn = number % len(sides) if sides else 0
            for side in [*sides[turn:], *sides[:turn]]:
                yield from turn_of(case, side, number, sides)


def turn_of(case: Case, side: Side, number: int, sides: list[Side]) -> Iterator[Row]:
    """One round of one side; a peer that breaks is left out from then on."""
    try:
        figures = side.round()
    except SideError as error:
        if side.name not in PACKAGES:
            raise
        sides.remove(side)
        yield row(case, side.name, side.versions, 0, FAILED, str(error))
        return
    print(f"  {number} {side.name:12} {figures['seconds']:8.2f} s", flush=True)
    for name, value in figures.items():
        yield row(case, side.name, side.versions, number, name, f"{value:.5g}")


def row(
    case: Case, side: str, versions: dict[str, str], number: int, measure: str, value: str
) -> Row:
    """One figure with all that belongs to it."""
    task = case.task
    return Row(
        work=task.work,
        backbone=task.backbone,
        pixels=task.pixels,
        images=task.images,
        epochs=task.epochs,
        side=side,
        round=number,
        measure=measure,
        value=value,
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        machine=machine(task.threads),
        date=today(),
        command=command(),
    )
