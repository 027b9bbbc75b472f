"""Memory formats: other places in memory, the same numbers."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

import transferkit as tk
from transferkit.models.memory_format import fast_formats


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
