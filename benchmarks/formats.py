"""Time a training step in three memory formats: channels first, channels last, and by our rule.

What :mod:`transferkit.models.formats` rests on: channels last wins on large maps and on depthwise
convolutions, channels first on small maps of dense ones. The three take turns; the figures are the
median of channels first over each, above 1 where it is faster than channels first.

    OMP_NUM_THREADS=2 python benchmarks/formats.py
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
import torchvision
from torch import Tensor
from torch.nn.functional import cross_entropy

from transferkit import __version__
from transferkit._text import table
from transferkit.models.classifier import Classifier, create_classifier
from transferkit.models.formats import fast_formats

NETWORKS = (
    "resnet18",
    "resnext50_32x4d",
    "densenet121",
    "vgg11",
    "mobilenet_v2",
    "efficientnet_b0",
    "convnext_tiny",
)
FORMATS = ("channels first", "channels last", "rule")
OUT = Path(__file__).parent / "results" / "formats.md"


def step(model: Classifier, images: Tensor, how: str) -> float:
    """Seconds of one forward and backward pass on images (B, 3, H, W), normalised."""
    labels = torch.arange(len(images)) % 2
    memory = torch.contiguous_format if how == "channels first" else torch.channels_last
    images = images.contiguous(memory_format=memory)
    context: AbstractContextManager[None] = fast_formats(model) if how == "rule" else nullcontext()
    with context:
        start = time.perf_counter()
        cross_entropy(model.head(model.backbone(images)), labels).backward()
        seconds = time.perf_counter() - start
    model.zero_grad()
    return seconds


def measure(name: str, pixels: int, *, batch: int, rounds: int) -> tuple[str, ...]:
    """One row: median seconds with channels first, and the ratios of the other two."""
    model = create_classifier(name, 2, weights=None, image_size=pixels, seed=0).train()
    images = torch.randn(batch, 3, pixels, pixels)
    times: dict[str, list[float]] = {how: [] for how in FORMATS}
    for number in range(rounds + 1):
        for how in FORMATS:
            seconds = step(model, images, how)
            if number:  # the first round warms up
                times[how].append(seconds)
    ratios = [
        sorted(a / b for a, b in zip(times[FORMATS[0]], times[how], strict=True))
        for how in FORMATS[1:]
    ]
    cells = [f"{statistics.median(r):.2f} ({r[0]:.2f} to {r[-1]:.2f})" for r in ratios]
    return name, str(pixels), f"{statistics.median(times[FORMATS[0]]):.3f}", *cells


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pixels", nargs="+", type=int, default=[64, 128, 224])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.networks:
        for pixels in options.pixels:
            rows.append(measure(name, pixels, batch=options.batch_size, rounds=options.rounds))
            print(*rows[-1], sep="  ", flush=True)
    header = ("network", "pixels", "channels first, s", "channels last", "rule")
    facts = (
        f"`python {' '.join(sys.argv)}`; transferkit {__version__}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, Python {platform.python_version()}, "
        f"{options.threads} threads, batch {options.batch_size}, {options.rounds} rounds; "
        "ratio of channels first over each, median (lowest to highest)."
    )
    OUT.write_text(
        f"# A training step in three memory formats\n\n{facts}\n\n```\n"
        f"{table(header, rows, left=1)}\n```\n"
    )


if __name__ == "__main__":
    main()
