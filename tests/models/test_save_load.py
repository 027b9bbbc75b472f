"""A saved classifier is the same classifier."""

from __future__ import annotations

import json
import resource
from functools import partial
from pathlib import Path
from types import MethodType

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import transferkit as tk
from transferkit.errors import ConfigError, OutputError, UnknownNameError, WeightsError


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("mobilenet_v2", {"head": "mlp", "dropout": 0.3, "in_channels": 1}),
        ("googlenet", {"in_channels": 4}),
        ("timm/coat_tiny", {"image_size": 64}),
        ("timm/vit_tiny_patch16_224", {"image_size": 32, "classes": ["a", "b", "c"]}),
        ("inception_v3", {"image_size": 96}),
    ],
)
def test_it_predicts_bit_for_bit_the_same(make, tmp_path: Path, name: str, options: dict) -> None:
    model = make(name, **options).eval()
    path = tmp_path / "model.safetensors"
    tk.save_classifier(model, path)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    again = tk.load_classifier(path)
    assert torch.equal(torch.rand(1), expected)
    batch = torch.rand(2, options.get("in_channels", 3), 50, 70)
    assert torch.equal(again(batch), model(batch))
    assert not again.training
    assert (again.recipe, again.classes) == (model.recipe, model.classes)
    assert again.preprocess.recipe() == model.preprocess.recipe()
    assert [s.name for s in again.stages] == [s.name for s in model.stages]
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_it_knows_which_stages_were_frozen(make, tmp_path: Path, images: Tensor) -> None:
    model = make("resnet18")
    for upto, frozen in (("layer4", 4), (-1, 5), (0, 0)):
        tk.unfreeze(model, upto=upto)
        tk.save_classifier(model, tmp_path / "m.safetensors")
        again = tk.load_classifier(tmp_path / "m.safetensors")
        learning = [p.requires_grad for p in model.parameters()]
        assert [p.requires_grad for p in again.parameters()] == learning
        modes = [m.training for m in model.train().modules()]
        assert [m.training for m in again.train().modules()] == modes
        with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
            assert len(json.loads(file.metadata()["transferkit"])["frozen"]) == frozen


def test_a_changed_preprocessing_is_kept(make, tmp_path: Path, images: Tensor) -> None:
    model = make("resnet18").eval()
    model.preprocess = type(model.preprocess)(image_size=(32, 48), mean=[0.4], std=[0.3])
    tk.save_classifier(model, tmp_path / "m.safetensors")
    assert torch.equal(tk.load_classifier(tmp_path / "m.safetensors")(images), model(images))


def test_half_precision_is_kept(make, tmp_path: Path) -> None:
    model = make("resnet18")
    model.backbone.half()
    tk.save_classifier(model, tmp_path / "m.safetensors")
    again = tk.load_classifier(tmp_path / "m.safetensors")
    assert again.backbone.conv1.weight.dtype == torch.float16
    assert again.head.weight.dtype == torch.float32


def own_head(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, classes))


def test_a_head_of_your_own_is_given_again(make, tmp_path: Path, images: Tensor) -> None:
    model, path = make("resnet18", head=own_head).eval(), tmp_path / "m.safetensors"
    tk.save_classifier(model, path)
    with pytest.raises(ConfigError, match="Give the same callable"):
        tk.load_classifier(path)
    with pytest.raises(WeightsError, match=r"head\.0\.bias is unexpected"):
        tk.load_classifier(path, head=nn.Linear)
    assert torch.equal(tk.load_classifier(path, head=own_head)(images), model(images))
    tk.save_classifier(make("resnet18"), path)
    with pytest.raises(ConfigError, match="leave head= out"):
        tk.load_classifier(path, head=own_head)


@pytest.fixture
def saved(make, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    tk.save_classifier(make("squeezenet1_1"), path)
    return path


def rewrite(path: Path, *, tensors: dict | None = None, **changes: object) -> None:
    with safe_open(path, framework="pt") as file:
        recipe = {**json.loads(file.metadata()["transferkit"]), **changes}
    save_file(
        load_file(path) if tensors is None else tensors,
        path,
        metadata={"transferkit": json.dumps(recipe)},
    )


def test_a_newer_format_is_refused(saved: Path) -> None:
    rewrite(saved, format=99, version="9.0")
    with pytest.raises(WeightsError, match=r"format 99, written by transferkit 9\.0.*upgrade"):
        tk.load_classifier(saved)


@pytest.mark.parametrize("change", [{"format": None}, {"recipe": {"x": 1}}, {"preprocess": {}}])
def test_a_broken_recipe_is_refused(saved: Path, change: dict) -> None:
    rewrite(saved, **change)
    with pytest.raises(WeightsError, match=r"recipe in .* cannot be read"):
        tk.load_classifier(saved)


def test_other_tensors_are_refused(saved: Path) -> None:
    tensors = load_file(saved)
    tensors["head.weight"] = torch.zeros(4, 512)
    tensors["extra"] = tensors.pop("head.bias")
    rewrite(saved, tensors=tensors)
    says = r"extra is unexpected; head\.bias is missing; head\.weight is of shape \(4, 512\)"
    with pytest.raises(WeightsError, match=says):
        tk.load_classifier(saved)


def test_an_unregistered_backbone_is_named(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        recipe = json.loads(file.metadata()["transferkit"])["recipe"]
    rewrite(saved, recipe={**recipe, "backbone": "user/mine"})
    with pytest.raises(UnknownNameError, match="register_backbone"):
        tk.load_classifier(saved)


def test_files_that_are_no_classifier_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(WeightsError, match="no such file"):
        tk.load_classifier(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="no recipe"):
        tk.load_classifier(path)
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match="not a readable"):
        tk.load_classifier(path)
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="not a readable"):
        tk.load_classifier(path)


