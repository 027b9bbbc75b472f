"""Time a training step in three memory formats: channels first, channels last, and by our rule.

What the rule of :mod:`transferkit.models.fast_layers` rests on: channels last wins on large maps
and on depthwise convolutions, channels first on small maps of dense ones. The three take turns; the
figures are the median of channels first over each, above 1 where it is faster than channels first.

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
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy

from transferkit import __version__
from transferkit._format import table
from transferkit.models.classifier import Classifier, create_classifier
from transferkit.models.fast_layers import fast_formats

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
    return name, str(pixels), f"{statistics.median(times[FORMATS[0]]):.3f}", *map(spread, ratios)


def first_convolution(name: str, pixels: int, *, batch: int, rounds: int) -> tuple[str, ...]:
    """One row: the first convolution on three equal channels, and on one that stands for them."""
    model = create_classifier(name, 2, weights=None, image_size=pixels, seed=0)
    first = next(m for m in model.backbone.modules() if isinstance(m, nn.Conv2d))
    grey = torch.rand(batch, 1, pixels, pixels)
    three = grey.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    summed = first.weight.detach().sum(dim=1, keepdim=True)

    def run(images: Tensor, weight: Tensor) -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            conv2d(images, weight, None, first.stride, first.padding)
        return time.perf_counter() - start

    pairs = [(run(three, first.weight), run(grey, summed)) for _ in range(4 * rounds + 1)][1:]
    ratios = sorted(a / b for a, b in pairs)
    seconds = statistics.median(a for a, _ in pairs)
    return name, str(pixels), f"{seconds:.4f}", spread(ratios)


def half_precision(name: str, pixels: int, *, batch: int, rounds: int) -> tuple[str, ...]:
    """One row: a training step in float32 and in bfloat16."""
    model = create_classifier(name, 2, weights=None, image_size=pixels, seed=0).train()
    images = torch.randn(batch, 3, pixels, pixels)
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds + 1):
        for half, taken in times.items():
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                taken.append(step(model, images, "rule"))
    ratios = sorted(a / b for a, b in zip(times[False][1:], times[True][1:], strict=True))
    return name, str(pixels), f"{statistics.median(times[False][1:]):.3f}", spread(ratios)


def spread(ratios: list[float]) -> str:
    """Median, lowest and highest of sorted ratios."""
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pixels", nargs="+", type=int, default=[64, 128, 224])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    how = {"batch": options.batch_size, "rounds": options.rounds}
    cases = [(name, pixels) for name in options.networks for pixels in options.pixels]
    tables = []
    for title, header, make in TABLES:
        rows = [said(make(*case, **how)) for case in cases]
        tables.append(f"## {title}\n\n```\n{table(header, rows, left=1)}\n```\n")
    facts = (
        f"`python {' '.join(sys.argv)}`; transferkit {__version__}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, Python {platform.python_version()}, "
        f"{options.threads} threads, batch {options.batch_size}, {options.rounds} rounds. Ratios "
        "are those of the first over each other way: median (lowest to highest), above 1 where the "
        "other is faster."
    )
    OUT.write_text("\n".join(["# Ways to lay out a training step\n", f"{facts}\n", *tables]))


def said(row: tuple[str, ...]) -> tuple[str, ...]:
    """Show a row as soon as it is there."""
    print(*row, sep="  ", flush=True)
    return row


TABLES = (
    (
        "A training step by memory format",
        ("network", "pixels", "channels first, s", "channels last", "rule"),
        measure,
    ),
    (
        "The first convolution, on three channels and on one",
        ("network", "pixels", "three channels, s", "one channel"),
        first_convolution,
    ),
    (
        "A training step by precision",
        ("network", "pixels", "float32, s", "bfloat16"),
        half_precision,
    ),
)

if __name__ == "__main__":
    main()
