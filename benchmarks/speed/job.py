"""Whole processes, timed from outside: the job of a user, and the import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from speed.envs import python_of, trouble_of
from speed.measure import row
from speed.plan import Case
from speed.process import ROOT, SideError, environment
from speed.rows import FAILED, Row, read, write
from speed.task import Task

SHARED = ROOT.parents[1] / "shared"
FOLDER = SHARED / "data" / "kermany224"
WEIGHTS = SHARED / "weights" / "squeezenet1_1-imagenet1k_v1-fp16.safetensors"
JOB, START = "whole job", "start-up"
SIDES = ("ours, cold", "ours, warm", "fastai")
ROUNDS = {6: 3, 30: 1}
PIXELS = 128
START_ROUNDS = 10
Versions = dict[str, str]


def timed(command: list[str], environ: dict[str, str]) -> dict[str, float]:
    """Run a process to its end; its seconds, its peak, and the figures of its last line."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as wrong:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=wrong, cwd=ROOT, env=environ)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        wrong.seek(0)
        lines, errors = said.read().splitlines(), wrong.read().splitlines()
    if process.returncode:
        raise SideError(errors[-1] if errors else f"exit code {process.returncode}")
    figures: dict[str, float] = json.loads(lines[-1]) if lines else {}
    return {"seconds": seconds, "peak MB": usage.ru_maxrss / 1000} | figures


def versions_of(side: str) -> Versions:
    """The versions of a job's packages, asked of its own environment."""
    names = ("fastai" if side == "fastai" else "transferkit", "torch", "torchvision")
    code = (
        "import json, sys; from importlib.metadata import version; "
        "print(json.dumps({n: version(n) for n in sys.argv[1:]}))"
    )
    done = subprocess.run(
        [python_of(side), "-c", code, *names], capture_output=True, text=True, check=True
    )
    found: Versions = json.loads(done.stdout)
    return found


def job(side: str, task: Task, cache: Path) -> dict[str, float]:
    """One run of one side's script; ``cache`` is empty for a cold one."""
    script = "fastai_job" if side == "fastai" else "ours_job"
    options = [FOLDER, WEIGHTS, task.epochs, task.pixels, task.threads]
    command = [python_of(script), "-m", f"speed.sides.{script}", *map(str, options)]
    return timed(command, environment(task.threads) | {"TRANSFERKIT_CACHE": str(cache)})


def whole_job(epochs: int, threads: int, rounds: int | None) -> Iterator[Row]:
    """The sides in turn; the warm run of ours finds what the cold one before it kept."""
    case = job_case(epochs, threads)
    if not (FOLDER.is_dir() and WEIGHTS.is_file()):
        yield row(case, "ours, cold", {}, 0, FAILED, "the images or the weights are not here")
        return
    trouble = trouble_of("fastai")
    sides = [side for side in SIDES if side != "fastai" or trouble is None]
    if trouble is not None:
        yield row(case, "fastai", {}, 0, FAILED, trouble)
    known = {side: versions_of(side) for side in sides}
    for number in range(1, (rounds or ROUNDS.get(epochs, 1)) + 1):
        with tempfile.TemporaryDirectory() as cache:
            for side in sides:
                yield from job_rows(case, side, known[side], number, Path(cache))


def job_rows(case: Case, side: str, versions: Versions, number: int, cache: Path) -> Iterator[Row]:
    """The figures of one run, or why a peer broke off."""
    try:
        figures = job(side, case.task, cache)
    except SideError as error:
        if side != "fastai":
            raise
        yield row(case, side, versions, 0, FAILED, str(error))
        return
    print(f"  {number} {side:12} {figures['seconds']:8.2f} s", flush=True)
    for name, value in figures.items():
        yield row(case, side, versions, number, name, f"{value:.5g}")


def job_case(epochs: int, threads: int) -> Case:
    """The place of a job in the file."""
    return Case(Task(JOB, "squeezenet1_1", PIXELS, 1600, epochs, threads), SIDES, 1)


def start_case(threads: int) -> Case:
    """The place of the import in the file."""
    return Case(Task(START, "none", 0, 0, 0, threads), ("python", "transferkit"), 1)


def start_up(threads: int, rounds: int | None) -> Iterator[Row]:
    """``import transferkit`` beside a Python that does nothing."""
    case, environ = start_case(threads), environment(threads)
    versions = {"transferkit": version("transferkit")}
    for number in range(1, (rounds or START_ROUNDS) + 1):
        for side, code in (("python", "pass"), ("transferkit", "import transferkit")):
            for name, value in timed([sys.executable, "-c", code], environ).items():
                yield row(case, side, versions, number, name, f"{value:.5g}")


def keep(case: Case, path: Path, again: bool, make: Callable[[], Iterator[Row]]) -> None:
    """Write what ``make`` measures, unless it is there."""
    there = [row for row in read(path) if row.case == case.key]
    if any(row.measure != FAILED for row in there) and not again:
        print("there already:", *case.key, flush=True)
        return
    print(*case.key, flush=True)
    made = list(make())
    write([row for row in read(path) if row.case != case.key] + made, path)
