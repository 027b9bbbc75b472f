"""How long a folder of images takes to load: decoded, kept on disk, and mapped the next time.

Run ``python benchmarks/load_speed.py FOLDER``, a folder that ``load_splits`` reads. Every load is
a process of its own, and its time does not include starting Python and importing the library. The
files are in the system's file cache, so this is decoding, not the disk. ``ImageFolder`` is what a
hand-written loop pays for the same in every epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from transferkit._format import table


def load(folder: str, side: int, seed: int, kept: str | None) -> Callable[[], object]:
    from transferkit.data.load import load_splits

    cache = None if kept is None else "disk"
    return lambda: load_splits(
        folder, image_size=side, seed=seed, cache=cache, cache_folder=kept, progress=False
    )


def image_folder(folder: str, side: int, seed: int, kept: str | None) -> Callable[[], object]:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    size = v2.Compose([v2.Resize((side, side)), v2.PILToTensor()])
    workers = os.cpu_count() or 1
    parts = [ImageFolder(part, size) for part in sorted(Path(folder).iterdir()) if part.is_dir()]
    loaders = [DataLoader(part, batch_size=32, num_workers=workers) for part in parts]
    return lambda: sum(len(images) for loader in loaders for images, _ in loader)


LOADS: dict[str, tuple[Callable[..., Callable[[], object]], int, bool]] = {
    "one epoch of ImageFolder, a worker a core": (image_folder, 0, False),
    "decoded, not kept": (load, 0, False),
    "first load, decoded and kept": (load, 0, True),
    "second load": (load, 0, True),
    "second load, val split drawn from another seed": (load, 1, True),
}


def measure(name: str, folder: str, side: int, kept: str) -> float:
    """Seconds of one load, in this process."""
    build, seed, keeps = LOADS[name]
    job = build(folder, side, seed, kept if keeps else None)
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inside", nargs=2, metavar=("LOAD", "KEPT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        name, kept = options.inside
        print(json.dumps(measure(name, options.folder, options.side, kept)))
        return
    seconds: dict[str, list[float]] = {name: [] for name in LOADS}
    command = [sys.executable, __file__, options.folder, "--side", str(options.side), "--inside"]
    for _ in range(options.rounds):
        kept = tempfile.mkdtemp()
        for name in LOADS:
            done = subprocess.run([*command, name, kept], capture_output=True, check=True)
            seconds[name].append(json.loads(done.stdout))
        shutil.rmtree(kept)
    rows = [
        [name, f"{statistics.median(taken):.3f}", f"{np.min(taken):.3f} to {np.max(taken):.3f}"]
        for name, taken in seconds.items()
    ]
    print(table(("load", "seconds, median", "range"), rows))


if __name__ == "__main__":
    main()