def test_a_path_that_cannot_be_written_is_named(make, tmp_path: Path) -> None:
    model = make("squeezenet1_1")
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in ("missing/m.safetensors", "file/m.safetensors", "folder"):
        with pytest.raises(OutputError, match=path.partition("/")[0]):
            tk.save_classifier(model, tmp_path / path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_failed_write_leaves_the_old_file(make, saved: Path, monkeypatch) -> None:
    before = saved.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("transferkit.models.save_load.save_file", fail)
    with pytest.raises(OutputError, match="No space left"):
        tk.save_classifier(make("resnet18"), saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


class Adapted(nn.Module):
    """A layer with a low-rank update, as LoRA adds it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.down = base, nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        return self.base(values) + self.up(self.down(values))


def replaced(model: tk.Classifier) -> None:
    model.head = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 3))


def without_weights_of_its_own(model: tk.Classifier) -> None:
    model.head = nn.Sequential(nn.Dropout(0.5), model.head)


def adapted(model: tk.Classifier) -> None:
    model.head = Adapted(model.head)


def pruned(model: tk.Classifier) -> None:
    prune.l1_unstructured(model.backbone.layer1[0].conv1, "weight", 0.3)


def normed(model: tk.Classifier) -> None:
    parametrizations.weight_norm(model.head)


def quantised(model: tk.Classifier) -> None:
    torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=True)


def with_another_eps(model: tk.Classifier) -> None:
    model.backbone.bn1.eps = 0.5


def with_another_padding(model: tk.Classifier) -> None:
    model.backbone.conv1.padding_mode = "reflect"


def with_another_stride(model: tk.Classifier) -> None:
    model.backbone.conv1.stride = (1, 1)


def hooked(model: tk.Classifier) -> None:
    model.backbone.layer4.register_forward_hook(lambda module, inputs, output: output * 2)


def hooked_before_preprocessing(model: tk.Classifier) -> None:
    model.preprocess.register_forward_pre_hook(lambda module, inputs: (255 - inputs[0],))


def patched(model: tk.Classifier) -> None:
    model.backbone.forward = MethodType(lambda self, images: images.mean((2, 3)), model.backbone)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_another_eps, r"backbone\.bn1\.eps is 0\.5, expected 1e-05\."),
        (with_another_padding, r"conv1\.padding_mode is 'reflect', expected 'zeros'\."),
        (with_another_stride, r"conv1\.stride is \(1, 1\), expected \(2, 2\)\."),
        (hooked, r": backbone\.layer4\._forward_hooks is unexpected\."),
        (hooked_before_preprocessing, r": preprocess\._forward_pre_hooks is unexpected\."),
        (patched, r": backbone\.forward is unexpected\."),
        (replaced, r"head is a .*Sequential, expected .*Linear"),
        (without_weights_of_its_own, r"head is a .*Sequential, expected .*Linear"),
        (adapted, r"head is a .*Adapted, expected .*Linear"),
        (pruned, r"backbone\.layer1\.0\.conv1\.weight is missing"),
        (normed, r"head is a .*ParametrizedLinear, expected .*Linear"),
        (quantised, r"head is a .*quantized.*Linear, expected .*Linear"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*quantiz")
def test_what_could_not_be_loaded_is_refused(make, tmp_path: Path, change, says: str) -> None:
    model = make("resnet18")
    change(model)
    with pytest.raises(ConfigError, match=says):
        tk.save_classifier(model, tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_another_dropout_is_refused(make, tmp_path: Path) -> None:
    model = make("resnet18", dropout=0.2)
    model.head[0].p = 0.7
    with pytest.raises(ConfigError, match=r"head\.0\.p is 0\.7, expected 0\.2"):
        tk.save_classifier(model, tmp_path / "m.safetensors")


def test_a_head_of_your_own_that_was_changed_is_refused(make, tmp_path: Path) -> None:
    model = make("resnet18", head=own_head)
    model.head = nn.Sequential(model.head)
    with pytest.raises(ConfigError, match=r"head\.0 is a .*Sequential, expected .*BatchNorm1d"):
        tk.save_classifier(model, tmp_path / "m.safetensors")
    model = make("resnet18", head=own_head)
    model.head[0].eps = 0.5
    with pytest.raises(ConfigError, match=r"head\.0\.eps is 0\.5, expected 1e-05"):
        tk.save_classifier(model, tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        ("efficientnet_b0", 64),
        ("swin_t", 64),
        ("regnet_y_400mf", 48),
        ("timm/levit_128s", 224),
    ],
)
def test_a_trained_and_frozen_classifier_is_saved(
    make, tmp_path: Path, name: str, image_size: int
) -> None:
    model = make(name, dropout=0.2, in_channels=1, image_size=image_size)
    tk.unfreeze(model, upto=2)
    batch = torch.rand(2, 1, 50, 70)
    model.train()(batch).sum().backward()
    before = model.eval()(batch)
    tk.save_classifier(model, tmp_path / "m.safetensors")
    assert torch.equal(tk.load_classifier(tmp_path / "m.safetensors")(batch), before)


def test_a_preprocessing_of_your_own_is_refused(make, tmp_path: Path) -> None:
    model = make("resnet18")
    model.preprocess = nn.Identity()
    with pytest.raises(ConfigError, match=r"got a Identity as model\.preprocess"):
        tk.save_classifier(model, tmp_path / "m.safetensors")


def test_a_mean_changed_in_place_is_kept(make, tmp_path: Path, images: Tensor) -> None:
    model = make("resnet18").eval()
    model.preprocess.mean += 0.1
    tk.save_classifier(model, tmp_path / "m.safetensors")
    again = tk.load_classifier(tmp_path / "m.safetensors")
    assert torch.equal(again.preprocess.mean, model.preprocess.mean)
    assert torch.equal(again(images), model(images))


def test_a_classifier_loaded_in_inference_mode_can_be_trained(saved: Path, images: Tensor) -> None:
    with torch.inference_mode():
        model = tk.load_classifier(saved)
    model(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


class Act(nn.Module):
    """An activation that is a setting, so that other functions have the same tensors."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, features: Tensor) -> Tensor:
        return self.function(features)


def head_with(function):
    return lambda width, classes: nn.Sequential(
        nn.Linear(width, 8), Act(function), nn.Linear(8, classes)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_head_that_computes_something_else_is_refused(make, tmp_path: Path, dtype) -> None:
    path = tmp_path / "m.safetensors"
    model = make("resnet18", head=head_with(torch.relu)).to(dtype)
    tk.save_classifier(model, path)
    for equal in (torch.relu, partial(torch.clamp, min=0), lambda x: x * (x > 0)):
        assert tk.load_classifier(path, head=head_with(equal)).num_classes == 3
    for other in (torch.tanh, lambda x: x.clamp(0, 6), lambda x: x, lambda x: -x):
        with pytest.raises(ConfigError, match="computes something else"):
            tk.load_classifier(path, head=head_with(other))
    model.head[1].function = torch.tanh
    with pytest.raises(ConfigError, match=r"head\.1\.function is"):
        tk.save_classifier(model, path)
    made = make("resnet18", head=head_with(lambda x: x.relu()))
    made.head[1].function = lambda x: x.tanh()
    with pytest.raises(ConfigError, match=r"head\.1\.function is .*<lambda>"):
        tk.save_classifier(made, path)
    random = make("resnet18", head=head_with(lambda x: nn.functional.dropout(x, 0.5)))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    tk.save_classifier(random, path)  # nothing to compare
    assert torch.equal(torch.rand(1), expected)
    assert tk.load_classifier(path, head=head_with(torch.relu)).num_classes == 3


def change_preprocess(**changes: object):
    return lambda saved: saved | {"preprocess": saved["preprocess"] | changes}


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "[" * 100_000,
        lambda _: "{" * 100_000,
        lambda _: "[]",
        lambda _: "3",
        change_preprocess(in_channels=10**9),
        change_preprocess(in_channels=10**9, mean=[0.5], std=[0.5]),
        change_preprocess(in_channels="3"),
        change_preprocess(in_channels=-1),
        change_preprocess(mean=[float("nan")] * 3),
        change_preprocess(std=[0.0] * 3),
        change_preprocess(image_size=[10**9, 10**9]),
        change_preprocess(image_size="wide"),
        lambda saved: saved | {"classes": ["a"] * 100_000},
        lambda saved: saved | {"frozen": ["a"] * 50},
        lambda saved: saved | {"recipe": saved["recipe"] | {"backbone": 5}},
        lambda saved: saved | {"recipe": saved["recipe"] | {"dropout": "much"}},
        lambda saved: saved | {"head_logits": [1, 2]},
        lambda saved: saved | {"head_logits": [[1.0] * 7] * 4},
    ],
)
def test_a_poisoned_recipe_is_refused_before_memory_is_taken(saved: Path, change) -> None:
    with safe_open(saved, framework="pt") as file:
        recipe = json.loads(file.metadata()["transferkit"])
    changed = change(recipe)
    text = changed if isinstance(changed, str) else json.dumps(changed)
    save_file(load_file(saved), saved, metadata={"transferkit": text})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(tk.TransferkitError) as error:
        tk.load_classifier(saved)
    assert len(str(error.value)) < 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB: 1 GiB


def test_integers_are_no_weights(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(saved)
    save_file(tensors | {"head.weight": tensors["head.weight"].long()}, saved, metadata=metadata)
    with pytest.raises(WeightsError, match=r"head.weight is of type torch.int64, expected"):
        tk.load_classifier(saved)
