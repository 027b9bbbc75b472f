"""The freeze contract, on classifiers and on plain models."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import transferkit as tk
from transferkit.backbones.stages import Stage
from transferkit.errors import UnknownNameError
from transferkit.models.freezing import boundary_index, frozen_stages, is_held, layout

NAMES = [
    "resnet18",
    "mobilenet_v2",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "shufflenet_v2_x0_5",
    "timm/vit_tiny_patch16_224",
    "timm/convnext_atto",
    "timm/efficientnet_b0",
    "timm/coat_tiny",
    "timm/levit_128s",
]


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}


def sampling(model: nn.Module) -> nn.Module:
    """Raise every dropout and drop-path, so that one that samples cannot hide."""
    for module in model.modules():
        for rate in ("p", "drop_prob", "drop_rate"):
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.5)
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.5
    return model


@pytest.mark.parametrize("name", NAMES)
def test_frozen_features_are_the_same_in_both_modes(make, images: Tensor, name: str) -> None:
    model = sampling(make(name))
    assert not torch.equal(model.train().features(images), model.eval().features(images))
    tk.freeze(model)
    state = tensors(model)
    trained = model.train().features(images)
    assert model.training
    assert torch.equal(trained, model.eval().features(images))
    assert not changed(model, state)


@pytest.mark.parametrize("name", ["resnet18", "timm/vit_tiny_patch16_224", "timm/coat_tiny"])
def test_a_training_step_changes_the_head_only(make, images: Tensor, name: str) -> None:
    model = make(name).train()
    tk.freeze(model)
    before = tensors(model)
    optimizer = torch.optim.AdamW(tk.param_groups(model, 0.1, weight_decay=0.1))
    for _ in range(2):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    assert changed(model, before) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", NAMES)
def test_unfreezing_trains_exactly_the_stages_asked_for(make, name: str) -> None:
    model = make(name).train()
    stages = model.stages
    for index, stage in enumerate(stages):
        tk.unfreeze(model, upto=stage.name)
        expected = {p for later in stages[index:] for p in later.parameters}
        assert {n for n, p in model.named_parameters() if p.requires_grad} == expected
        held = [m for s in stages[:index] for m in s.modules]
        assert not any(model.get_submodule(m).training for m in held)
        assert [s.name for s in frozen_stages(model)] == [s.name for s in stages[:index]]
        grouped = [p for group in tk.param_groups(model, 1.0) for p in group["params"]]
        assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad}
        assert len(grouped) == len({id(p) for p in grouped})
    tk.unfreeze(model)
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())
    assert not any(is_held(m) for m in model.modules())


def test_norms_of_trainable_stages_learn_and_others_do_not(make, images: Tensor) -> None:
    model = make("resnet18").train()
    tk.unfreeze(model, upto="layer4")
    before = tensors(model)
    model(images)
    assert changed(model, before)
    assert all(".layer4." in name for name in changed(model, before))


def test_train_called_on_a_part_changes_nothing(make) -> None:
    model = make("resnet18")
    tk.unfreeze(model, upto="layer4")
    for module in model.modules():
        module.train()
    quiet = [n for n, m in model.backbone.named_modules() if not m.training]
    assert not any(name.startswith("layer4") for name in quiet)
    assert {"", "conv1", "bn1", "layer1", "layer3.0.bn1"} <= set(quiet)


def test_freezing_keeps_the_mode(make) -> None:
    for mode in (True, False):
        model = make("resnet18").train(mode)
        tk.freeze(model)
        assert (model.training, model.head.training) == (mode, mode)
        tk.unfreeze(model)
        assert {m.training for m in model.modules()} == {mode}


def by_pickle(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def by_torch(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, by_pickle, by_torch])
def test_a_copy_keeps_the_promise_and_its_independence(make, images: Tensor, copied) -> None:
    model = sampling(make("efficientnet_b0")).train()
    tk.unfreeze(model, upto="features.7")
    twin = copied(model)
    tk.unfreeze(model)
    tk.freeze(twin)
    state = tensors(twin)
    assert torch.equal(twin.train().features(images), twin.eval().features(images))
    assert not changed(twin, state)
    assert all(m.training for m in model.modules())


class FunctionalDropout(nn.Module):
    """Dropout as a function of the container's own mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4)) for _ in range(3)
        )
        self.fc = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        values = self.stem(images)
        for block in self.blocks:
            values = nn.functional.dropout(block(values), 0.5, self.training)
        return self.fc(values.mean((2, 3)))


