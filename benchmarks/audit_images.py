"""Images, shifted as in Rabanser et al. 2019, and embedded once: what the power table draws from.

    python benchmarks/audit_calibration.py images digits digits.npz
    python benchmarks/audit_calibration.py images pneumonia pneumonia.npz --medmnist FILE
    python benchmarks/audit_calibration.py images phantom phantom.npz
    python benchmarks/audit_calibration.py images relu relu.npz

Every image is embedded as it is and under every shift, by the backbone in the box, as in an audit;
the table works on 64 principal components, as an audit does, fitted on the images as they are.
The shifts are those of S. Rabanser, S. Guennemann and Z. Lipton, "Failing loudly", NeurIPS 2019:
Gaussian noise with a deviation of 1, 10 and 100 grey levels; and rotation, shift, shear, zoom and
flips together, small, medium and large; beside them rotation, shear, zoom and flips alone, each at
its medium size. Digits are enlarged to 32 pixels first. ``relu`` are no images but Gaussian rows
cut at zero, 69 % of them: what a network without pooling gives, for the false alarms of tests that
overlook ties (``power relu.npz --shifts none``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import transferkit as tk
from transferkit.audit.audit_data import COMPONENTS
from transferkit.data.image_data import ImageData
from transferkit.data.splits import Splits
from transferkit.workflows.audit import audit_data

PHANTOMS = 24_000
Pixels = NDArray[np.uint8]
Edit = Callable[[Pixels, np.random.Generator], Pixels]


@dataclass(frozen=True)
class Moves:
    """The largest random moves of an image: degrees, shares of the size, flips."""

    rotation: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    flip: bool = False
    flip_vertically: bool = False

    def __call__(self, images: Pixels, rng: np.random.Generator) -> Pixels:
        """Move every image ``(N, H, W)`` at random."""
        return np.stack([self.one(image, rng) for image in images])

    def one(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """Move one image ``(H, W)``; what comes in from outside repeats the nearest pixel."""
        angle = np.deg2rad(rng.uniform(-self.rotation, self.rotation))
        skew, scale = rng.uniform(-self.shear, self.shear), 1 + rng.uniform(-self.zoom, self.zoom)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn @ np.array([[1, skew], [0, 1]]) / scale
        centre = (np.array(image.shape) - 1) / 2
        offset = centre - matrix @ centre
        offset += rng.uniform(-self.shift, self.shift, size=2) * image.shape
        moved = ndimage.affine_transform(image, matrix, offset, order=1, mode="nearest")
        if self.flip and rng.random() < 0.5:
            moved = moved[:, ::-1]
        return moved[::-1] if self.flip_vertically and rng.random() < 0.5 else moved


def noise(levels: float) -> Edit:
    def edit(images: Pixels, rng: np.random.Generator) -> Pixels:
        noisy = images + levels * rng.standard_normal(images.shape, dtype=np.float32)
        return np.clip(np.round(noisy), 0, 255).astype(np.uint8)

    return edit


MEDIUM = Moves(40, 0.2, 0.2, 0.2, flip=True)
STILL = Moves()
EDITS: dict[str, Edit] = {
    "noise small": noise(1),
    "noise medium": noise(10),
    "noise large": noise(100),
    "image small": Moves(10, 0.05, 0.1, 0.1),
    "image medium": MEDIUM,
    "image large": Moves(90, 0.4, 0.3, 0.4, flip=True, flip_vertically=True),
    "rotation": replace(STILL, rotation=MEDIUM.rotation),
    "shear": replace(STILL, shear=MEDIUM.shear),
    "zoom": replace(STILL, zoom=MEDIUM.zoom),
    "flips": replace(STILL, flip=True),
}
CHEAP = ("noise small", "noise medium", "image small")
"""Those of the phantom set, which is large."""


def digits() -> tuple[Pixels, NDArray[np.int64]]:
    images, labels = load_digits(return_X_y=True)
    small = np.round(images.reshape(-1, 8, 8) * (255 / 16))
    large = ndimage.zoom(small, (1, 4, 4), order=1, grid_mode=True, mode="nearest")
    return large.astype(np.uint8), labels.astype(np.int64)


def medmnist(path: str) -> tuple[Pixels, NDArray[np.int64]]:
    """Return the images of all splits of a MedMNIST file."""
    with np.load(path) as data:
        parts = [(data[f"{s}_images"], data[f"{s}_labels"]) for s in ("train", "val", "test")]
    images, labels = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return images, labels.ravel().astype(np.int64)


def phantom() -> tuple[Pixels, NDArray[np.int64]]:
    data = tk.phantom_splits(sizes={"all": PHANTOMS}, image_size=32, shift=0.0, seed=0)["all"]
    assert data.labels is not None
    return data.images[..., 0], data.labels


def relu() -> NDArray[np.float32]:
    rows = np.random.default_rng(0).standard_normal((20_000, 8), dtype=np.float32)
    return np.maximum(rows - 0.5, 0)


def embedded(images: Pixels) -> NDArray[np.float32]:
    splits = Splits({"all": ImageData(images[..., None])})
    return np.asarray(audit_data(splits).splits["all"].features, dtype=np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", choices=("digits", "pneumonia", "phantom", "relu"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--medmnist", help="the MedMNIST file of the pneumonia set")
    options = parser.parse_args()
    if options.dataset == "pneumonia" and options.medmnist is None:
        parser.error("the pneumonia set needs --medmnist FILE")
    if options.dataset == "relu":
        rows = relu()
        np.savez(options.out, labels=np.zeros(len(rows), np.int64), none=rows)
        return
    read = {"digits": digits, "phantom": phantom, "pneumonia": lambda: medmnist(options.medmnist)}
    images, labels = read[options.dataset]()
    clean = embedded(images)
    project = PCA(COMPONENTS, svd_solver="full").fit(clean).transform
    rows = {"none": project(clean)}
    for i, (name, edit) in enumerate(EDITS.items()):
        if options.dataset != "phantom" or name in CHEAP:
            rows[name] = project(embedded(edit(images, np.random.default_rng(i))))
            print(name, flush=True)
    np.savez(options.out, labels=labels, **{k: v.astype(np.float32) for k, v in rows.items()})


if __name__ == "__main__":
    main()
