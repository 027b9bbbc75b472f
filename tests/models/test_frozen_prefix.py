"""Every cut against the uncut model: logits, gradients and running statistics, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import transferkit as tk
from transferkit.backbones.spec import Network
from transferkit.models.classifier import Classifier, Recipe
from transferkit.models.frozen_prefix import Cut, HeadCut, StageCut, cut_at_boundary

CASES = [
    ("resnet18", 64),
    ("mobilenet_v2", 64),
    ("squeezenet1_1", 64),
    ("densenet121", 64),
    ("googlenet", 64),
    ("shufflenet_v2_x0_5", 64),
    ("efficientnet_b0", 64),
    ("regnet_y_400mf", 64),
    ("timm/vit_tiny_patch16_224", 32),
    ("timm/coat_lite_tiny", 32),
    ("timm/convnext_atto", 64),
    ("timm/levit_128s", 64),
    ("timm/rexnet_100", 64),
    ("timm/mobilevit_xxs", 64),
    ("timm/crossvit_tiny_240", 28),
    ("timm/xcit_nano_12_p16_224", 64),
]


def step(model: nn.Module, forward: Callable[[], Tensor]) -> dict[str, Tensor]:
    """What a training pass yields, from one seed; leaves the buffers as they were."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    torch.manual_seed(3)
    logits = forward()
    model.zero_grad()
    logits.square().mean().backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    found |= {name: buffer.clone() for name, buffer in model.named_buffers()}
    for name, buffer in model.named_buffers():
        buffer.copy_(before[name])
    return {"logits": logits.detach(), **found}


def check(model: Classifier, cut: Cut, images: Tensor) -> None:
    """Both modes, with what crosses stored as arrays on the way."""
    stored = [torch.from_numpy(tensor.numpy().copy()) for tensor in cut.prefix(images)]
    originals = [tensor.clone() for tensor in stored]
    assert all(len(tensor) == len(images) and not tensor.requires_grad for tensor in stored)
    model.eval()
    with torch.no_grad():
        assert torch.equal(cut.tail(*stored), model(images))
    model.train()
    want = step(model, lambda: model(images))
    got = step(model, lambda: cut.tail(*stored))
    assert want.keys() == got.keys()
    assert [name for name in want if not torch.equal(got[name], want[name])] == []
    assert all(map(torch.equal, stored, originals))


def sampling(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(getattr(module, "drop_prob", None), float):
            module.drop_prob = 0.3


@pytest.mark.parametrize(("name", "size"), CASES)
def test_every_stage_can_be_cut(make, images: Tensor, name: str, size: int) -> None:
    model = make(name, image_size=size, dropout=0.3)
    sampling(model)
    stages = tk.stages(model)[1:]
    for stage in stages if len(stages) < 9 else (*stages[:-2:4], *stages[-2:]):
        tk.unfreeze(model, upto=stage)
        cut = cut_at_boundary(model, images)
        assert isinstance(cut, Cut), cut
        assert cut.stage == stage
        check(model, cut, images)


def test_shared_weights_and_several_streams(make, images: Tensor) -> None:
    model = make("timm/coat_tiny", image_size=32)
    for stage, crossing in (("serial_blocks2.1", 1), ("parallel_blocks.1", 3), (-2, 3)):
        tk.unfreeze(model, upto=stage)
        cut = cut_at_boundary(model, images)
        assert isinstance(cut, Cut), cut
        assert len(cut.prefix(images)) == crossing
        check(model, cut, images)


def test_a_frozen_backbone_is_cut_at_the_features(make, images: Tensor) -> None:
    model = make("resnet18").eval()
    tk.freeze(model)
    cut = cut_at_boundary(model, images)
    assert isinstance(cut, HeadCut)
    (features,) = cut.prefix(images)
    assert torch.equal(features, model.features(images))
    check(model, cut, images)


def test_nothing_of_the_model_changes(make, images: Tensor) -> None:
    model = make("resnet18")
    tk.unfreeze(model, upto="layer3")
    model.train()
    model.backbone.layer4.eval()
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    attributes = [set(module.__dict__) for module in model.modules()]
    random = torch.get_rng_state()
    cut = cut_at_boundary(model, images)
    assert isinstance(cut, Cut)
    cut.prefix(images)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert [set(module.__dict__) for module in model.modules()] == attributes
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_no_stage_frozen_means_no_cut(make, images: Tensor) -> None:
    cut = cut_at_boundary(make("resnet18"), images)
    assert cut == "no stage is frozen"


def test_parameters_frozen_by_hand_are_no_boundary(make, images: Tensor) -> None:
    model = make("resnet18")
    model.backbone.requires_grad_(False)
    assert isinstance(cut_at_boundary(model, images), str)


def test_half_precision_storage_will_do(make, images: Tensor) -> None:
    model = make("resnet18").eval()
    for upto in ("layer4", "head"):
        tk.unfreeze(model, upto=upto)
        cut = cut_at_boundary(model, images)
        logits = cut.tail(*(tensor.half() for tensor in cut.prefix(images)))
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, model(images), rtol=0.01, atol=0.01)


def test_one_image_is_example_enough(make, images: Tensor) -> None:
    model = make("resnet18").eval()
    tk.unfreeze(model, upto="layer4")
    cut = cut_at_boundary(model, images[:1])
    check(model, cut, images)


def test_the_prefix_stops_at_the_boundary(make, images: Tensor) -> None:
    model = make("resnet18")
    tk.unfreeze(model, upto="layer2")
    cut = cut_at_boundary(model, images)
    called: list[str] = []
    for name in ("layer1", "layer2", "layer4"):
        conv = model.get_submodule(f"backbone.{name}.0.conv1")
        conv.register_forward_hook(lambda *_, name=name: called.append(name))
    crossing = cut.prefix(images)
    assert called == ["layer1"]
    called.clear()
    cut.tail(*crossing)
    assert called == ["layer2", "layer4"]


