"""Does the audit find edited copies among real X-rays, and what do search and audit cost?

    python benchmarks/audit_copies.py recall DATA     # edited copies of 200 images, nine edits
    python benchmarks/audit_copies.py false DATA      # pairs reported among images as they are
    python benchmarks/audit_copies.py growth          # time against images, up to 10^5
    python benchmarks/audit_copies.py audit DATA      # the whole audit, embedded backbone

DATA is a folder of splits such as kermany224, or an npz such as pneumoniamnist's; ``false`` adds
phantoms of four sizes and scikit-learn's digits. ``--images`` takes fewer images, drawn at random
by ``--seed``. Each part prints its table and writes it to benchmarks/results/audit_copies_PART.md,
with the command and the versions. Times are those of this process, loading of the images apart; set
``OMP_NUM_THREADS`` for one or two threads.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_digits

import transferkit as tk
from transferkit._format import percent_interval, table
from transferkit.audit.near_duplicates import near_duplicate_pairs
from transferkit.data.image_data import ImageData
from transferkit.data.splits import Splits
from transferkit.metrics.intervals import wilson_interval

RESULTS = Path(__file__).parent / "results"
SIDE = 224
Pixels = NDArray[np.uint8]
T = TypeVar("T")
Edit = Callable[[Image.Image, np.random.Generator], Image.Image]


def jpeg(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


def brightened(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(float(rng.choice([0.8, 1.2])))


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cut 5 % of the width and of the height, split at random between the two ends."""
    width, height = image.size
    x, y = rng.uniform(0, 0.05, size=2) * (width, height)
    box = (x, y, x + 0.95 * width, y + 0.95 * height)
    return image.resize(image.size, Image.Resampling.BILINEAR, box=box)


def turned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.rotate(float(rng.choice([-3, 3])), Image.Resampling.BILINEAR)


def flipped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def quarter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    ways = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270)
    return image.transpose(ways[int(rng.integers(2))])


