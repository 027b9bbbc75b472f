"""What shapes and flags show of a backbone, on networks without memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from transferkit.backbones.skeleton import skeleton
from transferkit.errors import ConfigError
from transferkit.models.classifier import Classifier, create_classifier
from transferkit.models.freezing import freeze, param_groups, unfreeze

CLASSES = 7
BATCH = 3

_SIDES = (64, 56, 96, 112, 128, 160, 192, 224, 256)


class CheckError(Exception):
    """Something is not as promised."""


def require(holds: bool, otherwise: str) -> None:
    """Fail a check, with a reason, unless something holds."""
    if not holds:
        raise CheckError(otherwise)


@dataclass(slots=True)
class Seen:
    """What one forward pass shows.

    Attributes:
        order: The stages, in the order in which the modules that open them are first called.
        features: Shape of what the head is given.
        logits: Shape of what it returns.
    """

    order: list[str]
    features: tuple[int, ...] = ()
    logits: tuple[int, ...] = ()


def observe(model: Classifier) -> Seen:
    """Watch one forward pass in eval mode."""
    seen = Seen([])
    modules = dict(model.backbone.named_modules())

    def opened(name: str, *_: object) -> None:
        if name not in seen.order:
            seen.order.append(name)

    def classified(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        opened("head")
        seen.features = tuple(args[0].shape)

    handles = [
        module.register_forward_pre_hook(partial(opened, stage.name))
        for stage in model.stages[:-1]
        if (module := modules.get(stage.name.removeprefix("backbone.")))
    ]
    handles.append(model.head.register_forward_pre_hook(classified))
    try:
        seen.logits = tuple(model.eval()(random_images(model)).shape)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def check_width(model: Classifier, seen: Seen) -> None:
    """The features are as wide as stated, and as the library states where it does."""
    wide = model.feature_dim
    require(seen.features == (BATCH, wide), f"features {seen.features}, stated {wide}")
    stated = getattr(model.backbone, "head_hidden_size", None)
    require(stated in (None, wide), f"{wide}, timm says {stated}")


def check_stages(model: Classifier, seen: Seen) -> None:
    """Three named stages or more, in the order they are called, with every parameter once."""
    stages = model.stages
    names = [stage.name for stage in stages]
    require(len(set(names)) == len(names), f"names are not unique: {names}")
    require(len(names) > 3, f"only {names} before the head")
    require(all(names) and names[-1] == "head", f"no proper names: {names}")
    held = [name for stage in stages for name in stage.parameters]
    known = {name for name, _ in model.named_parameters()}
    require(len(set(held)) == len(held), "a parameter is in two stages")
    require(set(held) == known, f"parameters left out: {sorted(known.symmetric_difference(held))}")
    empty = [stage.name for stage in stages if not stage.parameters]
    require(not empty, f"stages without parameters: {empty}")
    require(seen.order == names, f"called in the order {seen.order}, listed as {names}")


def check_channels(name: str, channels: int, size: tuple[int, int]) -> None:
    """It builds for so many channels, and takes such images."""
    model = meta_classifier(name, channels=channels)
    require(model.preprocess.in_channels == channels, "the preprocessing has other channels")
    require(model.preprocess.image_size == size, "the image size changed")
    shape = tuple(model(random_images(model)).shape)
    require(shape == (BATCH, CLASSES), f"logits {shape}")


def check_freezing(model: Classifier) -> None:
    """At every boundary, exactly the right parameters learn and modules keep still."""
    stages = model.stages
    freeze(model)
    _check_boundary(model, len(stages) - 1)
    for position in range(len(stages)):
        unfreeze(model, upto=stages[position].name)
        _check_boundary(model, position)
    unfreeze(model, upto=-2)
    _check_boundary(model, len(stages) - 2)
    unfreeze(model)
    _check_boundary(model, 0)


def _check_boundary(model: Classifier, first: int) -> None:
    stages = model.stages
    where = f"boundary at {stages[first].name}"
    learning = {name for stage in stages[first:] for name in stage.parameters}
    parameters = dict(model.named_parameters())
    trainable = {name for name, p in parameters.items() if p.requires_grad}
    require(trainable == learning, f"{where}: {sorted(trainable ^ learning)[:3]}")
    groups = param_groups(model, 0.1, decay=0.9, weight_decay=0.05)
    grouped = [id(p) for group in groups for p in group["params"]]
    require(len(set(grouped)) == len(grouped), f"{where}: a parameter is in two groups")
    wanted = {id(parameters[name]) for name in learning}
    require(set(grouped) == wanted, f"{where}: the optimizer does not hold what learns")
    _check_modes(model, first, where)


def _check_modes(model: Classifier, first: int, where: str) -> None:
    """After ``train()``, modules of frozen stages are in eval mode, those of the rest are not."""
    model.train()
    frozen = _inside(model, [name for stage in model.stages[:first] for name in stage.modules])
    learning = _inside(model, [name for stage in model.stages[first:] for name in stage.modules])
    for name, module in model.backbone.named_modules():
        own = list(module.parameters())
        if module in frozen or (own and not any(p.requires_grad for p in own)):
            require(not module.training, f"{where}: {name} is frozen and in train mode")
        elif module in learning:
            require(module.training, f"{where}: {name} learns and is in eval mode")
        elif not frozen.isdisjoint(module.modules()):
            require(not module.training, f"{where}: {name} holds frozen parts and is in train mode")
    require(model.head.training, f"{where}: the head is in eval mode")


def meta_classifier(name: str, *, channels: int = 3) -> Classifier:
    model = skeleton(lambda: create_classifier(name, CLASSES, weights=None, in_channels=channels))
    require(isinstance(model, Classifier), "not a classifier")
    return cast(Classifier, model)


def had_classifier(model: Classifier) -> bool:
    """Whether the library's own network has a classifier; timm's encoders cannot reset one."""
    backbone = getattr(model.backbone, "encoder", model.backbone)
    return not model.name.startswith("timm/") or (
        hasattr(backbone, "reset_classifier") or hasattr(model.backbone, "reset_classifier")
    )


def small_size(name: str, own: tuple[int, int]) -> tuple[int, int]:
    """The first of some small image sizes that the network takes, or its own."""
    for side in _SIDES:
        if side * side >= own[0] * own[1]:
            continue
        try:
            skeleton(
                lambda side=side: create_classifier(name, CLASSES, weights=None, image_size=side)
            )
        except ConfigError:
            continue
        return side, side
    return own


def random_images(model: Classifier, *, seed: int = 0) -> Tensor:
    """Random images of the size that the model takes."""
    device = next(model.parameters()).device
    shape = (BATCH, model.preprocess.in_channels, *model.preprocess.image_size)
    if device.type == "meta":
        return torch.empty(shape, dtype=torch.uint8, device=device)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _inside(model: Classifier, names: Sequence[str]) -> set[nn.Module]:
    modules = dict(model.named_modules())
    return {inner for name in names for inner in modules[name].modules()}
