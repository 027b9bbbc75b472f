"""Batch norms folded into the convolutions before them, where neither trains.

With running mean m and variance v, scale g and shift b, a batch norm in eval mode is the same
affine map of each channel c for every image, so the convolution before it (weight W, bias a, no
bias being a = 0) can do its work at no cost (Jacob et al. 2018, section 3.2, arXiv:1712.05877):

    g (W x + a - m) / sqrt(v + eps) + b  =  W' x + a'
    with  W' = s W,  a' = s (a - m) + b,  s = g / sqrt(v + eps)  for each output channel
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from transferkit.models.classifier import Classifier, shared_copy

_TOLERANCE = 1e-4

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


def folded_copy(model: Classifier, example: Tensor, *, frozen_only: bool = False) -> Classifier:
    """A copy of ``model`` in eval mode, sharing its tensors, with its batch norms folded.

    Valid until the model's weights change. Nothing is folded where the copy would not reproduce the
    features of the example.

    Args:
        model: A classifier; nothing in it changes.
        example: Images (B, C, H, W) on its device; two are used.
        frozen_only: Fold only what is in eval mode now, such as frozen stages in train mode.
    """
    images = example[:2]
    copy = shared_copy(model)
    still = [m for m in copy.backbone.modules() if not (frozen_only and m.training)]
    copy.eval()
    with torch.no_grad():
        want, pairs = _observed(copy, images, still)
        for convolution, norm in pairs:
            _fold(convolution, norm)
        scale = want.abs().amax().clamp(min=1e-6)
        close = (copy.features(images) - want).abs() <= _TOLERANCE * scale
    # a network may use a convolution's output a second time, before its batch norm
    return copy if close.all() else shared_copy(model).eval()


def _observed(
    model: Classifier, images: Tensor, still: Sequence[nn.Module]
) -> tuple[Tensor, list[Pair]]:
    """The features, and the pairs of a convolution and the batch norm that takes its output.

    Only pairs among ``still`` whose two modules are called once: weights that are used twice, with
    batch norms of their own, cannot be folded.
    """
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # holds the outputs, so that no id comes twice
    pairs: list[Pair] = []
    calls: dict[nn.Module, int] = {}

    def after_convolution(module: nn.Conv2d, _: object, output: Tensor) -> None:
        made[id(output)] = (module, output)
        calls[module] = calls.get(module, 0) + 1

    def before_norm(module: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))

    convolutions = [module for module in still if isinstance(module, nn.Conv2d)]
    norms = [module for module in still if isinstance(module, nn.BatchNorm2d)]
    handles = [module.register_forward_hook(after_convolution) for module in convolutions]
    handles += [
        norm.register_forward_pre_hook(before_norm)
        for norm in norms
        if norm.running_mean is not None and _after(norm) is not None
    ]
    try:
        features = model.features(images)
    finally:
        for handle in handles:
            handle.remove()
    return features, [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Give a convolution the work of the batch norm after it; the norm then only does the rest."""
    mean, var, rest = norm.running_mean, norm.running_var, _after(norm)
    assert mean is not None
    assert var is not None
    assert rest is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, mean, var, norm.eps, norm.weight, norm.bias
    )
    # into the dictionaries: assigning to convolution.weight is refused where it is parametrised
    convolution._parameters.update(weight=weight, bias=bias)
    norm.__dict__["forward"] = rest


def _after(norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor] | None:
    """What a batch norm does after normalising; None for kinds that are not known here."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    if [name for name, _ in norm.named_children()] == ["drop", "act"]:  # timm's own kind
        return nn.Sequential(*norm.children())
    return None
