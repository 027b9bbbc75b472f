"""torchvision's networks without their classifier, against torchvision's own."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision.models as tv
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import transferkit.backbones.weights as weights_module
from transferkit.backbones.catalog import build_network
from transferkit.backbones.spec import LicenseWarning
from transferkit.errors import ConfigError, WeightsError

SMALL = (
    "resnet18", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5",
    "mnasnet0_5", "mnasnet1_0", "regnet_y_400mf", "efficientnet_b0", "densenet121", "swin_t",
)  # fmt: skip


def original(name: str, **options: object) -> nn.Module:
    """The network as torchvision makes it, its numbers shuffled away from their starting values."""
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": True, "transform_input": True, "init_weights": False}
    module: nn.Module = tv.get_model(name, weights=None, **options)
    generator = torch.Generator().manual_seed(0)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.1)
    return module.eval()


def saved(module: nn.Module, path: Path) -> Path:
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, path)
    return path


def without_classifier(module: nn.Module, images: Tensor) -> Tensor:
    """Features of the original: the input of its last layer, and what follows it."""
    layers = [n for n, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    names = [n for n in layers if not n.startswith(("aux", "Aux"))]
    parent, _, child = names[-1].rpartition(".")
    setattr(module.get_submodule(parent), child, nn.Identity())
    with torch.no_grad():
        return module(images)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", SMALL)
def test_features_are_the_originals_bit_for_bit(name: str, tmp_path: Path) -> None:
    module = original(name)
    network = build_network(
        f"torchvision/{name}", weights=saved(module, tmp_path / "w.safetensors"), image_size=64
    )
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = network.module.eval()(images)
    assert torch.equal(features, without_classifier(module, images))
    assert features.shape == (2, network.feature_dim)
    assert network.input_size == (3, 64, 64)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_stay(name: str, tmp_path: Path) -> None:
    module = original(name)
    network = build_network(name, weights=saved(module, tmp_path / "w.safetensors"))
    side = network.input_size[1]
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        features = network.module.eval()(images)
        trained = network.module.train()(images)
    assert torch.equal(features, without_classifier(module, images))
    assert trained[0].shape == (2, network.feature_dim)
    assert len(trained) == 1 + len(network.aux)
    assert all(isinstance(network.module.get_submodule(n), nn.Linear) for n in network.aux)


def test_a_grey_inception_normalises_as_its_colour_one_does_inside(tmp_path: Path) -> None:
    path = saved(original("googlenet"), tmp_path / "w.safetensors")
    colour, grey = (build_network("googlenet", weights=path, in_channels=c) for c in (3, 1))
    image = torch.rand(1, 1, 64, 64)

    def features(network: object, images: Tensor) -> Tensor:
        mean = torch.tensor(network.mean).view(1, -1, 1, 1)  # type: ignore[attr-defined]
        std = torch.tensor(network.std).view(1, -1, 1, 1)  # type: ignore[attr-defined]
        with torch.no_grad():
            return network.module.eval()((images - mean) / std)  # type: ignore[attr-defined,no-any-return]

    assert (grey.mean, grey.std) == ((0.5,), (0.5,))
    expected = features(colour, image.expand(-1, 3, -1, -1))
    # the normalisation cancels in the inside of the image; its edges are padded with zeros alike
    torch.testing.assert_close(features(grey, image), expected, rtol=1e-4, atol=1e-5)


def test_more_or_fewer_channels_keep_the_weights(tmp_path: Path) -> None:
    path = saved(original("resnet18"), tmp_path / "w.safetensors")
    three, one, four = (
        build_network("torchvision/resnet18", weights=path, in_channels=c, image_size=32)
        for c in (3, 1, 4)
    )
    grey, (red, green, blue) = torch.randn(2, 1, 32, 32), torch.randn(3, 2, 1, 32, 32)
    shared_red = torch.cat([red / 2, green, blue, red / 2], dim=1) * (4 / 3)
    with torch.no_grad():
        for images, other, same in (
            (grey.expand(-1, 3, -1, -1), one, grey),
            (torch.cat([red, green, blue], dim=1), four, shared_red),
        ):
            expected = three.module.eval()(images)
            torch.testing.assert_close(other.module.eval()(same), expected, rtol=1e-4, atol=1e-5)
    assert (one.input_size, four.input_size) == ((1, 32, 32), (4, 32, 32))
    assert (len(one.mean), len(four.std)) == (1, 4)


def test_real_weights_fit(shared_path: Path) -> None:
    for name, file in (
        ("squeezenet1_1", "squeezenet1_1-imagenet1k_v1-fp16.safetensors"),
        ("mobilenet_v2", "mobilenet_v2-imagenet1k_v1-int8rounded-fp16.safetensors"),
    ):
        path = shared_path / "weights" / file
        network = build_network(name, weights=str(path), image_size=96)
        module: nn.Module = tv.get_model(name, weights=None)
        module.load_state_dict({k: v.float() for k, v in load_file(path).items()}, strict=False)
        images = torch.randn(2, 3, 96, 96)
        with torch.no_grad():
            features = network.module.eval()(images)
        assert torch.equal(features, without_classifier(module.eval(), images))
        assert {p.dtype for p in network.module.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "side"),
    [("resnet18", 28), ("mobilenet_v2", 28), ("squeezenet1_1", 28), ("vit_b_32", 64),
     ("swin_t", 28), ("swin_v2_t", 64), ("vgg11", 32), ("densenet121", 32), ("convnext_tiny", 32)],
)  # fmt: skip
def test_small_images(name: str, side: int) -> None:
    network = build_network(f"torchvision/{name}", weights=None, image_size=side)
    with torch.no_grad():
        assert network.module.eval()(torch.randn(2, 3, side, side)).ndim == 2


@pytest.mark.parametrize(
    ("name", "size", "works"),
    [("vit_b_16", 28, "32"), ("vit_b_16", (32, 64), "32"), ("maxvit_t", 64, "224"),
     ("inception_v3", 32, "96"), ("alexnet", 28, "64"), ("resnet18", 0, "positive")],
)  # fmt: skip
def test_sizes_that_cannot_be_name_sizes_that_can(
    name: str, size: int | tuple[int, int], works: str
) -> None:
    with pytest.raises(ConfigError, match=works):
        build_network(f"torchvision/{name}", weights=None, image_size=size)


def test_position_embeddings_follow_the_image_size(tmp_path: Path) -> None:
    module = original("vit_b_32")
    path = saved(module, tmp_path / "w.safetensors")
    network = build_network("torchvision/vit_b_32", weights=path, image_size=64)
    positions = network.module.get_parameter("encoder.pos_embedding")
    assert positions.shape == (1, 1 + 4, 768)
    published = module.get_parameter("encoder.pos_embedding")
    corners = published[0, 1:].reshape(7, 7, 768)[[0, 0, -1, -1], [0, -1, 0, -1]]
    torch.testing.assert_close(positions[0, 1:], corners)  # a 2 x 2 grid keeps the corners
    torch.testing.assert_close(positions[0, 0], published[0, 0])


class Downloads:
    """Stands for the network: gives each address a state dict made here."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state
        self.asked: list[tuple[str, dict[str, object]]] = []

    def __call__(self, url: str, **options: object) -> dict[str, Tensor]:
        self.asked.append((url, options))
        return self.state


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> Downloads:
    fake = Downloads({})
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fake)
    monkeypatch.setattr(weights_module, "_reach", lambda url: None)
    return fake


