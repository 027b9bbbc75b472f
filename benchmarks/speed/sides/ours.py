"""transferkit with its defaults, but for what the loop fixes; no round finds an earlier cache."""

from __future__ import annotations

import transferkit as tk
from speed.material import arrays, changing
from speed.serve import Round, serve
from speed.task import BATCH_SIZE, CLASSES, LAST_STAGE, LEARNING_RATE, Task


def data(pixels: int, count: int, seed: int) -> tk.ImageData:
    """The images as transferkit keeps them: uint8, one channel."""
    images, labels = arrays(pixels, count, seed)
    return tk.ImageData(images, labels, classes=("normal", "pneumonia"))


def classifier(task: Task) -> tk.Classifier:
    """The network, frozen up to the same place as the others'."""
    name = f"torchvision/{task.backbone}"
    model = tk.create_classifier(name, CLASSES, weights=None, image_size=task.pixels)
    first = {"all": None, "head": -1, "last stage": LAST_STAGE[task.backbone][0]}
    tk.unfreeze(model, upto=first[task.trained])
    return model


def trainer(task: Task, cache: tk.Cache | None = None) -> tk.Trainer:
    """Adam at the loop's constant rate."""
    return tk.Trainer(
        classifier(task),
        optimizer="adam",
        lr=LEARNING_RATE,
        scheduler="constant",
        batch_size=BATCH_SIZE,
        augment=changing(task) if task.augmented else None,
        device="cpu",
        progress=False,
        cache=cache or "memory",
    )


def prepare(task: Task) -> Round:
    train = data(task.pixels, task.images, 0)
    val = data(task.pixels, task.held_out, 1)

    def run() -> None:
        trainer(task).fit(train, val, epochs=task.epochs)

    return run


if __name__ == "__main__":
    serve(prepare, "transferkit", "timm")
