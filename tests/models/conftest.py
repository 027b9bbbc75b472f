"""Small classifiers, with running statistics that are not the initial ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import transferkit as tk
from transferkit.models.classifier import Classifier

Maker = Callable[..., Classifier]


@pytest.fixture(autouse=True)
def one_thread_and_one_seed() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(before)


def shake(model: nn.Module, seed: int = 0) -> None:
    """Give buffers of norms and zero-initialised parameters values that tell on the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.05, generator=generator)
                module.running_var.uniform_(0.8, 1.2, generator=generator)
        for parameter in model.parameters():
            if parameter.ndim == 1 and not parameter.any():
                parameter.normal_(0, 0.05, generator=generator)


@pytest.fixture
def make() -> Maker:
    def build(name: str, num_classes: int = 3, **options: object) -> Classifier:
        options = {"weights": None, "image_size": 64, "seed": 0, **options}
        model = tk.create_classifier(name, num_classes, **options)
        shake(model)
        return model

    return build


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=generator)
