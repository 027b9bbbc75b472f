"""Judge a pretraining run without any test split: probes on PneumoniaMNIST train/val and digits.

    PYTHONPATH=tools python -m pretrain.probe runs/pretrain/run --data ../shared/data

PneumoniaMNIST: 5-fold cross-validation on train (4708 images, the steadiest number), balanced
accuracy after 50 and 200 of them, and val. Digits: the same on a fixed half of scikit-learn's
digits; the other half is never read here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional

from pretrain.train import MEAN, STD
from transferkit.backbones.embedded import PooledResNet, pretraining_network


def features(model: nn.Module, images: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Run grey images (N, H, W) at ``side`` pixels; return features (N, D)."""
    out: list[Tensor] = []
    with torch.inference_mode():
        for part in torch.from_numpy(images)[:, None].split(128):
            views = functional.interpolate(part / 255, size=side, mode="bilinear", antialias=True)
            out.append(model((views - MEAN) / STD))
    return torch.cat(out).numpy()


def classifier(strength: float) -> LogisticRegression:
    """Logistic regression on standardised features."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))


def few_shot(images: NDArray[np.float32], labels: NDArray[np.int64], shots: int) -> float:
    """Mean balanced accuracy on the rest, over 16 draws of ``shots`` training images."""
    scores = []
    for seed in range(16):
        order = np.random.default_rng(seed).permutation(len(labels))
        fitted = classifier(0.03).fit(images[order[:shots]], labels[order[:shots]])
        rest = order[shots:]
        scores.append(balanced_accuracy_score(labels[rest], fitted.predict(images[rest])))
    return float(np.mean(scores))


def probe(model: nn.Module, data: Path, *, side: int, digits_side: int) -> dict[str, float]:
    """Return accuracies of linear probes on frozen features."""
    with np.load(data / "pneumoniamnist.npz") as file:
        train, val = (features(model, file[f"{s}_images"], side) for s in ("train", "val"))
        labels, val_labels = (file[f"{s}_labels"].ravel() for s in ("train", "val"))
    digits = load_digits()
    half = np.random.default_rng(0).permutation(len(digits.target))[:900]
    pixels = (digits.images[half] * 15.9375).astype(np.uint8)
    signs = features(model, pixels, digits_side)
    folded = {c: cross_val_score(classifier(c), train, labels, cv=5).mean() for c in (0.003, 0.03)}
    best = max(folded, key=lambda c: folded[c])
    fitted = classifier(best).fit(train, labels)
    return {
        "pneumonia_cv": folded[best],
        "pneumonia_50": few_shot(train, labels, 50),
        "pneumonia_200": few_shot(train, labels, 200),
        "pneumonia_val": fitted.score(val, val_labels),
        "pneumonia_val_auroc": roc_auc_score(val_labels, fitted.predict_proba(val)[:, 1]),
        "digits_100": few_shot(signs, digits.target[half], 100),
        "digits_cv": cross_val_score(classifier(0.03), signs, digits.target[half], cv=5).mean(),
    }


def load(folder: Path, *, random: bool) -> nn.Module:
    """Rebuild a run's network without its classifier, trained or as it began."""
    options = json.loads((folder / "options.json").read_text())
    torch.manual_seed(options["seed"])
    model = PooledResNet(pretraining_network(in_channels=1))
    if not random:
        state = torch.load(folder / "weights.pt", weights_only=True)
        kept = model.state_dict().keys()
        model.load_state_dict({k: v for k, v in state.items() if k in kept})
    return model.eval()


def main() -> None:
    """Parse the command line, probe, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--digits-side", type=int, default=32)
    parser.add_argument("--random", action="store_true", help="the network as it began")
    args = parser.parse_args()
    model = load(args.run, random=args.random)
    scores = probe(model, args.data, side=args.side, digits_side=args.digits_side)
    print(args.run.name, *(f"{name} {100 * value:.2f}" for name, value in scores.items()))


if __name__ == "__main__":
    main()
