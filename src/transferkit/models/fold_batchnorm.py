"""Batch norm folded into the convolution before it, for networks that do not train.

In eval mode a batch norm is a fixed scale and shift of each channel, which the convolution before
it can do at no cost (Jacob et al. 2018, section 3.2, arXiv:1712.05877). The model itself is left
as it is: the folded weights take the place of its own only while its frozen part runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from transferkit.models.classifier import Classifier
from transferkit.models.prefix_cache import in_eval_mode

_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """A convolution, the batch norm after it, and what takes their place."""

    convolution: nn.Conv2d
    norm: nn.BatchNorm2d
    weight: nn.Parameter
    bias: nn.Parameter
    rest: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> _Pair:
        """Fold a batch norm, which has running statistics."""
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        weight, bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, mean, var, norm.eps, norm.weight, norm.bias
        )
        weight.requires_grad = bias.requires_grad = False
        return cls(convolution, norm, weight, bias, _after(norm))


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Batch norms that can be done by the convolutions before them; none by default."""

    pairs: tuple[_Pair, ...] = ()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the folded weights take the place of the own ones, and put those back after."""
        parameters = [dict(pair.convolution._parameters) for pair in self.pairs]
        forwards = [pair.norm.__dict__.get("forward") for pair in self.pairs]
        try:
            for pair in self.pairs:
                pair.convolution._parameters.update(weight=pair.weight, bias=pair.bias)
                pair.norm.__dict__["forward"] = pair.rest
            yield
        finally:
            for pair, own, forward in zip(self.pairs, parameters, forwards, strict=True):
                pair.convolution._parameters.update(own)
                del pair.norm.__dict__["forward"]
                if forward is not None:
                    pair.norm.__dict__["forward"] = forward


def fold_batch_norms(model: Classifier, example: Tensor) -> Fold:
    """Fold the batch norms of ``model`` that do not train into the convolutions before them.

    Holds while the weights of those modules stay as they are.

    Args:
        model: A classifier; nothing in it changes. What is in train mode is not folded.
        example: A few images (B, C, H, W) like those that it will see, on its device.

    Returns:
        The fold, after it has reproduced the features of the example; an empty one where there is
        nothing to fold, or where a network uses a convolution's output before its batch norm does.
    """
    images = example[:2]
    still = [module for module in model.backbone.modules() if not module.training]
    with in_eval_mode(model), torch.inference_mode():
        want, pairs = _observed(model, images, still)
        if not pairs:
            return Fold()
        fold = Fold(tuple(_Pair.of(*pair) for pair in pairs))
        with fold.applied():
            got = model.features(images)
    return fold if _close(got, want) else Fold()


def _observed(
    model: Classifier, images: Tensor, still: Sequence[nn.Module]
) -> tuple[Tensor, list[tuple[nn.Conv2d, nn.BatchNorm2d]]]:
    """The features, and each still batch norm that is given a still convolution's very output."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
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
        if norm.running_mean is not None and _parts(norm) is not None
    ]
    try:
        features = model.features(images)
    finally:
        for handle in handles:
            handle.remove()
    return features, [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]


def _parts(norm: nn.BatchNorm2d) -> tuple[nn.Module, ...] | None:
    """What a batch norm does after normalising; None for kinds that are not known here.

    (timm's own kind holds dropout and activation.)
    """
    names = [name for name, _ in norm.named_children()]
    if names == ["drop", "act"]:
        return tuple(norm.children())
    return () if type(norm) is nn.BatchNorm2d else None


def _after(norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
    parts = _parts(norm) or ()

    def run(values: Tensor) -> Tensor:
        for part in parts:
            values = part(values)
        return values

    return run


def _close(got: Tensor, want: Tensor) -> bool:
    scale = want.abs().amax().clamp(min=1e-6)
    return bool(((got - want).abs() <= _TOLERANCE * scale).all())
