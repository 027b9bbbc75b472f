"""Faster layers compute what the plain ones do."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

import transferkit as tk
from transferkit.backbones.spec import Network
from transferkit.models.classifier import Classifier, Recipe
from transferkit.models.fast_layers import fast_formats, folded_copy
from transferkit.models.frozen_prefix import cut_at_boundary


def folds(copy: Classifier) -> int:
    """How many batch norms leave their work to a convolution."""
    return sum("forward" in module.__dict__ for module in copy.modules())


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
def test_features_are_equal_to_float_tolerance(make, images: Tensor, name, upto, pairs) -> None:
    model = make(name)
    tk.unfreeze(model, upto=upto)
    model.train()
    attributes = [set(module.__dict__) for module in model.modules()]
    parameters = [id(p) for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = folded_copy(model, images, frozen_only=True)
    assert folds(folded) == pairs
    assert [module.training for module in model.modules()] == modes
    model.eval()
    with torch.no_grad():
        want = model.features(images)
        got = folded.features(images)
        again = model.features(images)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))
    assert not torch.equal(got, want)
    assert torch.equal(again, want)
    assert [set(module.__dict__) for module in model.modules()] == attributes
    assert [id(p) for p in model.parameters()] == parameters
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_cut_runs_folded(make, images: Tensor) -> None:
    model = make("resnet18")
    tk.unfreeze(model, upto="layer4")
    cut = cut_at_boundary(model, images).folded(images)
    crossing = cut.prefix(images)
    model.eval()
    torch.testing.assert_close(cut.tail(*crossing), model(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["timm/convnext_atto", "squeezenet1_1"])
def test_nothing_to_fold(make, images: Tensor, name) -> None:
    tk.freeze(model := make(name))
    assert folds(folded_copy(model.train(), images)) == 0


def test_what_trains_is_folded_only_if_asked_for(make, images: Tensor) -> None:
    model = make("resnet18").train()
    assert folds(folded_copy(model, images, frozen_only=True)) == 0
    assert folds(folded_copy(model, images)) == 20


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
    folded = folded_copy(model.train(), images)
    assert folds(folded) == 0
    assert torch.equal(folded.features(images), model.eval().features(images))


def formats(model: nn.Module, size: int) -> dict[str, bool]:
    """Whether the 4-d input of each stage is channels last, on a batch of grey images."""
    seen: dict[str, bool] = {}
    handles = []
    for stage in model.stages[:-1]:
        module = model.get_submodule(stage.modules[0])

        def note(_: nn.Module, inputs: tuple[torch.Tensor], name: str = stage.name) -> None:
            seen[name] = not inputs[0].is_contiguous()

        handles.append(module.register_forward_pre_hook(note))
    with torch.no_grad():
        model(torch.randint(0, 256, (2, 1, size, size), dtype=torch.uint8))
    for handle in handles:
        handle.remove()
    return seen


def test_small_maps_of_dense_convolutions_are_channels_first() -> None:
    model = tk.create_classifier("resnet18", 2, weights=None, image_size=128).eval()
    assert all(formats(model, 128).values())
    with fast_formats(model):
        changed = formats(model, 128)
    assert [name for name, last in changed.items() if not last] == ["layer4"]
    assert all(formats(model, 128).values())


def test_depthwise_convolutions_stay_channels_last() -> None:
    model = tk.create_classifier("mobilenet_v2", 2, weights=None, image_size=64).eval()
    plain = formats(model, 64)
    with fast_formats(model):
        assert {n for n, last in formats(model, 64).items() if last} >= {
            name for name, last in plain.items() if last and name != "features.18"
        }


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "timm/convnext_atto", "vgg11"])
def test_gradients_are_equal(name: str) -> None:
    """In double precision, where other orders of adding cannot hide a difference."""
    model = tk.create_classifier(name, 2, weights=None, image_size=64, seed=0).double().eval()
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    images = images.contiguous(memory_format=torch.channels_last)
    results = []
    for context in (nullcontext(), fast_formats(model)):
        model.zero_grad()
        with context:
            model.backbone(images).square().sum().backward()
        results.append([p.grad.clone() for p in model.backbone.parameters()])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10 * float(want.abs().max()))


def test_no_hook_is_left_when_the_network_fails() -> None:
    model = tk.create_classifier("resnet18", 2, weights=None, image_size=64)
    with pytest.raises(RuntimeError), fast_formats(model):
        raise RuntimeError
    assert not any(module._forward_pre_hooks for module in model.modules())
