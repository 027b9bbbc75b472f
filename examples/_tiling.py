"""One report's accident: ``Tensor.repeat(1, 3, 3, 1)`` tiles the image three times in height.

Meant was (1, 3, 1, 1), the grey channel three times. A network that pools over all places takes
the tiled image without complaint, and learns on three radiographs in a column.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

import transferkit as tk
from _common import Setting

Size = tuple[int, int]


def tiling_accident(setting: Setting, backbone: str, *, epochs: int) -> dict[str, tk.Evaluation]:
    """Fine-tune once on tiled images; choose the epoch on tiled val images, and on plain ones.

    Returns:
        The score on the plain test images for each of the two choices.
    """
    train, val, test = (setting.splits[name] for name in ("train", "val", "test"))
    probe = tk.create_classifier(
        backbone, 2, weights=None, image_size=setting.image_size, seed=setting.seeds[0]
    )
    height, width = probe.preprocess.image_size
    model = tk.create_classifier(
        backbone,
        train.num_classes,
        weights=setting.weights_of(backbone),
        image_size=(3 * height, width),
        seed=setting.seeds[0],
    )
    trainer = tk.Trainer(
        model,
        optimizer="adam",
        lr=1e-3,
        scheduler="constant",
        seed=setting.seeds[0],
        device=setting.device,
        progress=False,
    )
    views = {"tiled": ((3 * height, width), tiled(val)), "plain": ((height, width), val)}
    best = dict.fromkeys(views, -1.0)
    kept: dict[str, dict[str, torch.Tensor]] = {}
    for _ in trainer.epochs(tiled(train), epochs=epochs):
        for name, (size, images) in views.items():
            with input_size(model, size):
                accuracy = tk.evaluate(model, images).accuracy
            if accuracy > best[name]:
                best[name] = accuracy
                kept[name] = {key: value.clone() for key, value in model.state_dict().items()}
    scores = {}
    for name, weights in kept.items():
        model.load_state_dict(weights)
        with input_size(model, (height, width)):
            scores[name] = tk.evaluate(model, test)
    return scores


def tiled(data: tk.ImageData) -> tk.ImageData:
    """Each image three times, one below the other."""
    return tk.ImageData(np.tile(data.images, (1, 3, 1, 1)), data.labels, classes=data.classes)


@contextmanager
def input_size(model: tk.Classifier, size: Size) -> Iterator[None]:
    """Let the network see images of another size for a while."""
    before, model.preprocess.image_size = model.preprocess.image_size, size
    try:
        yield
    finally:
        model.preprocess.image_size = before
