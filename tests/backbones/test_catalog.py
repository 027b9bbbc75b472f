"""Names, search and facts, held against the libraries' own listings and metadata."""

from __future__ import annotations

import subprocess
import sys
from math import isnan
from pathlib import Path

import pytest
import timm
import torchvision.models as tv
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg

from transferkit.backbones.catalog import build_network, get_backbone_spec, list_backbones, resolve
from transferkit.backbones.spec import packaged_rows
from transferkit.backbones.torchvision import SOURCE as TORCHVISION
from transferkit.errors import ConfigError, UnknownNameError


def bare(names: list[str]) -> list[str]:
    return [name.partition("/")[2] for name in names]


def test_every_torchvision_classifier_is_listed() -> None:
    listed = list_backbones(source="torchvision")
    assert bare(listed) == tv.list_models(module=tv)
    assert len(listed) >= 80


def test_every_timm_network_is_listed() -> None:
    assert bare(list_backbones(source="timm")) == timm.list_models()


def test_sources_come_in_order() -> None:
    sources = list(dict.fromkeys(name.partition("/")[0] for name in list_backbones()))
    assert sources[:3] == ["torchvision", "timm", "transferkit"]


def test_search_by_bare_name_full_name_and_any_case() -> None:
    found = list_backbones("resnet*")
    assert {"torchvision/resnet50", "timm/resnet50"} <= set(found)
    assert all(name.partition("/")[2].startswith("resnet") for name in found)
    assert list_backbones("ResNet18") == ["torchvision/resnet18", "timm/resnet18"]
    assert list_backbones("timm/resnet18") == ["timm/resnet18"]
    assert list_backbones("*/resnet18") == ["torchvision/resnet18", "timm/resnet18"]
    assert list_backbones("nothing_goes_by_this_name") == []


def test_pretrained_only() -> None:
    found = set(bare(list_backbones(source="timm", pretrained=True)))
    assert found == {name.partition(".")[0] for name in timm.list_models(pretrained=True)}
    assert found < set(bare(list_backbones(source="timm")))


def test_at_most_so_many_parameters() -> None:
    found = list_backbones("*resnet*", max_params=12_000_000)
    assert "torchvision/resnet18" in found
    assert "torchvision/resnet50" not in found


def test_an_unknown_source_lists_the_sources() -> None:
    with pytest.raises(UnknownNameError, match="torchvision"):
        list_backbones(source="keras")


def test_bare_names_prefer_torchvision() -> None:
    assert resolve("resnet50").full_name == "torchvision/resnet50"
    assert resolve("timm/resnet50").full_name == "timm/resnet50"
    assert resolve("vit_tiny_patch16_224").full_name == "timm/vit_tiny_patch16_224"


def test_tags_lead_to_the_library_that_has_them() -> None:
    timm_tag, torchvision_tag = resolve("resnet50.a2_in1k"), resolve("resnet50.IMAGENET1K_V1")
    assert (timm_tag.full_name, timm_tag.tag) == ("timm/resnet50", "a2_in1k")
    assert (torchvision_tag.full_name, torchvision_tag.tag) == (
        "torchvision/resnet50",
        "IMAGENET1K_V1",
    )


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("resnt50", "'resnet50'"),
        ("ResNet50", "'resnet50'"),
        ("resnext50", "mean 'resnext50_32x4d'"),
        ("vit_tiny", "mean 'vit_tiny_patch16_384'"),
        ("torchvision/resnet5", "'resnet50'"),
        ("timm/vit_tiny_patch16", "'vit_tiny_patch16_224'"),
        ("timm/resnet50.a1_ink", "'a1_in1k'"),
    ],
)
def test_unknown_names_give_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=nearest):
        resolve(wrong)


def test_a_long_list_of_names_is_given_only_where_none_is_near() -> None:
    with pytest.raises(UnknownNameError) as near:
        resolve("torchvision/resnet5O")
    assert "Known" not in str(near.value)
    with pytest.raises(UnknownNameError, match="Known: alexnet, convnext_base") as far:
        resolve("torchvision/qqqq")
    assert "Did you mean" not in str(far.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("timm/tv_resnet50", "timm/resnet50.tv_in1k"),
        ("tv_resnet50", "timm/resnet50.tv_in1k"),
        ("tf_efficientnet_b0_ns", "timm/tf_efficientnet_b0.ns_jft_in1k"),
        ("tf_efficientnet_b0_ns.any", "timm/tf_efficientnet_b0.ns_jft_in1k"),
    ],
)
def test_a_name_that_timm_retired_says_what_it_became(old: str, new: str) -> None:
    with pytest.raises(UnknownNameError, match=f"now named '{new}'"):
        resolve(old)
    assert resolve(new).full_name == new.partition(".")[0]