def test_functional_dropout_of_a_container_does_not_sample(images: Tensor) -> None:
    model = FunctionalDropout()
    tk.unfreeze(model, upto="blocks.2")
    model.train()
    batch = images.float()
    assert torch.equal(model(batch), model(batch))
    tk.unfreeze(model, upto=0)
    assert not torch.equal(model(batch), model(batch))


class SharedDropout(nn.Module):
    """One dropout module that serves every stage."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout()
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), self.drop) for _ in range(4))
        )
        self.fc = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.blocks(images).mean((2, 3)))


def test_a_module_shared_with_a_frozen_stage_is_frozen(images: Tensor) -> None:
    model = SharedDropout()
    tk.unfreeze(model, upto="blocks.3")
    model.train()
    assert not model.drop.training
    assert model.blocks[3].training
    tk.unfreeze(model)
    assert model.drop.training


class NeverCalled(FunctionalDropout):
    """A module whose method is used and that is never called, as timm's rotary embeddings are."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1, 4)

    def forward(self, images: Tensor) -> Tensor:
        offset = self.embedding.weight.view(1, 4, 1, 1)
        if self.embedding.training:
            offset = 2 * offset
        return self.fc(self.blocks[0](self.stem(images) + offset).mean((2, 3)))


def test_a_module_that_is_never_called_is_frozen_with_its_parameters(images: Tensor) -> None:
    model = NeverCalled()
    tk.freeze(model)
    batch = images.float()
    assert torch.equal(model.train()(batch), model.eval()(batch))
    assert not model.embedding.weight.requires_grad
    tk.unfreeze(model)
    assert model.train().embedding.training


def small_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=64,
        patch_size=16,
        num_layers=3,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        dropout=0.5,
        attention_dropout=0.5,
        num_classes=3,
    )


PLAIN = [
    ("torchvision", "small_vit", {}),
    ("torchvision", "resnet18", {}),
    ("torchvision", "mobilenet_v2", {}),
    ("torchvision", "googlenet", {"init_weights": False}),
    ("timm", "vit_tiny_patch16_224", {"img_size": 64, "drop_rate": 0.3, "drop_path_rate": 0.3}),
    ("timm", "efficientnet_b0", {"drop_rate": 0.3, "drop_path_rate": 0.3}),
    ("timm", "convnext_atto", {"drop_path_rate": 0.3}),
    ("timm", "rexnet_100", {"drop_rate": 0.3, "drop_path_rate": 0.3}),
    ("timm", "inception_v4", {"drop_rate": 0.3}),
]


@pytest.mark.parametrize(("source", "name", "options"), PLAIN)
def test_plain_models_hold_the_contract(source: str, name: str, options: dict) -> None:
    if name == "small_vit":
        model = small_vit()
    elif source == "timm":
        model = timm.create_model(name, num_classes=3, **options)
    else:
        model = torchvision.models.get_model(name, weights=None, num_classes=3, **options)
    tk.freeze(model)
    head = layout(model)[-1]
    classifier = model.get_submodule(head.name)
    seen: list[Tensor] = []
    classifier.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    side = 96 if name == "inception_v4" else 64
    batch = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    state = tensors(model)
    model.train()
    model(batch)
    model.eval()
    model(batch)
    assert torch.equal(seen[0], seen[1])
    assert not changed(model, state)
    assert classifier.train().training
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(head.parameters)


def test_an_unknown_stage_lists_the_stages(make) -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'layer4'.*conv1, layer1"):
        tk.unfreeze(make("resnet18"), upto="layer44")


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(-5, 4), min_size=1, max_size=4), st.booleans())
def test_only_the_last_word_counts(boundaries: list[int], mode: bool) -> None:
    model, fresh = FunctionalDropout(), FunctionalDropout()
    for boundary in boundaries:
        tk.unfreeze(model, upto=boundary)
        model.train(mode)
    tk.unfreeze(fresh, upto=boundaries[-1])
    fresh.train(mode)
    assert [m.training for m in model.modules()] == [m.training for m in fresh.modules()]
    assert [p.requires_grad for p in model.parameters()] == [
        p.requires_grad for p in fresh.parameters()
    ]


class Jitter(nn.Module):
    """Used without being called, and without parameters."""

    def shift(self, images: torch.Tensor) -> torch.Tensor:
        return images + torch.rand(()) if self.training else images


