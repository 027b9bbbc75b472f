"""Time and memory of the audit and of its tests, as they grow with the number of rows.

Run ``python benchmarks/audit_speed.py`` with ``OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=2``. Each
row is measured in a process of its own: CPU seconds, wall seconds, and the peak of memory beyond
what the two samples (or the images) and the libraries take. ``alibi-detect`` stands beside where it
is installed (it keeps the whole kernel matrix). ``whole audit`` takes phantom images of 32 pixels,
as many as ``--sizes`` says in all splits together, embedding included; ``near-duplicates``, one of
its steps, takes the same. ``audit_growth.py`` makes the figure.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from transferkit._format import table

Samples = tuple["np.ndarray[tuple[int, int], np.dtype[np.float32]]", ...]


def samples(n: int, width: int) -> Samples:
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=(n, width)).astype(np.float32) for _ in range(2))


def run_mmd(a: np.ndarray, b: np.ndarray) -> None:
    from transferkit.audit.mmd import mmd_test
    from transferkit.audit.two_sample import SplitPair

    mmd_test(SplitPair.of(a, b), permutations=100)


def run_classifier(a: np.ndarray, b: np.ndarray) -> None:
    from transferkit.audit.domain_classifier import domain_classifier_test
    from transferkit.audit.two_sample import SplitPair

    domain_classifier_test(SplitPair.of(a, b), permutations=100)


def run_ks(a: np.ndarray, b: np.ndarray) -> None:
    from transferkit.audit.kolmogorov_smirnov import ks_test
    from transferkit.audit.two_sample import SplitPair

    ks_test(SplitPair.of(a, b))


def run_ks_relu(a: np.ndarray, b: np.ndarray) -> None:
    run_ks(np.maximum(a, 0), np.maximum(b, 0))


def run_ks_tied(a: np.ndarray, b: np.ndarray) -> None:
    run_ks(np.round(20 * a), np.round(20 * b))


def run_scipy_ks(a: np.ndarray, b: np.ndarray) -> None:
    from scipy.stats import ks_2samp

    for x, y in zip(a.T, b.T, strict=True):
        ks_2samp(x, y)


def run_alibi_detect(a: np.ndarray, b: np.ndarray) -> None:
    from alibi_detect.cd import MMDDrift

    MMDDrift(a, backend="pytorch", n_permutations=100).predict(b)


JOBS: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {
    "mmd": run_mmd,
    "classifier": run_classifier,
    "ks": run_ks,
    "ks, relu": run_ks_relu,
    "ks, tied": run_ks_tied,
    "scipy ks_2samp": run_scipy_ks,
    "alibi-detect mmd": run_alibi_detect,
}


WHOLE, COPIES = "whole audit", "near-duplicates"


def prepared(job: str, n: int, width: int) -> Callable[[], object]:
    """Make the input of a job, and return the job itself."""
    if job not in (WHOLE, COPIES):
        a, b = samples(n, width)
        return lambda: JOBS[job](a, b)
    import transferkit as tk

    part = n // 6
    splits = tk.phantom_splits(sizes=(n - 2 * part, part, part), image_size=32, seed=0)
    if job == WHOLE:
        return lambda: tk.audit_splits(splits)
    from transferkit.audit.near_duplicates import near_duplicate_pairs

    return lambda: near_duplicate_pairs([data.images for data in splits.values()])


def peak() -> float:
    """Peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(job: str, n: int, width: int) -> dict[str, float]:
    """Measure one job in this process, after a small run that loads what it needs."""
    prepared(job, 120, 8)()
    work = prepared(job, n, width)
    before, used, start = peak(), cpu(), time.perf_counter()
    work()
    return {
        "cpu": cpu() - used,
        "wall": time.perf_counter() - start,
        "memory": peak() - before,
    }


def measure_apart(job: str, n: int, width: int) -> dict[str, float]:
    """Measure one job in a process of its own."""
    size = ["--sizes", str(n), "--width", str(width)]
    command = [sys.executable, __file__, job, "--inside", *size]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: float(value) for name, value in json.loads(done.stdout).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("jobs", nargs="*", default=[])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 5000, 10000])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(measure(options.jobs[0], options.sizes[0], options.width)))
        return
    absent = set() if importlib.util.find_spec("alibi_detect") else {"alibi-detect mmd"}
    rows = []
    for job in options.jobs or [job for job in JOBS if job not in absent]:
        for n in options.sizes:
            found = measure_apart(job, n, options.width)
            cells = [f"{found[name]:.1f}" for name in ("cpu", "wall")]
            rows.append([job, f"{n:,}", *cells, f"{found['memory']:.0f}"])
            print("  ".join(rows[-1]), flush=True)
    header = ("job", "n = m", "CPU seconds", "wall seconds", "extra MB")
    print(table(header, rows))


if __name__ == "__main__":
    main()