@pytest.mark.parametrize("name", ["resnet18.FOO", "timm/resnet18.FOO", "resnet18."])
def test_an_unknown_tag_lists_the_tags(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown weights of .*resnet18.*a1_in1k") as caught:
        get_backbone_spec(name)
    assert ("IMAGENET1K_V1" in str(caught.value)) is not name.startswith("timm/")


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "googlenet", "vit_b_16", "vgg11"])
def test_facts_of_torchvision_are_torchvisions(name: str) -> None:
    assert_published(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", tv.list_models(module=tv))
def test_facts_of_all_torchvision_are_torchvisions(name: str) -> None:
    assert_published(name)


def assert_published(name: str) -> None:
    spec = get_backbone_spec(f"torchvision/{name}")
    default = tv.get_model_weights(name).DEFAULT
    # torchvision counts these two without the auxiliary heads' classifiers it was trained with.
    if name != "googlenet":
        assert spec.num_params == default.meta["num_params"]
    assert spec.default_weights == spec.weights[0].tag == default.name
    assert spec.input_size[1] == default.transforms().crop_size[0]
    assert len(spec.stages) >= 3
    assert len(set(spec.stages)) == len(spec.stages)


def test_every_torchvision_tag_carries_what_is_published() -> None:
    for name in TORCHVISION.names():
        enum = tv.get_model_weights(name)
        specs = {spec.tag: spec for spec in TORCHVISION.weights(name)}
        assert specs.keys() == {member.name for member in enum}
        for member in enum:
            spec = specs[member.name]
            top1 = member.meta["_metrics"]["ImageNet-1K"]["acc@1"]
            assert spec.top1 == (None if isnan(top1) else top1)
            assert spec.mean == tuple(member.transforms().mean)
            assert spec.non_commercial is ("SWAG" in member.name)
            assert (spec.license == "cc-by-nc-4.0") is ("SWAG" in member.name)


def test_facts_of_timm_are_timms() -> None:
    spec = get_backbone_spec("timm/resnet50")
    config = get_pretrained_cfg("resnet50")
    assert (spec.num_params, spec.feature_dim) == (25_557_032, 2048)
    assert spec.stages[-1] == "layer4"
    assert spec.default_weights == config.tag
    assert spec.license == "apache-2.0"
    specs = {weights.tag: weights for weights in spec.weights}
    assert specs["fb_swsl_ig1b_ft_in1k"].non_commercial is True
    assert specs["a1h_in1k"].input_size == (3, 176, 176)


def test_a_tag_in_the_name_becomes_the_default() -> None:
    spec = get_backbone_spec("timm/resnet50.a1h_in1k")
    assert spec.default_weights == spec.weights[0].tag == "a1h_in1k"
    assert spec.input_size == (3, 176, 176)
    assert len(spec.weights) == len(get_backbone_spec("timm/resnet50").weights)


def test_a_spec_prints_and_exports() -> None:
    spec = get_backbone_spec("regnet_y_16gf")
    assert "cc-by-nc-4.0 (no commercial use)" in str(spec)
    exported = spec.to_dict()
    assert exported["input_size"] == [3, 224, 224]
    assert exported["weights"][0]["tag"] == "IMAGENET1K_V2"  # type: ignore[index,call-overload]


def test_torchvision_never_waits_for_timm() -> None:
    code = (
        "import sys, transferkit.backbones.catalog as c; assert 'torchvision' not in sys.modules;"
        "c.resolve('resnet18'); assert 'torchvision' in sys.modules;"
        "sys.exit('timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_packaged_measures_are_what_is_measured() -> None:
    measures = packaged_rows()
    assert measures.keys() >= set(list_backbones(source="torchvision"))
    for name in ("torchvision/mobilenet_v3_small", "timm/vit_tiny_patch16_224", "timm/resnet50"):
        spec = get_backbone_spec(name)
        assert measures[name].num_params == spec.num_params
        assert measures[name].feature_dim == spec.feature_dim
        assert measures[name].image_size == spec.input_size[1:]
        assert measures[name].stages == len(spec.stages)
        assert measures[name].gflops == spec.gflops


def test_every_backbone_is_measured() -> None:
    measures = packaged_rows()
    for source in ("torchvision", "timm", "transferkit"):
        names = list_backbones(source=source)
        assert measures.keys() >= set(names)
        assert all(measures[name].gflops for name in names)
    own = get_backbone_spec("transferkit/formula_resnet18")
    assert measures[own.name].num_params == own.num_params
    assert measures[own.name].stages == len(own.stages)


def test_the_cost_is_that_of_the_input() -> None:
    assert get_backbone_spec("resnet50").gflops == pytest.approx(4.089)
    smaller = get_backbone_spec("timm/resnet50.a1h_in1k")  # 176 pixels: not measured
    assert smaller.gflops is None
    assert "not known" in str(smaller)


def test_a_file_is_normalised_as_the_tag_in_the_name_says(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    module = timm.create_model("test_vit")
    path = tmp_path / "w.safetensors"
    save_file(module.state_dict(), path)
    plain = build_network("timm/test_vit", weights=path)
    assert build_network("timm/test_vit.r160_in1k", weights=str(path)).mean == plain.mean
    clip = build_network("timm/resnet50.fb_swsl_ig1b_ft_in1k", weights=None, in_channels=1)
    assert clip.mean == pytest.approx((0.449,), abs=1e-3)
    small = build_network("timm/resnet50.a1h_in1k", weights=None)
    assert small.input_size == (3, 176, 176)
    swag = build_network("regnet_y_16gf.IMAGENET1K_SWAG_E2E_V1", weights=None)
    assert (swag.input_size, swag.interpolation) == ((3, 384, 384), "bicubic")
    with pytest.raises(ConfigError, match="names its weights already"):
        build_network(name, weights="augreg_in21k")
