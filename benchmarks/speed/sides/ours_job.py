"""From a folder of images to the test score with transferkit, as a user would write it."""

from __future__ import annotations

import json
import sys

import torch

import transferkit as tk


def main(folder: str, weights: str, epochs: int, pixels: int, threads: int) -> None:
    torch.set_num_threads(threads)
    splits = tk.load_splits(folder, image_size=pixels)
    name, classes = "torchvision/squeezenet1_1", len(splits.classes)
    model = tk.create_classifier(name, classes, weights=weights, image_size=pixels, seed=0)
    result = tk.linear_probe(model, splits, epochs=epochs, cache="disk")
    assert result.test is not None
    scores = {"val accuracy": result.val.accuracy, "test accuracy": result.test.accuracy}
    print(json.dumps(scores))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
