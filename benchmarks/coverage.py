"""Prove every backbone: build, freeze, cut and train each one, and write a row of what came out.

    python benchmarks/coverage.py run                     # all of torchvision and timm; resumes
    python benchmarks/coverage.py run --sample            # the sample of the integration tests
    python benchmarks/coverage.py run --pattern 'timm/vit_*' --again all
    python benchmarks/coverage.py summary                 # the tables of docs/coverage.md

Each worker is a process of its own, on one thread; one that dies or takes too long costs its
backbone a row that says so, and is replaced. Rows are appended as they come, and backbones that
have one are left out, so the run can be stopped at any time and started again.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from itertools import zip_longest
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import timm
import torch
import torchvision

from coverage_checks import CHECKS, CONSTRUCTION, FAIL, FIELDS, PASS, Limits, Row, check_backbone
from coverage_summary import read_rows, write_summary
from transferkit.backbones.catalog import count_params, list_backbones

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "data" / "coverage.csv"
PAGE = ROOT / "docs" / "coverage.md"
RENEW_AFTER = 120
_CONTEXT = get_context("spawn")


class Worker:
    """A process that checks one backbone after another."""

    def __init__(self, limits: Limits, timeout: float) -> None:
        self.limits = limits
        self.timeout = timeout
        self.count = 0
        self._start()

    def check(self, name: str, before: Row | None) -> Row:
        """The row of a backbone; one that says why, where the process dies or takes too long."""
        if self.count == RENEW_AFTER:
            self.stop()
            self._start()
        self.count += 1
        self.pipe.send((name, before))
        try:
            if self.pipe.poll(self.timeout):
                return dict(self.pipe.recv())
            reason = f"took more than {self.timeout:.0f} seconds"
        except EOFError:
            self.process.join()
            reason = f"the process ended with code {self.process.exitcode}"
        self.stop()
        self._start()
        failed = {"contract": FAIL} if before else {"build": FAIL}
        return (before or dict.fromkeys(FIELDS, "")) | {"name": name, "reason": reason, **failed}

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _start(self) -> None:
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=serve, args=(theirs, self.limits), daemon=True)
        self.process.start()
        theirs.close()
        self.count = 0


def serve(pipe: Connection, limits: Limits) -> None:
    """Answer names with rows, until the other end is closed."""
    room = int((4 * limits.gigabytes + 4) * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (room, room))
    while True:
        try:
            name, before = pipe.recv()
        except EOFError:
            return
        pipe.send(check_backbone(name, limits, before))


class Table:
    """Rows on disk, with the versions they were measured with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(f"{versions()}\n{','.join(FIELDS)}\n", encoding="utf-8")
        elif self._head() != versions():
            sys.exit(f"{path} holds rows of other versions ({self._head()}); move it away")

    def rows(self) -> dict[str, Row]:
        """All rows by name."""
        return {row["name"]: row for row in read_rows(self.path)}

    def append(self, row: Row) -> None:
        """Write one more row."""
        with self.lock, self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, FIELDS, lineterminator="\n").writerow(row)

    def rewrite(self, rows: Iterable[Row]) -> None:
        """Write these rows and no others."""
        self.path.write_text(f"{versions()}\n{','.join(FIELDS)}\n", encoding="utf-8")
        for row in rows:
            self.append(row)

    def _head(self) -> str:
        with self.path.open(encoding="utf-8") as file:
            return file.readline().strip()


def versions() -> str:
    """The line that opens a table."""
    python = ".".join(map(str, sys.version_info[:2]))
    return (
        f"# python {python}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, timm {timm.__version__}"
    )


def all_names() -> list[str]:
    """Every classifier of torchvision, then every network of timm."""
    return [*list_backbones(source="torchvision"), *list_backbones(source="timm")]


def families() -> dict[str, list[str]]:
    """The networks of each of timm's families."""
    found: dict[str, list[str]] = {}
    for name in list_backbones(source="timm"):
        found.setdefault(timm.models.model_entrypoint(name[5:]).__module__, []).append(name)
    return found


def in_turn() -> list[str]:
    """Every network: torchvision's, then one of each family, so that failures show early."""
    lists = families().values()
    turns = (name for turn in zip_longest(*lists) for name in turn if name)
    return [*list_backbones(source="torchvision"), *turns]


def sample() -> list[str]:
    """All of torchvision, and the smallest network of each of timm's families."""
    smallest = [min(family, key=count_params) for family in families().values()]
    return [*list_backbones(source="torchvision"), *sorted(smallest)]


def run(names: Sequence[str], table: Table, limits: Limits, workers: int, timeout: float) -> None:
    """Check backbones side by side, a row written as each is done."""
    known, todo, lock = table.rows(), iter(enumerate(names, 1)), Lock()

    def work() -> None:
        worker = Worker(limits, timeout)
        while True:
            with lock:
                number, name = next(todo, (0, ""))
            if not name:
                return worker.stop()
            row = worker.check(name, known.get(name))
            table.append(row)
            say = " ".join(f"{check}={row[check]}" for check in CHECKS if row[check] != PASS)
            print(f"{number}/{len(names)} {name} {row['seconds']} s {say} {row['reason']}")

    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(work) for _ in range(workers)]:
            future.result()


def choose(names: Iterable[str], rows: dict[str, Row], limits: Limits) -> list[str]:
    """The backbones without a row, then those to be completed, the smallest first."""

    def can_be_completed(row: Row) -> bool:
        return row["contract"] == CONSTRUCTION and limits.allow(int(row["params"]))

    fresh = [name for name in names if name not in rows]
    partial = [name for name in names if name in rows and can_be_completed(rows[name])]
    return [*fresh, *sorted(partial, key=lambda name: int(rows[name]["params"]))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("run", "summary"))
    parser.add_argument("--out", type=Path, default=TABLE, help="the table of rows")
    parser.add_argument("--pattern", default="*", help="only these, such as 'timm/vit_*'")
    parser.add_argument("--sample", action="store_true", help="only the sample of the tests")
    parser.add_argument("--again", choices=("failed", "all"), help="drop such rows first")
    parser.add_argument("--part", default="1/1", help="such as 2/3: every third, from the second")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gigabytes", type=float, default=Limits().gigabytes)
    parser.add_argument("--thorough", type=float, default=Limits().thorough)
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one backbone")
    options = parser.parse_args()
    if options.command == "summary":
        write_summary(options.out, PAGE)
        return
    table = Table(options.out)
    among = sample() if options.sample else in_turn()
    names = [name for name in among if fnmatchcase(name, options.pattern)]
    if options.again:
        stale = {
            n for n, row in table.rows().items() if options.again == "all" or FAIL in row.values()
        }
        table.rewrite(r for n, r in table.rows().items() if n not in stale or n not in names)
    limits = Limits(options.gigabytes, options.thorough)
    left = choose(names, table.rows(), limits)
    part, parts = map(int, options.part.split("/"))
    run(left[part - 1 :: parts], table, limits, options.workers, options.timeout)
    order = {name: position for position, name in enumerate(all_names())}
    table.rewrite(sorted(table.rows().values(), key=lambda row: order[row["name"]]))


if __name__ == "__main__":
    main()
