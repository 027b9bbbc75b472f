"""Stages against what a person would name, and the laws that every division obeys."""

from __future__ import annotations

from unittest import mock

import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from transferkit.backbones import stages as traced
from transferkit.backbones.skeleton import skeleton
from transferkit.backbones.stages import Stage, record_calls, trace_stages
from transferkit.errors import ConfigError

NAMED = {
    "torchvision/resnet18": ("fc", "conv1 layer1 layer2 layer3 layer4 fc"),
    "torchvision/densenet121": (
        "classifier",
        """features.conv0 features.denseblock1 features.transition1 features.denseblock2
        features.transition2 features.denseblock3 features.transition3 features.denseblock4
        classifier""",
    ),
    "torchvision/shufflenet_v2_x0_5": ("fc", "conv1 stage2 stage3 stage4 conv5 fc"),
    "torchvision/alexnet": (
        "classifier.6",
        """features.0 features.3 features.6 features.8 features.10 classifier.1 classifier.4
        classifier.6""",
    ),
    "torchvision/regnet_y_400mf": (
        "fc",
        "stem trunk_output.block1 trunk_output.block2 trunk_output.block3 trunk_output.block4 fc",
    ),
    "timm/vit_tiny_patch16_224": (
        "head",
        f"patch_embed {' '.join(f'blocks.{i}' for i in range(12))} head",
    ),
    "timm/convnext_atto": ("head.fc", "stem stages.0 stages.1 stages.2 stages.3 head.fc"),
    "timm/efficientvit_b0": (  # the stages hold less than the convolution after them
        "head.classifier.4",
        "stem stages.0 stages.1 stages.2 stages.3 head.in_conv head.classifier.4",
    ),
    "timm/hgnetv2_b0": (
        "head.fc",
        "stem stages.0 stages.1 stages.2 stages.3 head.last_conv head.fc",
    ),
    "timm/cpubone_nano": (  # and here the head holds two large pieces
        "head.classifier",
        "stem stages.0 stages.1 stages.2 stages.3 head.in_conv head.pre_classifier head.classifier",
    ),
    "timm/lowformer_b0": (
        "classifier",
        "stem stages.0 stages.1 stages.2 stages.3 in_conv pre_classifier classifier",
    ),
    "timm/pit_ti_224": ("head", "patch_embed transformers.0 transformers.1 transformers.2 head"),
    "timm/efficientnet_b0": (
        "classifier",
        f"conv_stem {' '.join(f'blocks.{i}' for i in range(7))} classifier",
    ),
}


def version_of_timm() -> tuple[int, ...]:
    return tuple(map(int, timm.__version__.split(".")[:3]))


def build(name: str) -> nn.Module:
    source, _, bare = name.partition("/")
    if source == "torchvision":
        return skeleton(lambda: torchvision.models.get_model(bare, weights=None, num_classes=7))
    if bare not in timm.list_models():
        pytest.skip("the installed timm is older than this network")
    if bare == "efficientvit_b0" and version_of_timm() < (1, 0, 30):
        pytest.skip("before timm 1.0.30 its attention fails on the meta device")
    return skeleton(lambda: timm.create_model(bare, num_classes=7))


def check_laws(module: nn.Module, stages: tuple[Stage, ...]) -> None:
    listed = [name for stage in stages for name in stage.parameters]
    assert sorted(listed) == sorted(name for name, _ in module.named_parameters())
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    modules = dict(module.named_modules())
    assert all(name in modules for stage in stages for name in stage.modules)


@pytest.mark.parametrize("name", NAMED)
def test_names_are_the_ones_a_person_expects(name: str) -> None:
    head, expected = NAMED[name]
    module = build(name)
    stages = trace_stages(module, (3, 224, 224), head=head)
    assert [stage.name for stage in stages] == expected.split()
    check_laws(module, stages)
    assert stages[-1].parameters == tuple(
        name for name, _ in module.named_parameters() if name.startswith(f"{head}.")
    )


def test_stages_without_the_head_are_the_same_stages() -> None:
    module = build("timm/convnext_atto")
    whole = trace_stages(module, (3, 64, 64), head="head.fc")
    module.head.fc = nn.Identity()
    bare = trace_stages(module, (3, 64, 64), head="head.fc")
    assert [s.name for s in bare] == [s.name for s in whole]
    assert [s.parameters for s in bare[:-1]] == [s.parameters for s in whole[:-1]]
    assert bare[-1].parameters == ()