def test_a_tag_is_fetched_checked_and_never_unpickled(downloads: Downloads) -> None:
    module = original("resnet50")
    downloads.state = module.state_dict()
    network = build_network("resnet50.IMAGENET1K_V1", image_size=32)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        features = network.module.eval()(images)
    assert torch.equal(features, without_classifier(module, images))
    ((url, options),) = downloads.asked
    assert url == tv.ResNet50_Weights.IMAGENET1K_V1.url
    assert options["check_hash"] is True
    assert options["weights_only"] is True


def test_swag_weights_change_the_size_and_warn_of_their_licence(downloads: Downloads) -> None:
    downloads.state = original("vit_b_16", image_size=384).state_dict()
    with pytest.warns(LicenseWarning, match="cc-by-nc-4.0"):
        network = build_network("vit_b_16", weights="IMAGENET1K_SWAG_E2E_V1")
    assert network.input_size == (3, 384, 384)
    assert network.interpolation == "bicubic"


def test_keys_of_old_densenets_fit(downloads: Downloads) -> None:
    state = original("densenet121").state_dict()
    old = {
        key.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.").replace("conv2.", "conv.2."): value
        for key, value in state.items()
    }  # fmt: skip
    downloads.state = old
    network = build_network("torchvision/densenet121")
    key = "features.denseblock1.denselayer1.norm1.weight"
    assert torch.equal(network.module.get_parameter(key), state[key])


def test_vgg16_features_alone_leave_its_layers_random_and_finite(downloads: Downloads) -> None:
    state = original("vgg16").state_dict()
    nan = {k: v * float("nan") if k.startswith("classifier") else v for k, v in state.items()}
    downloads.state = nan
    network = build_network("torchvision/vgg16", weights="IMAGENET1K_FEATURES", image_size=32)
    assert torch.equal(
        network.module.get_parameter("features.0.weight"), state["features.0.weight"]
    )
    assert all(bool(p.isfinite().all()) for p in network.module.parameters())


def test_mnasnet_takes_a_file_that_names_no_layout_version(tmp_path: Path) -> None:
    module = original("mnasnet0_5")
    path = tmp_path / "plain.pth"
    torch.save(dict(OrderedDict(module.state_dict())), path)
    network = build_network("torchvision/mnasnet0_5", weights=path)
    assert torch.equal(
        network.module.get_parameter("layers.0.weight"), module.get_parameter("layers.0.weight")
    )


def test_no_network_names_the_offline_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(weights_module, "_reach", unreachable)
    with pytest.raises(WeightsError) as caught:
        build_network("torchvision/mnasnet1_3")
    message = str(caught.value)
    for part in ("torchvision/mnasnet1_3", ".safetensors", "weights=None", "transferkit"):
        assert part in message
