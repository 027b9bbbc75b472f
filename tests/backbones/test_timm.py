"""timm's networks without their classifier, against timm's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import _builder, get_pretrained_cfg
from torch import Tensor, nn

import transferkit.backbones.weights as weights_module
from transferkit.backbones.catalog import build_network, get_backbone_spec
from transferkit.backbones.spec import LicenseWarning
from transferkit.backbones.timm import SOURCE
from transferkit.errors import ConfigError, WeightsError

# Small networks of different making: plain heads, two heads, pooled and hidden heads, batch-norm
# heads, tokens, windows, a linear stem, a space-to-depth stem.
SMALL = (
    "resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224",
    "levit_128s", "convnext_atto", "repvit_m0_9", "edgenext_xx_small", "ghostnet_050",
    "test_vit", "test_efficientnet", "xcit_nano_12_p16_224", "mobilevit_xxs", "fasternet_t0",
)  # fmt: skip


def needs(name: str) -> None:
    if name not in SOURCE.names():
        pytest.skip("the installed timm is older than this network")


def original(name: str, **options: object) -> nn.Module:
    needs(name.partition(".")[0])
    module: nn.Module = timm.create_model(name, **options)
    generator = torch.Generator().manual_seed(0)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.1)
    return module.eval()


def saved(module: nn.Module, path: Path) -> Path:
    save_file({k: v.clone().contiguous() for k, v in module.state_dict().items()}, path)
    return path


def features_of(module: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return module.eval()(images)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", SMALL)
def test_features_are_the_originals_bit_for_bit(name: str, tmp_path: Path) -> None:
    module = original(name)
    network = build_network(f"timm/{name}", weights=saved(module, tmp_path / "w.safetensors"))
    images = torch.randn(2, *network.input_size)
    module.reset_classifier(0)  # type: ignore[operator]
    assert torch.equal(features_of(network.module, images), features_of(module, images))
    assert network.feature_dim == features_of(module, images).shape[1]
    assert network.classifier


@pytest.mark.parametrize("name", ["resnet10t", "test_vit", "levit_128s", "convnext_atto"])
def test_grey_equals_three_equal_channels(name: str, tmp_path: Path) -> None:
    path = saved(original(name), tmp_path / "w.safetensors")
    three, one = (build_network(f"timm/{name}", weights=path, in_channels=c) for c in (3, 1))
    grey = torch.randn(2, *one.input_size)
    expected = features_of(three.module, grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(features_of(one.module, grey), expected, rtol=1e-3, atol=1e-4)
    assert one.input_size[0] == len(one.mean) == len(one.std) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["naflexvit_base_patch16_gap", "tresnet_m"])
def test_stems_over_gathered_pixels_keep_their_weights(name: str, tmp_path: Path) -> None:
    path = saved(original(name), tmp_path / "w.safetensors")
    three, one, four = (build_network(name, weights=path, in_channels=c) for c in (3, 1, 4))
    grey = torch.randn(1, *one.input_size)
    expected = features_of(three.module, grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(features_of(one.module, grey), expected, rtol=1e-3, atol=1e-4)
    colour = torch.randn(1, *three.input_size)
    shared = torch.cat([colour[:, :1] / 2, colour[:, 1:], colour[:, :1] / 2], dim=1) * (4 / 3)
    expected = features_of(three.module, colour)
    torch.testing.assert_close(features_of(four.module, shared), expected, rtol=1e-3, atol=1e-4)


def test_a_fixed_stem_refuses_other_channels() -> None:
    needs("csatv2")
    with pytest.raises(ConfigError, match=r"csatv2.*in_channels must be 3"):
        build_network("csatv2", weights=None, in_channels=1)


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet10t", 28), ("vit_tiny_patch16_224", 32), ("vit_tiny_patch16_224", (32, 64)),
     ("swin_tiny_patch4_window7_224", 28), ("convnext_atto", 32), ("deit_tiny_patch16_224", 64)],
)  # fmt: skip
def test_other_sizes(name: str, size: int | tuple[int, int]) -> None:
    if name.startswith("swin"):
        needs("gemma4_vit_167m_enc")  # an older timm's windows cannot be so small
    network = build_network(f"timm/{name}", weights=None, image_size=size)
    height, width = (size, size) if isinstance(size, int) else size
    assert network.input_size == (3, height, width)
    features = features_of(network.module, torch.randn(2, 3, height, width))
    assert features.shape == (2, network.feature_dim)


def test_position_embeddings_are_resampled_as_timm_does(tmp_path: Path) -> None:
    module = original("vit_tiny_patch16_224")
    path = saved(module, tmp_path / "w.safetensors")
    network = build_network("vit_tiny_patch16_224", weights=path, image_size=64)
    module.set_input_size(img_size=64)  # type: ignore[operator]
    module.reset_classifier(0)  # type: ignore[operator]
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(features_of(network.module, images), features_of(module, images))


def test_a_size_that_cannot_be_names_sizes_that_can() -> None:
    with pytest.raises(ConfigError, match=r"28 x 28.*patches of 16 x 16.*32, 48, 64"):
        build_network("vit_tiny_patch16_224", weights=None, image_size=28)


def test_a_network_without_weights_says_so() -> None:
    assert SOURCE.weights("resnet50t") == ()
    with pytest.raises(WeightsError, match="no pretrained weights"):
        build_network("resnet50t")


def test_a_file_with_another_number_of_classes_fits(tmp_path: Path) -> None:
    for name in ("resnet10t", "convnext_atto", "deit_tiny_distilled_patch16_224", "levit_128s"):
        module = original(name, num_classes=7)
        network = build_network(name, weights=saved(module, tmp_path / "w.safetensors"))
        images = torch.randn(1, *network.input_size)
        module.reset_classifier(0)  # type: ignore[operator]
        assert torch.equal(features_of(network.module, images), features_of(module, images))


def test_a_file_without_its_classifier_fits(tmp_path: Path) -> None:
    module = original("resnet10t", num_classes=0)
    path = saved(module, tmp_path / "w.safetensors")
    images = torch.randn(1, 3, 64, 64)
    network = build_network("timm/resnet10t", weights=path)
    assert torch.equal(features_of(network.module, images), features_of(module, images))


def test_a_file_that_lacks_a_key_is_refused_even_where_timm_is_lenient(tmp_path: Path) -> None:
    for name in ("resnet10t", "dla46_c"):
        state = {k: v.clone() for k, v in original(name).state_dict().items()}
        gone = next(iter(state))
        del state[gone]
        save_file(state, tmp_path / "w.safetensors")
        with pytest.raises(WeightsError, match=f"1 missing: {gone}"):
            build_network(name, weights=tmp_path / "w.safetensors")


def test_the_original_layout_goes_through_timms_filter(tmp_path: Path) -> None:
    """Meta's layout of ConvNeXt, inside a checkpoint, becomes timm's."""
    module = original("convnext_atto")
    state = module.state_dict()
    meta = {
        k.replace("stem.", "downsample_layers.0.")
        .replace(".downsample.", "_down.")
        .replace(".blocks.", ".")
        .replace("conv_dw", "dwconv")
        .replace("mlp.fc1", "pwconv1")
        .replace("mlp.fc2", "pwconv2")
        .replace("head.norm.", "norm.")
        .replace("head.fc.", "head."): v.clone()
        for k, v in state.items()
    }
    meta = {
        k.replace(f"stages.{i}_down.", f"downsample_layers.{i}."): v
        for i in (1, 2, 3)
        for k, v in meta.items()
        if f"stages.{i}_down." in k
    } | {k: v for k, v in meta.items() if "_down." not in k}
    torch.save({"model": meta}, tmp_path / "meta.pth")
    network = build_network("timm/convnext_atto", weights=tmp_path / "meta.pth")
    images = torch.randn(1, 3, 64, 64)
    module.reset_classifier(0)  # type: ignore[operator]
    assert torch.equal(features_of(network.module, images), features_of(module, images))


class Hub:
    """Stands for the Hugging Face hub: gives each repository a state dict made here."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.state: dict[str, Tensor] = {}

    def __call__(self, repository: str, *_: object, **options: object) -> dict[str, Tensor]:
        self.asked.append(repository)
        assert options["weights_only"] is True
        return {key: value.clone() for key, value in self.state.items()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub()
    monkeypatch.setattr(_builder, "load_state_dict_from_hf", fake)
    monkeypatch.setattr(weights_module, "_reach", lambda url: None)
    return fake


@pytest.mark.parametrize(
    "full",
    ["resnet18.a1_in1k", "resnet18.gluon_in1k", "vit_tiny_patch16_224.augreg_in21k",
     "mobilenetv3_small_050.lamb_in1k", "mixer_b16_224.goog_in21k"],
)  # fmt: skip
def test_tags_load_through_timms_own_path(full: str, hub: Hub) -> None:
    module = original(full)
    hub.state = module.state_dict()
    network = build_network(f"timm/{full}")
    images = torch.randn(1, *network.input_size)
    module.reset_classifier(0)  # type: ignore[operator]
    assert torch.equal(features_of(network.module, images), features_of(module, images))
    assert hub.asked == [get_pretrained_cfg(full).hf_hub_id]


def test_a_tag_brings_its_own_normalisation(hub: Hub) -> None:
    hub.state = original("vit_small_patch16_224.dino").state_dict()
    dino = build_network("vit_small_patch16_224", weights="dino", in_channels=1, image_size=32)
    assert dino.mean == pytest.approx((sum((0.485, 0.456, 0.406)) / 3,))
    plain = build_network("vit_small_patch16_224", weights=None, image_size=32)
    assert plain.mean == (0.5, 0.5, 0.5)


def test_non_commercial_tags_warn(hub: Hub) -> None:
    hub.state = original("resnet18").state_dict()
    with pytest.warns(LicenseWarning, match="fb_swsl_ig1b_ft_in1k.*cc-by-nc-4.0"):
        build_network("resnet18.fb_swsl_ig1b_ft_in1k")


def test_no_network_names_the_offline_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(weights_module, "_reach", unreachable)
    with pytest.raises(WeightsError, match=r"timm/resnet10t.*\.safetensors.*weights=None"):
        build_network("timm/resnet10t")


def test_timms_loading_is_put_back(hub: Hub) -> None:
    before = _builder.load_pretrained
    hub.state = {"none": torch.ones(1)}
    with pytest.raises(WeightsError, match="resnet10t"):
        build_network("timm/resnet10t")
    assert _builder.load_pretrained is before


def test_an_encoder_without_classifier_gives_vectors() -> None:
    needs("gemma4_vit_167m_enc")
    encoders = {name for name in SOURCE.names() if name.endswith("_enc")}
    assert len(encoders) >= 7
    spec = get_backbone_spec("timm/mobilenetv5_300m_enc")
    assert spec.feature_dim == 2048
    assert spec.num_params > 2e8
    tokens = get_backbone_spec("timm/gemma4_vit_167m_enc")
    assert tokens.feature_dim == 768
    assert len(tokens.stages) >= 3
