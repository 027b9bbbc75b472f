"""What ``Trainer.fit`` costs beyond the barest loop: at its start, and at every step.

Both train the same classifier with the same Adam on the same tiny images; the loop takes its
batches by index, without a ``DataLoader``, and looks at no figure.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import transferkit as tk
from speed.serve import Round, serve
from speed.sides.ours import data
from speed.task import BATCH_SIZE, CLASSES, LEARNING_RATE, Task

REPEATS = 5


def tiny() -> nn.Module:
    """A network that costs next to nothing."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU())


def classifier(task: Task) -> tk.Classifier:
    """The tiny network with a head."""
    tk.register_backbone("tiny", tiny, replace=True)
    return tk.create_classifier("user/tiny", CLASSES, image_size=task.pixels)


def bare(model: tk.Classifier, train: tk.ImageData) -> None:
    """One epoch of the barest loop."""
    images, labels = train.batch(range(len(train))), torch.from_numpy(train.labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    model.train()
    order = torch.randperm(len(train))
    for first in range(0, len(train), BATCH_SIZE):
        rows = order[first : first + BATCH_SIZE]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        torch.autograd.backward(loss)
        optimizer.step()


def fitted(model: tk.Classifier, train: tk.ImageData) -> None:
    """One epoch of ours, from the making of the trainer on."""
    tk.Trainer(
        model,
        optimizer="adam",
        lr=LEARNING_RATE,
        scheduler="constant",
        batch_size=BATCH_SIZE,
        device="cpu",
        progress=False,
    ).fit(train, epochs=1)


def seconds(
    how: Callable[[tk.Classifier, tk.ImageData], None], model: tk.Classifier, train: tk.ImageData
) -> float:
    started = time.perf_counter()
    how(model, train)
    return time.perf_counter() - started


def prepare(task: Task) -> Round:
    many, one = data(task.pixels, task.images, 0), data(task.pixels, BATCH_SIZE, 0)
    steps = len(many) // BATCH_SIZE - 1

    def extra(train: tk.ImageData) -> float:
        """The median of ours less the loop's, turn by turn."""
        model = classifier(task)
        pairs = [
            (seconds(fitted, model, train), seconds(bare, model, train)) for _ in range(REPEATS)
        ]
        return statistics.median(ours - theirs for ours, theirs in pairs)

    def run() -> dict[str, float]:
        start = extra(one)
        return {"ms at start": 1e3 * start, "ms a step": 1e3 * (extra(many) - start) / steps}

    return run


if __name__ == "__main__":
    serve(prepare, "transferkit")
