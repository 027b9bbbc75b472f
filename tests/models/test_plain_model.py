"""The stages of plain models, and the names that mean a stage."""

from __future__ import annotations

import pytest
import timm
import torchvision
from torch import nn

import transferkit as tk
from transferkit.backbones.skeleton import skeleton
from transferkit.backbones.stages import Stage
from transferkit.errors import ConfigError
from transferkit.models.freezing import layout


def plain(name: str, **options: object) -> nn.Module:
    source, _, bare = name.partition("/")
    if source == "timm":
        return skeleton(lambda: timm.create_model(bare, **options))
    return skeleton(lambda: torchvision.models.get_model(bare, weights=None, **options))


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("torchvision/resnet18", "fc"),
        ("torchvision/mobilenet_v2", "classifier"),
        ("torchvision/vit_b_32", "heads"),
        ("torchvision/swin_t", "head"),
        ("torchvision/vgg11", "classifier.6"),
        ("torchvision/squeezenet1_1", "classifier"),
        ("timm/resnet18", "fc"),
        ("timm/convnext_atto", "head.fc"),
        ("timm/vit_tiny_patch16_224", "head"),
    ],
)
def test_the_head_of_a_plain_model_is_its_classifier(name: str, head: str) -> None:
    stages = layout(plain(name, num_classes=5))
    assert stages[-1].name == head
    assert all(p.startswith(head) for p in stages[-1].parameters)
    assert len(stages) >= 4


def test_a_head_of_several_layers_is_one_head() -> None:
    model = plain("torchvision/resnet18")
    model.fc = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 2))
    assert tk.stages(model) == ("conv1", "layer1", "layer2", "layer3", "layer4", "fc")
    assert len(layout(model)[-1].parameters) == 4


@pytest.mark.parametrize("name", ["timm/resnet18", "timm/deit_tiny_distilled_patch16_224"])
def test_all_that_timm_calls_classifier_is_the_head(name: str) -> None:
    model = plain(name)
    classifiers = model.get_classifier()
    classifiers = classifiers if isinstance(classifiers, tuple) else (classifiers,)
    expected = {id(p) for part in classifiers for p in part.parameters()}
    assert {id(model.get_parameter(n)) for n in layout(model)[-1].parameters} == expected


@pytest.mark.parametrize("size", [{"in_chans": 1}, {"img_size": 32}, {"num_classes": 0}])
def test_plain_models_of_other_channels_and_sizes(size: dict[str, int]) -> None:
    names = tk.stages(plain("timm/vit_tiny_patch16_224", **size))
    assert names == ("patch_embed", *(f"blocks.{i}" for i in range(12)), "head")


def test_a_model_without_a_classifier_has_an_empty_head() -> None:
    model = plain("torchvision/resnet18")
    model.fc = nn.Identity()
    assert layout(model)[-1] == Stage("head", (), ())
    assert tk.stages(model)[-2] == "layer4"


def test_a_model_that_takes_no_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot take images"):
        tk.stages(nn.Linear(5, 2))