def test_images_in_memory_order_cross_in_memory_order(make, images: Tensor) -> None:
    model = make("resnet18").to(memory_format=torch.channels_last)
    tk.unfreeze(model, upto="layer4")
    batch = images.contiguous(memory_format=torch.channels_last)
    cut = cut_at_boundary(model, batch)
    (crossing,) = cut.prefix(batch)
    assert crossing.shape == (4, 4, 4, 256)
    assert crossing.is_contiguous()
    check(model, cut, batch)


def block(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.SiLU())


class Blocks(nn.Module):
    """Four blocks, joined by a subclass."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block(3) for _ in range(4))


def classifier(backbone: nn.Module, width: int = 3) -> Classifier:
    torch.manual_seed(0)
    network = Network(backbone, width, (3, 8, 8), (0.5,) * 3, (0.5,) * 3, "bilinear", classifier="")
    recipe = Recipe("user/blocks", None, "linear", 0.0)
    return Classifier(network, nn.Linear(width, 2), classes=("a", "b"), recipe=recipe)


class UsesInputAgain(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        y = x
        for part in self.blocks:
            y = part(y)
        return (y + x.abs()).mean((2, 3))


class WritesInPlace(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        for part in self.blocks:
            x = part(x)
            x += 1
        return x.mean((2, 3))


class WritesToWhatItKeeps(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        kept = self.blocks[0](x)
        kept += 1
        y = self.blocks[2](self.blocks[1](kept))
        return (self.blocks[3](y) + kept).mean((2, 3))


class SequenceFirst(nn.Module):
    """Tokens (N, B, D), the batch second."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).permute(2, 0, 1)
        for part in self.blocks:
            tokens = part(tokens)
        return tokens.mean(0)


class Windowed(Blocks):
    """Each image is four windows, so four rows of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 4, 4)
        for part in self.blocks:
            windows = part(windows)
        return windows.mean((2, 3)).view(len(x), 4, 3).mean(1)


class Several(nn.Module):
    """A block that takes and returns a dictionary of a tensor, a size and a constant tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.part = block(3)

    def forward(self, values: dict[str, object]) -> dict[str, object]:
        image = self.part(values["image"])
        return {"image": image, "size": image.shape[2:], "grid": torch.arange(8.0)}


class PassesStructures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Several() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, object] = {"image": x}
        for part in self.blocks:
            values = part(values)
        height, width = values["size"]
        return (values["image"] * values["grid"]).sum((2, 3)) / (height * width)


STRANGE = [
    UsesInputAgain,
    WritesInPlace,
    WritesToWhatItKeeps,
    SequenceFirst,
    Windowed,
    PassesStructures,
]


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_networks_can_be_cut(kind: type[nn.Module]) -> None:
    model = classifier(kind())
    images = torch.rand(4, 3, 8, 8)
    for stage in tk.stages(model)[1:]:
        tk.unfreeze(model, upto=stage)
        cut = cut_at_boundary(model, images)
        assert isinstance(cut, Cut), cut
        check(model, cut, images)


class MixesImages(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks[1](self.blocks[0](x) + x.mean(0, keepdim=True))
        return self.blocks[3](self.blocks[2](y)).mean((2, 3))


class ReturnsTheMeanOfTheBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = block(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x).mean(0, keepdim=True)


class MixesInsideAStage(Blocks):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1] = ReturnsTheMeanOfTheBatch()

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks[0](x)
        return self.blocks[3](self.blocks[2](y + self.blocks[1](y))).mean((2, 3))


@pytest.mark.parametrize(
    ("kind", "says"),
    [(MixesImages, "differs from the uncut model"), (MixesInsideAStage, "mixes the images")],
)
def test_networks_that_mix_images_train_uncut(kind: type[nn.Module], says: str) -> None:
    model = classifier(kind())
    tk.unfreeze(model, upto="blocks.3")
    cut = cut_at_boundary(model, torch.rand(3, 3, 8, 8))
    assert isinstance(cut, str)
    assert says in cut


def test_too_little_memory_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier(UsesInputAgain())
    tk.unfreeze(model, upto="blocks.3")
    monkeypatch.setattr(StageCut, "tail", lambda *_: torch.empty(2**50))
    cut = cut_at_boundary(model, torch.rand(3, 3, 8, 8))
    assert isinstance(cut, str)
    assert "too little memory" in cut


class Skips(Blocks):
    """Each block takes the sum of some of all that came before it."""

    def __init__(self, wiring: list[list[bool]]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block(3) for _ in wiring)
        self.wiring = wiring

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        for part, taken in zip(self.blocks, self.wiring, strict=True):
            chosen = [m for m, t in zip(made, taken, strict=False) if t]
            made.append(part(sum(chosen, made[-1])))
        return made[-1].mean((2, 3))


@settings(deadline=None, max_examples=25)
@given(
    st.integers(3, 6).flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=n, max_size=n)
    )
)
def test_any_wiring_can_be_cut_and_no_needless_tensor_is_kept(wiring: list[list[bool]]) -> None:
    model = classifier(Skips(wiring))
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for index in range(1, len(wiring)):
        tk.unfreeze(model, upto=index)
        cut = cut_at_boundary(model, images)
        assert isinstance(cut, StageCut), cut
        check(model, cut, images)
        skipped = {
            source
            for taken in wiring[index:]
            for source in range(index)
            if source < len(taken) and taken[source]
        }
        assert set(cut.live) == skipped | {index}
