"""Measure what folded batch norms and memory formats are worth.

Each measurement is a process of its own. The two sides of a pair, with the mechanism and without
it, take turns. A ratio is the CPU time without over the CPU time with it: above 1 it pays.

    OMP_NUM_THREADS=1 python benchmarks/ablation.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from unittest import mock

import torch

import transferkit as tk
from transferkit._format import table
from transferkit.models.classifier import in_eval_mode

IMAGES = 128
CASES = (
    ("folding", "resnet18", 128),
    ("folding", "mobilenet_v2", 128),
    ("folding", "transferkit/formula_resnet18", 64),
    ("formats", "resnet18", 64),
    ("formats", "resnet18", 128),
    ("formats", "resnet18", 224),
)


def without(mechanism: str) -> AbstractContextManager[object]:
    """Leave one mechanism out."""
    if mechanism == "folding":
        plain = "transferkit.models.features.folded_copy"
        return mock.patch(plain, side_effect=lambda model, _: in_eval_mode(model))
    formats = "transferkit.training.train_epoch.fast_formats"
    return mock.patch(formats, return_value=nullcontext())


def measure(mechanism: str, network: str, pixels: int, *, used: bool) -> float:
    """CPU seconds of features (folding) or of one epoch of fine-tuning (formats)."""
    weights = "default" if network.startswith("transferkit/") else None
    model = tk.create_classifier(network, 2, weights=weights, image_size=pixels, seed=0)
    data = tk.phantom_splits(sizes=(IMAGES, 8, 8), image_size=pixels, seed=0)["train"]
    work: Callable[[], object]
    if mechanism == "folding":

        def work() -> object:
            return tk.extract_features(model, data)

    else:

        def work() -> object:
            return tk.Trainer(model, batch_size=16, device="cpu", progress=False).fit(
                data, epochs=1
            )

    with nullcontext() if used else without(mechanism):
        work()
        start = time.process_time()
        work()
        return time.process_time() - start


def in_a_process(mechanism: str, network: str, pixels: int, *, used: bool) -> float:
    """The same, in a fresh process."""
    arguments = [mechanism, network, str(pixels), "with" if used else "without"]
    command = [sys.executable, __file__, "--one", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def row(mechanism: str, network: str, pixels: int, rounds: int) -> tuple[str, ...]:
    """Median seconds with the mechanism, and the ratios of the rounds."""
    case = (mechanism, network, pixels)
    pairs = [tuple(in_a_process(*case, used=used) for used in (True, False)) for _ in range(rounds)]
    ratios = sorted(off / on for on, off in pairs)
    spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return mechanism, network, str(pixels), f"{statistics.median(p[0] for p in pairs):.2f}", spread


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mechanism", choices=sorted({case[0] for case in CASES}))
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        mechanism, network, pixels, side = options.one
        print(measure(mechanism, network, int(pixels), used=side == "with"))
        return
    chosen = [case for case in CASES if options.mechanism in (None, case[0])]
    rows = []
    for case in chosen:
        rows.append(row(*case, options.rounds))
        print(*rows[-1], sep="  ", flush=True)
    header = ("mechanism", "network", "pixels", "with it, CPU s", "without over with")
    print(table(header, rows, left=2))


if __name__ == "__main__":
    main()
