"""A side's end of the harness: do one round for each line on stdin, answer in JSON."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version

import torch

from speed.task import BATCH_SIZE, Task

Round = Callable[[], dict[str, float] | None]
"""What is timed; it may hand back figures of its own."""


def serve(prepare: Callable[[Task], Round], *packages: str) -> None:
    """Set up by the task on the command line, warm up on a few images, then obey.

    Args:
        prepare: Makes what one round runs.
        packages: The distributions whose versions belong to the figures.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    task = Task(**json.loads(sys.argv[1]))
    torch.set_num_threads(task.threads)
    start_size = peak()
    prepare(replace(task, images=2 * BATCH_SIZE, epochs=1))()
    run = prepare(task)
    known = {name: version(name) for name in (*packages, "torch", "torchvision")}
    print(json.dumps(known), file=answers, flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        figures = run() or {}
        figures["seconds"] = time.perf_counter() - started
        figures["peak MB"] = peak()
        figures["start MB"] = start_size
        print(json.dumps(figures), file=answers, flush=True)


def peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