class Jittered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.jitter = Jitter()
        self.one, self.two, self.three = (
            nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh()) for _ in range(3)
        )
        self.fc = nn.Linear(3, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.three(self.two(self.one(self.jitter.shift(images))))
        return self.fc(maps.mean((2, 3)))


def test_a_module_that_is_never_called_does_not_draw_when_what_is_around_it_is_frozen() -> None:
    model, images = Jittered(), torch.rand(2, 3, 8, 8)
    tk.freeze(model)
    assert torch.equal(model.train()(images), model.eval()(images))
    tk.unfreeze(model)
    assert not torch.equal(model.train()(images), model.eval()(images))


STAGE_NAMES = ("stem", "stages.0", "stages.2.down", "stages.2.blocks.0", "stages.2.blocks.1", "fc")
STAGES = tuple(Stage(name, (), ()) for name in STAGE_NAMES)


@pytest.mark.parametrize(
    ("upto", "index"),
    [
        ("stem", 0),
        ("stages", 1),
        ("stages.2", 2),
        ("stages.2.blocks", 3),
        ("stages.2.blocks.1", 4),
        ("head", 5),
        ("fc", 5),
        (0, 0),
        (-1, 5),
        (-6, 0),
    ],
)
def test_names_fine_and_coarse(upto: str | int, index: int) -> None:
    assert boundary_index(STAGES, upto) == index


@pytest.mark.parametrize("upto", ["stage", "stages.1", "stages.2.bl", "", 6, -7])
def test_an_unknown_name_or_position_lists_the_stages(upto: str | int) -> None:
    with pytest.raises(UnknownNameError, match=r"stem, stages\.0, stages\.2\.down"):
        boundary_index(STAGES, upto)


def test_a_prefix_of_scattered_stages_means_none() -> None:
    scattered = tuple(Stage(name, (), ()) for name in ("blocks.0.0", "pos.0", "blocks.0.1", "fc"))
    with pytest.raises(UnknownNameError, match=r"pos\.0"):
        boundary_index(scattered, "blocks.0")


@given(st.integers(-6, 5))
def test_positions_count_as_in_a_list(position: int) -> None:
    assert STAGES[boundary_index(STAGES, position)] is STAGES[position]


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "data parallel": nn.DataParallel,
    "average": AveragedModel,
    "average by timm": lambda model: timm.utils.ModelEmaV3(model),
    "compiled": torch.compile,  # the wrapper only: nothing runs it
    "compiled average": lambda model: torch.compile(AveragedModel(model)),
}


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("plain", [True, False])
def test_wrappers_are_taken_for_the_model_inside(wrap: str, plain: bool) -> None:
    model: nn.Module = torchvision.models.resnet18()
    if not plain:
        model = tk.create_classifier("resnet18", 2, weights=None)
    wrapper = WRAPPERS[wrap](model)
    inner = next(m for m in wrapper.modules() if type(m) is type(model))
    assert tk.stages(wrapper) == tk.stages(model)
    tk.unfreeze(wrapper, upto="layer4")
    tk.unfreeze(model, upto="layer4")
    frozen = [name for name, p in inner.named_parameters() if not p.requires_grad]
    assert frozen == [name for name, p in model.named_parameters() if not p.requires_grad]
    assert str(tk.summary(wrapper)) == str(tk.summary(model))
    wrapper.train()
    modes = [module.training for module in inner.modules()]
    assert modes == [module.training for module in model.train().modules()]
    counts = [len(group["params"]) for group in tk.param_groups(wrapper, 0.1)]
    assert counts == [len(group["params"]) for group in tk.param_groups(model, 0.1)]
    tk.freeze(wrapper)
    assert tk.summary(wrapper).trainable < tk.summary(model).trainable or inner is model


def test_a_wrapper_that_does_more_is_no_wrapper() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = torchvision.models.squeezenet1_1()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 2 * self.module(images)  # type: ignore[no-any-return]

    assert tk.stages(Twice())[0].startswith("module.")


def test_a_model_is_frozen_before_it_is_distributed(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", None, 1, 0)
    try:
        model = nn.parallel.DistributedDataParallel(torchvision.models.resnet18())
        assert tk.stages(model) == tk.stages(model.module)
        assert tk.summary(model).parameters == tk.summary(model.module).parameters
        for change in (tk.freeze, tk.unfreeze):
            with pytest.raises(tk.ConfigError, match=r"before.*DistributedDataParallel"):
                change(model)
    finally:
        torch.distributed.destroy_process_group()


def test_a_wrapped_classifier_is_named_where_one_is_needed() -> None:
    model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32)
    images = tk.phantom_splits(sizes=(4, 4, 4), image_size=32)["test"]
    for wrapper in (nn.DataParallel(model), torch.compile(model)):
        with pytest.raises(tk.ConfigError, match=r"classifier inside: model\.module"):
            tk.predict(wrapper, images)  # type: ignore[arg-type]