def negative(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.invert(image)


EDITS: dict[str, Edit] = {
    "JPEG quality 60": jpeg,
    "brightness 0.8 or 1.2": brightened,
    "crop of 5 %": cropped,
    "rotation by 3 degrees": turned,
    "flip": flipped,
    "quarter turn": quarter,
    "flip and quarter turn": lambda image, rng: quarter(flipped(image, rng), rng),
    "negative": negative,
    "negative, flip, crop of 5 %": lambda image, rng: cropped(
        flipped(negative(image, rng), rng), rng
    ),
}


def edited(images: Pixels, edit: Edit, seed: int) -> Pixels:
    """Return an edited copy of every image ``(N, H, W, 1)``."""
    rng = np.random.default_rng(seed)
    copies = [np.asarray(edit(Image.fromarray(image[..., 0]), rng)) for image in images]
    return np.stack(copies)[..., None]


def drawn(data: str, count: int | None, seed: int) -> ImageData:
    """Draw grey images from all splits of ``data``, all of them if ``count`` is None."""
    splits = tk.load_splits(data, image_size=None if data.endswith(".npz") else SIDE)
    pixels = np.concatenate([part.images for part in splits.values()])[..., :1]
    names = [name for part in splits.values() for name in part.names]
    rows = np.random.default_rng(seed).permutation(len(pixels))[:count]
    return ImageData(pixels[rows], names=[names[row] for row in rows])


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(job: Callable[[], T]) -> tuple[list[str], T]:
    """Return CPU seconds, wall seconds and peak megabytes of the process, and the outcome."""
    used, start = cpu(), time.perf_counter()
    outcome = job()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [f"{cpu() - used:.1f}", f"{time.perf_counter() - start:.1f}", f"{peak:.0f}"], outcome


COSTS = ("CPU seconds", "wall seconds", "peak MB")


def recall(options: argparse.Namespace) -> str:
    """Find each edited copy among as many originals as copies."""
    images = drawn(options.data, options.images or 200, options.seed).images
    count, rows = len(images), []
    for name, edit in EDITS.items():
        pool = [images, edited(images, edit, options.seed)]
        cost, pairs = timed(partial(near_duplicate_pairs, pool))
        own = (pairs.second == pairs.first + count) & pairs.certain
        found = int(own.sum())
        share = percent_interval(found / count, wilson_interval(found, count))
        rows.append([name, str(2 * count), str(count), str(found), share, *cost[:2]])
        print("  ".join(rows[-1]), flush=True)
    return table(("edit", "images", "copies", "found", "recall [95 %]", *COSTS[:2]), rows)


def false(options: argparse.Namespace) -> str:
    """Report the pairs among images as they are: each is a false pair, or a copy in the data."""
    data = drawn(options.data, options.images, options.seed)
    sets = {Path(options.data).stem: data}
    sets["digits, 8 px"] = ImageData((load_digits().images[..., None] * 255 / 16).astype(np.uint8))
    for side in (32, 64, 96, 128):
        count = (options.images or 2000) // 2
        sizes = {"train": count, "test": count}
        phantoms = tk.phantom_splits(sizes=sizes, image_size=side, seed=options.seed)
        images = np.concatenate([part.images for part in phantoms.values()])
        sets[f"phantoms, {side} px"] = ImageData(images)
    rows, lines = [], []
    for title, images in sets.items():
        cost, pairs = timed(partial(near_duplicate_pairs, [images.images]))
        certain = np.flatnonzero(pairs.certain).tolist()
        counts = len(images), len(pairs.first) - len(certain), len(certain)
        rows.append([title, *map(str, counts), *cost[:2]])
        lines += [
            f"{title}: {images.names[pairs.first[i]]} and {images.names[pairs.second[i]]}: "
            f"correlation {pairs.correlation[i]:.2f}"
            for i in certain
        ]
    titles = ("data", "images", "look alike", "reported as copies", *COSTS[:2])
    return "\n".join([table(titles, rows), *lines])


def growth(options: argparse.Namespace) -> str:
    """Search phantoms of 64 px, among which 100 are lighter copies, in doubling numbers."""
    most, rows = options.images or 100_000, []
    splits = tk.phantom_splits(sizes={"train": most}, image_size=64, seed=options.seed)
    images = splits["train"].images
    lighter = np.minimum(images[:100], 245) + 10
    for count in (most // 4, most // 2, most):
        cost, pairs = timed(partial(near_duplicate_pairs, [images[: count - 100], lighter]))
        own = (pairs.second == pairs.first + count - 100) & pairs.certain
        others = int((pairs.certain & ~own).sum())
        rows.append([str(count), f"{own.sum()} of 100", str(others), *cost])
        print("  ".join(rows[-1]), flush=True)
    return table(("images", "copies found", "other pairs", *COSTS), rows)


def audit(options: argparse.Namespace) -> str:
    """Audit the whole folder, or ``--images`` of it with the splits in proportion."""
    splits = tk.load_splits(options.data, image_size=SIDE)
    total = sum(map(len, splits.values()))
    if options.images:
        rng = np.random.default_rng(options.seed)
        parts = {}
        for name, part in splits.items():
            kept = rng.permutation(len(part))[: len(part) * options.images // total]
            parts[name] = part.subset(np.sort(kept))
        splits = Splits(parts)
    cost, report = timed(lambda: tk.audit_splits(splits))
    sizes = ", ".join(f"{name} {len(part)}" for name, part in splits.items())
    lines = [table(("splits", "findings", *COSTS), [[sizes, str(len(report.findings)), *cost]])]
    return "\n".join(lines)


PARTS = {"recall": recall, "false": false, "growth": growth, "audit": audit}


def versions() -> str:
    names = ("transferkit", "numpy", "scipy", "scikit-learn", "torch", "pillow")
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    found = ", ".join(f"{name} {version(name)}" for name in names)
    return f"Python {platform.python_version()}, {found}; OMP_NUM_THREADS={threads}"


def command() -> str:
    """Return the command of this run, without the folders above the data."""
    words = [f".../{Path(word).name}" if "/" in word else word for word in sys.argv[1:]]
    return " ".join(["python benchmarks/audit_copies.py", *words])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("data", nargs="?", help="folder of splits; growth needs none")
    parser.add_argument("--images", type=int, help="take so many images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", default="", help="one sentence on the machine, for the result")
    options = parser.parse_args()
    if options.part != "growth" and options.data is None:
        parser.error(f"{options.part} needs DATA, a folder of splits")
    load = os.getloadavg()[0]
    found = PARTS[options.part](options)
    machine = f"{os.cpu_count()} cores, load {load:.1f} at the start. {options.note}".rstrip()
    text = f"    {command()}\n\n{versions()}; {machine}\n\n```text\n{found}\n```\n"
    RESULTS.joinpath(f"audit_copies_{options.part}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
