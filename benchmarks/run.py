"""How fast it is: against the loop written by hand, against peers, and as it grows.

    python benchmarks/run.py

makes the peers' environments, measures what ``benchmarks/results/speed.csv`` lacks, and makes the
tables and the figure of ``docs/speed.md`` from it. ``envs``, ``run`` and ``table`` do one of these.
The sides of a work take turns, round by round, so that whatever else the machine does falls on all;
ratios are the loop's seconds over a side's of the same round: median, lowest and highest.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from speed import envs, job, plan
from speed.envs import PACKAGES
from speed.measure import measure
from speed.process import bind
from speed.rows import RESULTS
from speed.task import COMPARED

STEPS = ("envs", "run", "table")
OTHERS = (job.START, "overhead", job.JOB, "growth")
WORKS = (*COMPARED, *OTHERS)
SIDES = ("ours", "loop", "peak", *PACKAGES)


def main() -> None:
    """Parse the command line and do what it says."""
    options = parse()
    steps = [options.step] if options.step else list(STEPS)
    if "envs" in steps:
        make_environments(options.sides)
    if "run" in steps:
        bind(options.threads)
        run(options)
    if "table" in steps:
        from speed.page import write_page

        write_page(options.results)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", nargs="?", choices=STEPS, help="do this only")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS)
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--pixels", nargs="+", type=int, default=[128, 256])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--rounds", type=int, help="by default 5 of one epoch, 2 of thirty")
    parser.add_argument("--images", type=int, help="training images; a quarter as many are val")
    parser.add_argument("--epochs", type=int, help="of one round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers-everywhere", action="store_true", help="peers do all works")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of figures")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    return parser.parse_args()


def make_environments(sides: list[str]) -> None:
    """Make those that are not there."""
    for name in PACKAGES:
        if name in sides and envs.trouble_of(name) == "no environment":
            print(f"environment of {name}:", envs.make(name) or "made", flush=True)


def run(options: argparse.Namespace) -> None:
    """Measure what the file lacks."""
    chosen = plan.cases(
        works=[work for work in options.works if work in COMPARED],
        backbones=options.backbones,
        pixels=options.pixels,
        sides=options.sides,
        rounds=options.rounds,
        images=options.images,
        epochs=options.epochs,
        threads=options.threads,
        widely=options.peers_everywhere,
    )
    path, again = options.results, options.again
    measure(list(chosen), path, again=again)
    threads, rounds = options.threads, options.rounds
    if "overhead" in options.works:
        measure([plan.overhead(threads, rounds)], path, again=again)
    if job.START in options.works:
        make = partial(job.start_up, threads, rounds)
        job.keep(job.start_case(threads), path, again, make)
    for epochs in job.ROUNDS if job.JOB in options.works else ():
        make = partial(job.whole_job, epochs, threads, rounds)
        job.keep(job.job_case(epochs, threads), path, again, make)
    if "growth" in options.works:
        measure(list(plan.growth(threads, rounds)), path, again=again)


if __name__ == "__main__":
    main()