def test_loose_parameters_are_of_the_first_stage() -> None:
    stages = trace_stages(build("timm/vit_tiny_patch16_224"), (3, 224, 224), head="head")
    assert {"cls_token", "pos_embed"} <= set(stages[0].parameters)
    assert "norm.weight" in stages[-2].parameters


@pytest.mark.parametrize(("name", "aux"), [("googlenet", "aux1."), ("inception_v3", "AuxLogits.")])
def test_auxiliary_heads_are_of_the_head(name: str, aux: str) -> None:
    with torch.device("meta"):
        module = torchvision.models.get_model(name, weights=None, init_weights=False)
    *body, head = trace_stages(module, (3, 299, 299), head="fc")
    assert any(p.startswith(aux) for p in head.parameters)
    assert not any(p.startswith(aux) for stage in body for p in stage.parameters)


def test_shared_parameters_are_counted_with_the_first_stage() -> None:
    module = build("timm/coat_tiny")
    stages = trace_stages(module, (3, 224, 224), head="head")
    check_laws(module, stages)
    owner = {name: stage.name for stage in stages for name in stage.parameters}
    assert owner["cpe2.proj.weight"] == "serial_blocks2.0"
    assert all(stage.parameters for stage in stages)


def test_tracing_changes_nothing() -> None:
    module = timm.create_model("coat_lite_tiny", num_classes=3)
    module.train()
    module.patch_embed2.eval()
    tensors = {name: (id(t), t.clone()) for name, t in module.state_dict(keep_vars=True).items()}
    modes = [child.training for child in module.modules()]
    trace_stages(module, (3, 224, 224), head="head")
    assert [child.training for child in module.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    for name, tensor in module.state_dict(keep_vars=True).items():
        assert (id(tensor), True) == (tensors[name][0], torch.equal(tensor, tensors[name][1]))


class ReadsBack(nn.Module):
    """Reads a number back, which the meta device cannot do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(3)))
        self.fc = nn.Linear(3, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.layers(images).mean((2, 3))
        return self.fc(features * (1 + 0 * int(features.sum().item())))


def test_a_real_pass_stands_in_where_meta_fails() -> None:
    module = ReadsBack()
    stages = trace_stages(module, (3, 8, 8), head="fc")
    check_laws(module, stages)
    assert [s.name for s in stages] == ["layers.0", "layers.1", "layers.2", "fc"]


def test_a_wrong_input_size_is_named() -> None:
    with pytest.raises(ConfigError, match="3 x 8 x 8"):
        trace_stages(torchvision.models.alexnet(), (3, 8, 8), head="classifier.6")


def test_a_network_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="no parameters"):
        trace_stages(nn.Flatten(), (3, 8, 8))


def test_calls_form_a_tree() -> None:
    module = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), nn.Flatten())
    root = record_calls(module, (3, 2, 2))
    assert root.name == ""
    assert [call.name for call in root.inner] == ["0", "1"]
    assert [call.name for call in root.leaves()] == ["0.0", "0.1", "1"]


class Chain(nn.Module):
    """Blocks of conv, norm, conv of given inner widths between a stem and a linear head."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(4, w, 1), nn.BatchNorm2d(w), nn.Conv2d(w, 4, 1))
                for w in widths
            )
        )
        self.fc = nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(self.stem(images)).mean((2, 3)))


@given(st.lists(st.integers(1, 64), min_size=1, max_size=6), st.floats(0.3, 0.95))
def test_laws_hold_for_any_chain(widths: list[int], limit: float) -> None:
    module = Chain(widths)
    with mock.patch.object(traced, "LARGEST_SHARE", limit):
        stages = trace_stages(module, (3, 2, 2), head="fc")
    check_laws(module, stages)
    assert stages[-1].parameters == ("fc.weight", "fc.bias")
    assert stages[0].name == "stem"
    order = [name for name, _ in module.named_parameters()]
    assert [name for stage in stages for name in stage.parameters] == order


@given(st.integers(3, 8), st.integers(1, 32))
def test_equal_blocks_are_a_stage_each(count: int, width: int) -> None:
    stages = trace_stages(Chain([width] * count), (3, 2, 2), head="fc")
    assert [s.name for s in stages] == ["stem", *(f"body.{i}" for i in range(count)), "fc"]
