"""Folded prefixes compute what the plain ones do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import transferkit as tk
from transferkit.backbones.spec import Network
from transferkit.models.boundary import cut_at_boundary
from transferkit.models.classifier import Classifier, Recipe
from transferkit.models.fold import FoldedCut, fold_batch_norms


@pytest.mark.parametrize(
    ("name", "upto", "pairs"),
    [
        ("resnet18", "head", 20),
        ("resnet18", "layer4", 15),
        ("mobilenet_v2", "features.10", 27),
        ("timm/efficientnet_b0", "head", 49),
        ("timm/resnet18", "layer3", 10),
    ],
)
def test_what_crosses_is_equal_to_float_tolerance(make, images: Tensor, name, upto, pairs) -> None:
    model = make(name)
    tk.unfreeze(model, upto=upto)
    attributes = [set(module.__dict__) for module in model.modules()]
    parameters = [id(p) for p in model.parameters()]
    cut = cut_at_boundary(model, images)
    folded = fold_batch_norms(cut, images)
    assert isinstance(folded, FoldedCut)
    assert (len(folded.pairs), folded.stage) == (pairs, upto)
    for got, want in zip(folded.prefix(images), cut.prefix(images), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))
        assert not torch.equal(got, want)
    model.eval()
    logits = folded.tail(*folded.prefix(images))
    torch.testing.assert_close(logits, model(images), rtol=1e-3, atol=1e-4)
    assert [set(module.__dict__) for module in model.modules()] == attributes
    assert [id(p) for p in model.parameters()] == parameters


def test_nothing_to_fold_gives_the_same_cut(make, images: Tensor) -> None:
    model = make("timm/convnext_atto")
    tk.freeze(model)
    cut = cut_at_boundary(model, images)
    assert fold_batch_norms(cut, images) is cut


class UsesBoth(nn.Module):
    """Uses the convolution's output once more, so that folding would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.first(x))
        return (y + self.norm(y)).mean((2, 3))


def test_a_fold_that_would_be_wrong_is_not_made(images: Tensor) -> None:
    backbone = UsesBoth()
    nn.init.constant_(backbone.norm.running_mean, 0.5)
    network = Network(backbone, 3, (3, 8, 8), (0.5,) * 3, (0.5,) * 3, "bilinear", classifier="")
    recipe = Recipe("user/both", None, "linear", 0.0)
    model = Classifier(network, nn.Linear(3, 2), classes=("a", "b"), recipe=recipe)
    tk.freeze(model)
    cut = cut_at_boundary(model, images)
    assert fold_batch_norms(cut, images) is cut
