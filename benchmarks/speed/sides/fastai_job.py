"""From a folder of images to the test score with fastai, as its documentation writes it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from fastai.vision.all import (
    ImageDataLoaders,
    Normalize,
    Resize,
    ResizeMethod,
    accuracy,
    get_image_files,
    imagenet_stats,
    vision_learner,
)
from safetensors.torch import load_file
from torchvision.models import squeezenet1_1


def main(folder: str, weights: str, epochs: int, pixels: int, threads: int) -> None:
    torch.set_num_threads(threads)
    data = ImageDataLoaders.from_folder(
        Path(folder) / "train",  # with valid_pct, a folder above it would bring the test images in
        valid_pct=0.2,
        seed=0,
        item_tfms=Resize(pixels, method=ResizeMethod.Squish),
        batch_tfms=Normalize.from_stats(*imagenet_stats),
        bs=32,
        device="cpu",
    )
    learner = vision_learner(data, squeezenet1_1, pretrained=False, metrics=accuracy)
    known = load_file(weights)  # a local file instead of what pretrained=True downloads
    body = {n.replace("features.", "0."): v for n, v in known.items() if n.startswith("features.")}
    learner.model[0].load_state_dict(body)
    learner.freeze()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(epochs)
        val = learner.validate()[1]
        held_out = data.test_dl(get_image_files(Path(folder) / "test"), with_labels=True)
        test = learner.validate(dl=held_out)[1]
    print(json.dumps({"val accuracy": val, "test accuracy": test}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
