"""The embedded backbone against random weights and two ImageNet networks.

    python benchmarks/embedded_backbone.py run --shared ../shared
    python benchmarks/embedded_backbone_table.py
    python benchmarks/embedded_backbone.py rates --shared ../shared

``run`` adds rows to a CSV file and skips those it holds already, so it can be stopped at any time.
The table prints what the file holds as Markdown; ``rates`` is how the learning rates of
fine-tuning were chosen, on val. Every row is one network, data set, mode, number
of training images and seed; the seed draws the training images, the order of the batches and the
random weights.

Modes: ``probe`` is logistic regression on frozen, standardised features, its penalty chosen on
val; ``tune`` is fine-tuning of all weights, its last epoch taken, val not used.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional

from embedded_backbone_table import RESULTS, Row, append, read
from transferkit.backbones.embedded import NAME
from transferkit.models.classifier import Classifier, create_classifier

EMBEDDED = f"transferkit/{NAME}"
NETWORKS = {
    "embedded": EMBEDDED,
    "random": EMBEDDED,
    "random mobilenet_v3_small": "torchvision/mobilenet_v3_small",
    "ImageNet squeezenet1_1": "torchvision/squeezenet1_1",
    "ImageNet mobilenet_v2": "torchvision/mobilenet_v2",
}
FILES = {
    "ImageNet squeezenet1_1": "squeezenet1_1-imagenet1k_v1-fp16.safetensors",
    "ImageNet mobilenet_v2": "mobilenet_v2-imagenet1k_v1-int8rounded-fp16.safetensors",
}
# The best of those tried by mean val accuracy: results/embedded_backbone_rates.txt.
RATES = {
    "embedded": 3e-3,
    "random": 1e-2,
    "ImageNet squeezenet1_1": 1e-3,
    "ImageNet mobilenet_v2": 3e-4,
}
TRIED = (3e-4, 1e-3, 3e-3, 1e-2)
TRIED_SEEDS = (100, 101, 102)
DATASETS = (("pneumoniamnist", 64), ("kermany224", 64), ("digits", 64), ("kermany224", 128))
PROBE_SHOTS = (50, 200, 1000, 0)  # 0: all but the images held out for val; digits have 720
TUNE_SHOTS = (50, 200, 1000)
TUNE_STEPS = {50: 40, 200: 60, 1000: 120}
PENALTIES = (0.0003, 0.003, 0.03, 0.3)


@dataclass(frozen=True, eq=False)
class Task:
    """Grey uint8 images (N, 1, S, S) and labels: a pool to draw train and val from, and test."""

    pool: Tensor
    labels: NDArray[np.int64]
    test: Tensor
    test_labels: NDArray[np.int64]

    def draw(self, shots: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw indices of train and val images from the pool; 0 shots are all that is left."""
        order = np.random.default_rng(seed).permutation(len(self.labels))
        val, rest = order[: self.val_images], order[self.val_images :]
        return rest[: shots or None], val

    @property
    def val_images(self) -> int:
        """A fifth of the pool, 400 at most."""
        return min(400, len(self.labels) // 5)


def resized(images: NDArray[np.uint8], side: int) -> Tensor:
    """Resize grey images (N, H, W) to uint8 (N, 1, S, S)."""
    floats = torch.from_numpy(images)[:, None].float()
    scaled = functional.interpolate(floats, size=(side, side), mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)


def read_folder(folder: Path, side: int) -> tuple[Tensor, NDArray[np.int64]]:
    """Read ``NORMAL`` (0) and ``PNEUMONIA`` (1) JPEG files as grey."""
    paths = sorted(folder.glob("*/*.jpeg"))
    images = np.stack([np.asarray(Image.open(path).convert("L")) for path in paths])
    return resized(images, side), np.array([int(p.parent.name == "PNEUMONIA") for p in paths])


@cache
def load_task(dataset: str, side: int, shared: Path) -> Task:
    """Load a data set at a side in pixels.

    The test split of digits is the half that ``tools/pretrain/probe.py`` never reads: the backbone
    was chosen on the other half, which is the pool.
    """
    if dataset == "kermany224":
        folder = shared / "data" / "kermany224"
        return Task(*read_folder(folder / "train", side), *read_folder(folder / "test", side))
    if dataset == "pneumoniamnist":
        with np.load(shared / "data" / "pneumoniamnist.npz") as file:
            parts = {name: file[name] for name in file.files}
        labels, test_labels = (
            parts[f"{s}_labels"].ravel().astype(np.int64) for s in ("train", "test")
        )
        pool, test = (resized(parts[f"{s}_images"], side) for s in ("train", "test"))
        return Task(pool, labels, test, test_labels)
    digits = load_digits()
    images = resized((digits.images * 15.9375).astype(np.uint8), side)
    order = np.random.default_rng(0).permutation(len(digits.target))
    pool, test = order[:900], order[900:]
    return Task(images[pool], digits.target[pool], images[test], digits.target[test])


def make(network: str, side: int, classes: int, seed: int, shared: Path) -> Classifier:
    """Build a classifier over grey images with the network's weights."""
    weights: str | Path | None = "default" if network == "embedded" else None
    if network in FILES:
        weights = shared / "weights" / FILES[network]
    name = NETWORKS[network]
    return create_classifier(name, classes, weights=weights, image_size=side, seed=seed)


@cache
def features(
    task: Task, network: str, side: int, seed: int, shared: Path
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Frozen features (N, D) of the pool and of the test images."""
    model = make(network, side, int(task.labels.max()) + 1, seed, shared).eval()
    with torch.inference_mode():
        pool, test = (
            torch.cat([model.features(part) for part in images.split(100)])
            for images in (task.pool, task.test)
        )
    return pool.numpy(), test.numpy()


def probe(task: Task, network: str, side: int, seed: int, shared: Path) -> Iterator[dict[str, Any]]:
    """Probe one network with each number of shots."""
    drawn = seed if network.startswith("random") else 0  # pretrained features have no seed
    pool, test = features(task, network, side, drawn, shared)
    most = len(task.labels) - task.val_images
    for shots in (shots for shots in PROBE_SHOTS if shots < most):
        start = time.perf_counter()
        train, val = task.draw(shots, seed)
        fitted = []
        for penalty in PENALTIES:
            logistic = LogisticRegression(C=penalty, max_iter=500)
            fit = make_pipeline(StandardScaler(), logistic).fit(pool[train], task.labels[train])
            fitted.append((fit.score(pool[val], task.labels[val]), -penalty, fit))
        score, _, best = max(fitted, key=lambda entry: entry[:2])
        predicted = best.predict(test)
        yield scores(task, predicted, score, start) | {"shots": shots}


def scores(
    task: Task, predicted: NDArray[np.int64], val_accuracy: float, start: float
) -> dict[str, Any]:
    """The measured fields of a row."""
    return {
        "val_accuracy": val_accuracy,
        "test_accuracy": float(np.mean(predicted == task.test_labels)),
        "test_balanced": balanced_accuracy_score(task.test_labels, predicted),
        "seconds": time.perf_counter() - start,
    }


def tune(
    task: Task, network: str, side: int, seed: int, shots: int, shared: Path, rate: float
) -> dict[str, Any]:
    """Fine-tune every weight: AdamW, one cycle, batches of 32, flips for the radiographs."""
    start = time.perf_counter()
    model = make(network, side, int(task.labels.max()) + 1, seed, shared)
    train, val = task.draw(shots, seed)
    folded = network == "ImageNet mobilenet_v2"  # its batch norm must keep its statistics
    fit(model, task, train, rate=rate, steps=TUNE_STEPS[shots], seed=seed, still=folded)
    val_score = np.mean(predict(model, task.pool[val]) == task.labels[val])
    return scores(task, predict(model, task.test), float(val_score), start) | {"shots": shots}


def fit(
    model: Classifier,
    task: Task,
    train: NDArray[np.int64],
    *,
    rate: float,
    steps: int,
    seed: int,
    still: bool,
) -> None:
    """Run ``steps`` optimizer steps; ``still`` batch norm keeps its statistics."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    model.train()
    for module in model.modules():
        if still and isinstance(module, nn.BatchNorm2d):
            module.eval()
    for _ in range(steps):
        picked = rng.choice(train, 32, replace=len(train) < 32)
        images = task.pool[picked]
        if len(np.unique(task.labels)) == 2 and rng.random() < 0.5:
            images = images.flip(-1)
        loss = functional.cross_entropy(model(images), torch.from_numpy(task.labels[picked]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()


def predict(model: Classifier, images: Tensor) -> NDArray[np.int64]:
    """Predicted classes (N,)."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(part).argmax(1) for part in images.split(100)]).numpy()


def cases(args: argparse.Namespace) -> Iterator[tuple[str, int, str, str, int, int]]:
    """List dataset, side, network, mode, shots and seed; one case of ``probe`` is all its shots."""
    for seed, (dataset, side), network in product(range(args.seeds), DATASETS, args.networks):
        if "probe" in args.modes:
            yield dataset, side, network, "probe", 0, seed
        if "tune" in args.modes and network in RATES:
            yield from ((dataset, side, network, "tune", n, seed) for n in TUNE_SHOTS)


def measure(args: argparse.Namespace) -> None:
    """Measure every row that the file does not hold yet."""
    torch.set_num_threads(args.threads)
    done = {(*row.key, row.shots, row.seed) for row in read(args.results)}
    for dataset, side, network, mode, shots, seed in cases(args):
        if (dataset, side, network, mode, shots, seed) in done:
            continue
        task = load_task(dataset, side, args.shared)
        if mode == "probe":
            found = list(probe(task, network, side, seed, args.shared))
        else:
            rate = RATES[network]
            found = [tune(task, network, side, seed, shots, args.shared, rate)]
        append(args.results, [Row(dataset, side, network, mode, seed=seed, **one) for one in found])


def try_rates(args: argparse.Namespace) -> None:
    """Print mean val accuracy of fine-tuning on 200 images, for every learning rate tried."""
    torch.set_num_threads(args.threads)
    tasks = {d: load_task(d, 64, args.shared) for d in ("pneumoniamnist", "digits")}
    for network in (n for n in args.networks if n in RATES):
        for rate in TRIED:
            cases = [(d, seed) for d in tasks for seed in TRIED_SEEDS]
            tried = [tune(tasks[d], network, 64, s, 200, args.shared, rate) for d, s in cases]
            mean = np.mean([one["val_accuracy"] for one in tried])
            print(f"{network}, rate {rate:g}: val {100 * mean:.1f} %", flush=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    run, rates = commands.add_parser("run"), commands.add_parser("rates")
    for command in (run, rates):
        command.add_argument("--shared", type=Path, required=True)
        command.add_argument(
            "--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS)
        )
        command.add_argument("--threads", type=int, default=1)
    run.add_argument("--modes", nargs="+", choices=["probe", "tune"], default=["probe", "tune"])
    run.add_argument("--seeds", type=int, default=5)
    run.set_defaults(call=measure)
    rates.set_defaults(call=try_rates)
    run.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
