"""Time ``Trainer.fit`` against the same training written by hand in plain torch.

The loop is the one of the course: float32 three-channel tensors in memory, a ``DataLoader``, Adam,
``.item()`` at every batch, a pass over val after every epoch. Both sides start from the same
weights of the same network and see the same images, batch size and number of epochs. They take
turns, round by round, so that whatever else the machine does falls on both; the figures are the
ratios loop time over ours of the rounds: median, lowest and highest. Above 1, ours is faster.

    OMP_NUM_THREADS=2 python benchmarks/fit_vs_loop.py --pixels 128 256
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from transferkit import __version__
from transferkit._text import table
from transferkit.data.dataset import ImageData
from transferkit.models.classifier import create_classifier
from transferkit.models.freezing import stages, unfreeze
from transferkit.training.trainer import Trainer

WORK = {"all": (None, 1), "last stage": (-2, 30), "head": (-1, 30)}
"""What is trained: the first trainable stage, and the epochs of one round."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    backbone: str
    pixels: int
    work: str
    images: int
    batch_size: int

    @property
    def epochs(self) -> int:
        """Epochs of one round."""
        return WORK[self.work][1]


def make_images(case: Case, count: int, seed: int) -> ImageData:
    """Grey noise with a class-dependent patch: speed does not depend on what is seen."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, case.pixels, case.pixels, 1), dtype=np.uint8)
    labels = np.arange(count) % 2
    images[labels == 1, : case.pixels // 4] //= 2
    return ImageData(images, labels, classes=("normal", "pneumonia"))


def plain_network(case: Case) -> nn.Module:
    """The torchvision network with a new last layer, frozen as the course does it."""
    network: nn.Module = torchvision.models.get_model(case.backbone, weights=None)
    first = WORK[case.work][0]
    if first is not None:
        names = stages(network)
        unfreeze(network, upto=names[first])
        for module in network.modules():  # the course leaves everything in train mode
            module.__dict__.pop("train", None)
    if hasattr(network, "fc"):
        network.fc = nn.Linear(network.fc.in_features, 2)
    else:
        network.classifier[-1] = nn.Linear(network.classifier[-1].in_features, 2)
    return network


def as_tensors(data: ImageData) -> TensorDataset:
    images = torch.from_numpy(data.images).permute(0, 3, 1, 2).float() / 255
    return TensorDataset(images.repeat(1, 3, 1, 1), torch.from_numpy(data.labels))


def loop_by_hand(case: Case, train: ImageData, val: ImageData) -> Callable[[], None]:
    """Set the loop up; return what is timed."""
    sets = [as_tensors(train), as_tensors(val)]

    def run() -> None:
        network = plain_network(case)
        trainable = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trainable, lr=1e-3)
        criterion = nn.CrossEntropyLoss()
        batches = DataLoader(sets[0], batch_size=case.batch_size, shuffle=True)
        held_out = DataLoader(sets[1], batch_size=case.batch_size)
        for _ in range(case.epochs):
            network.train()
            total, right = 0.0, 0
            for images, labels in batches:
                optimizer.zero_grad()
                logits = network(images)
                loss = criterion(logits, labels)
                loss.backward()
                optimizer.step()
                total += loss.item() * len(labels)
                right += (logits.argmax(1) == labels).sum().item()
            network.eval()
            with torch.no_grad():
                for images, labels in held_out:
                    logits = network(images)
                    total += criterion(logits, labels).item()
                    right += (logits.argmax(1) == labels).sum().item()

    return run


def fit(case: Case, train: ImageData, val: ImageData) -> Callable[[], None]:
    """Set ours up; return what is timed."""

    def run() -> None:
        model = create_classifier(
            f"torchvision/{case.backbone}", 2, weights=None, image_size=case.pixels
        )
        first = WORK[case.work][0]
        unfreeze(model, upto=first)
        trainer = Trainer(
            model,
            optimizer="adam",
            lr=1e-3,
            scheduler="constant",
            batch_size=case.batch_size,
            device="cpu",
            progress=False,
        )
        trainer.fit(train, val, epochs=case.epochs)

    return run


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(case: Case, rounds: int) -> tuple[str, ...]:
    train, val = make_images(case, case.images, 0), make_images(case, case.images // 4, 1)
    hand, ours = loop_by_hand(case, train, val), fit(case, train, val)
    pairs = [(seconds(hand), seconds(ours)) for _ in range(rounds)]
    ratios = sorted(a / b for a, b in pairs)
    return (
        case.backbone,
        str(case.pixels),
        case.work,
        str(case.epochs),
        f"{statistics.median(a for a, _ in pairs):.2f}",
        f"{statistics.median(b for _, b in pairs):.2f}",
        f"{statistics.median(ratios):.2f}",
        f"{ratios[0]:.2f}-{ratios[-1]:.2f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--pixels", nargs="+", type=int, default=[128])
    parser.add_argument("--work", nargs="+", choices=list(WORK), default=list(WORK))
    parser.add_argument("--images", type=int, default=320, help="training images; a quarter is val")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"python {' '.join(sys.argv)}")
    print(
        f"transferkit {__version__}, torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"{options.threads} of {os.cpu_count()} threads, {options.images} images\n"
    )
    header = ("backbone", "pixels", "trained", "epochs", "loop s", "ours s", "ratio", "spread")
    rows = []
    for backbone in options.backbones:
        for pixels in options.pixels:
            for work in options.work:
                case = Case(backbone, pixels, work, options.images, options.batch_size)
                rows.append(measure(case, options.rounds))
                print(table(header, rows[-1:], left=1), flush=True)
    print(f"\n{table(header, rows)}")


if __name__ == "__main__":
    main()
