"""Render the pretraining images once, to a uint8 cache that the training script reads.

PYTHONPATH=tools python -m pretrain.render --out runs/pretrain/images
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pretrain.ifs import fractal
from pretrain.noise import texture
from pretrain.radiograph import opacities, radiograph
from pretrain.shapes import contours, dead_leaves, strokes

Draw = Callable[[np.random.Generator, np.random.Generator, int, int], NDArray[np.float64]]
FAMILIES: tuple[tuple[str, Draw, int], ...] = (
    ("fractal", fractal, 300),
    ("texture", texture, 160),
    ("dead_leaves", dead_leaves, 120),
    ("contours", contours, 120),
    ("strokes", strokes, 120),
    ("radiograph", radiograph, 90),
    ("opacities", opacities, 90),
)


def draw_class(job: tuple[int, int, int], *, count: int, size: int, seed: int) -> NDArray[np.uint8]:
    """Draw one class (count, size, size); its parameters and its images have own seeds."""
    _, family, index = job
    class_rng = np.random.default_rng([seed, family, index])
    rng = np.random.default_rng([seed, family, index, 1])
    images = FAMILIES[family][1](class_rng, rng, count, size)
    return np.asarray(np.clip(images * 255 + 0.5, 0, 255), np.uint8)


def jobs() -> list[tuple[int, int, int]]:
    """List (label, family, index in the family) of every class."""
    pairs = [(f, i) for f, (_, _, classes) in enumerate(FAMILIES) for i in range(classes)]
    return [(label, *pair) for label, pair in enumerate(pairs)]


def render(out: Path, *, count: int, size: int, seed: int, workers: int) -> None:
    """Write ``images.npy`` (classes, count, size, size) and ``recipe.json`` into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    shape = (len(jobs()), count, size, size)
    cache = np.lib.format.open_memmap(out / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    draw = partial(draw_class, count=count, size=size, seed=seed)
    with ProcessPoolExecutor(workers) as pool:
        for label, images in enumerate(pool.map(draw, jobs(), chunksize=4)):
            cache[label] = images
    cache.flush()
    recipe = {"families": {n: c for n, _, c in FAMILIES}, "count": count, "size": size}
    (out / "recipe.json").write_text(json.dumps(recipe | {"seed": seed}, indent=2) + "\n")


def main() -> None:
    """Parse the command line and render."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=96, help="images of each class")
    parser.add_argument("--size", type=int, default=96, help="side in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    render(args.out, count=args.count, size=args.size, seed=args.seed, workers=args.workers)


if __name__ == "__main__":
    main()
