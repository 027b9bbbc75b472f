"""What a backbone with weights does: the freeze contract and the cut."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from coverage_shapes import CLASSES, CheckError, random_images, require
from transferkit.models.classifier import Classifier
from transferkit.models.freezing import freeze, param_groups, unfreeze
from transferkit.models.frozen_prefix import cut_at_boundary

_TOLERANCE = 1e-3


def check_contract(model: Classifier, images: Tensor, *, thorough: bool) -> None:
    """Frozen parts do the same in both modes, and a step of training changes nothing in them."""
    freeze(model)
    with torch.no_grad():
        still = model.eval().features(images)
        moving = model.train().features(images)
    require(bool(still.isfinite().all()), "features are not finite")
    require(torch.equal(still, moving), "frozen features differ between train and eval mode")
    _check_step(model, images, "all frozen")
    if thorough:
        middle = len(model.stages) // 2
        unfreeze(model, upto=middle)
        _check_step(model, images, f"frozen before {model.stages[middle].name}")


def _check_step(model: Classifier, images: Tensor, where: str) -> None:
    """Train one step: frozen tensors keep their bits, and the head learns."""
    frozen = _frozen_state(model)
    before = {name: tensor.clone() for name, tensor in frozen.items()}
    head = next(model.head.parameters())
    old_head = head.detach().clone()
    optimizer = torch.optim.SGD(param_groups(model, 0.1, decay=0.9, weight_decay=0.05))
    model.train()
    labels = torch.arange(len(images)) % CLASSES
    loss = sum(nn.functional.cross_entropy(logits, labels) for logits in model.outputs(images))
    require(isinstance(loss, Tensor), "no output")
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    changed = [
        name for name, tensor in _frozen_state(model).items() if _differ(before, name, tensor)
    ]
    require(not changed, f"{where}: a step of training changed {changed[:3]}")
    require(not torch.equal(head, old_head), f"{where}: a step of training left the head as it was")


def check_cut(model: Classifier, boundary: int) -> None:
    """The two parts give what the whole gives, in eval mode and, on one seed, in train mode."""
    unfreeze(model, upto=boundary)
    where = f"before {model.stages[boundary].name}"
    cut = cut_at_boundary(model, random_images(model, seed=2))
    if isinstance(cut, str):
        raise CheckError(f"{where}: {cut}")
    images = random_images(model, seed=3)
    for mode in ("eval", "train"):
        model.train(mode == "train")
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            want = _seeded(model, images)
            got = _seeded(cut.tail, *cut.prefix(images))
        error = float((got - want).abs().max() / want.abs().max().clamp(min=1e-6))
        require(error <= _TOLERANCE, f"{where}: {mode} mode differs by {error:.1e} of the logits")


def stir(model: Classifier) -> None:
    """Give vectors and zeros other values, so that no branch is silent; turn dropout up.

    Dropout in place is left as it is: timm's TNT cannot be trained with any of it.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                continue
            if parameter.ndim <= 1 or not parameter.any():
                noise = torch.rand(parameter.shape, generator=generator)
                parameter.add_(0.1 * (noise - 0.5))
    for module in model.modules():
        if isinstance(module, nn.Dropout) and not module.inplace:
            module.p = 0.5


def modes_differ(model: Classifier, images: Tensor) -> bool:
    """Whether a network that is not frozen gives other features in train mode."""
    with torch.no_grad():
        moving = model.train().features(images)
        still = model.eval().features(images)
    return not torch.equal(moving, still)


def _frozen_state(model: Classifier) -> dict[str, Tensor]:
    """Parameters that do not learn, and buffers of the modules of frozen stages."""
    parameters = {n: p.detach() for n, p in model.named_parameters() if not p.requires_grad}
    still = {
        f"{prefix}.{name}": buffer
        for prefix, module in model.named_modules()
        if not any(p.requires_grad for p in module.parameters())
        for name, buffer in module.named_buffers(recurse=False)
    }
    return parameters | still


def _differ(before: dict[str, Tensor], name: str, tensor: Tensor) -> bool:
    """Whether the bits changed."""
    old = before[name]
    if tensor.is_floating_point():
        old, tensor = old.nan_to_num(), tensor.nan_to_num()
    return not torch.equal(old, tensor)


def _seeded(function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    torch.manual_seed(0)
    return function(*arguments)
