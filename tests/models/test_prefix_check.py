"""The self-check finds every kind of difference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import transferkit as tk
from transferkit.models.classifier import Classifier
from transferkit.models.frozen_prefix import learns_alike, predicts_alike


class Halved:
    """Features and head, with something done to them on the way."""

    def __init__(self, model: Classifier, kind: str) -> None:
        self.model = model
        self.kind = kind

    def prefix(self, images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (self.model.features(images),)

    def tail(self, *crossing: Tensor) -> Tensor:
        (features,) = crossing
        if self.kind == "off":
            features = features + 0.1
        if self.kind == "nan":
            features = features * torch.nan
        if self.kind == "writes":
            features.mul_(1)
        if self.kind == "raises":
            raise RuntimeError("no")
        if self.kind == "twice":
            self.model.head(features)
        logits = self.model.head(features)
        if self.kind == "gradient":
            logits = logits.detach() + 0 * logits
        return logits


@pytest.fixture
def model(make) -> Classifier:
    model = make("resnet18", head=lambda d, k: nn.Sequential(nn.BatchNorm1d(d), nn.Linear(d, k)))
    tk.freeze(model)
    return model


@pytest.mark.parametrize(
    ("kind", "predicts", "learns"),
    [
        ("fine", True, True),
        ("off", False, False),
        ("nan", False, False),
        ("writes", False, False),
        ("raises", False, False),
        ("gradient", True, False),
        ("twice", True, False),
    ],
)
def test_differences_are_found(model, images: Tensor, kind, predicts, learns) -> None:
    if kind == "off":
        model.head[0].eval()
        nn.init.constant_(model.head[0].running_var, 0.01)
    halves = Halved(model, kind)
    assert predicts_alike(model, halves, images) == predicts
    if kind != "off":
        assert learns_alike(model, halves, images) == learns


def test_weights_buffers_and_random_numbers_are_left_as_they_were(model, images: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    assert learns_alike(model, Halved(model, "fine"), images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
