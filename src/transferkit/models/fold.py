"""Batch norm folded into the convolution before it, for prefixes that are run again and again.

In eval mode a batch norm is a fixed scale and shift of each channel, which the convolution before
it can do at no cost (Jacob et al. 2018, section 3.2, arXiv:1712.05877). The model itself is left
as it is: the folded weights take the place of its own only while a prefix runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from transferkit.models.boundary import Cut
from transferkit.models.freezing import is_held

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


class FoldedCut(Cut):
    """A cut whose prefix runs with its batch norms folded; equal to float tolerance."""

    def __init__(self, cut: Cut, pairs: tuple[_Pair, ...]) -> None:
        self.cut = cut
        self.pairs = pairs
        self.model = cut.model
        self.stage = cut.stage

    def prefix(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the frozen stages, folded; see ``Cut``."""
        with _folded(self.pairs):
            return self.cut.prefix(images)

    def tail(self, *crossing: Tensor) -> Tensor:
        """Run the rest; see ``Cut``."""
        return self.cut.tail(*crossing)


def fold_batch_norms(cut: Cut, example: Tensor) -> Cut:
    """Fold the frozen batch norms of a cut's prefix into the convolutions before them.

    Args:
        cut: A cut of a classifier; nothing in the classifier changes.
        example: A few images (B, C, H, W) like those that it will see, on its device.

    Returns:
        A cut with a faster prefix, checked on the example; the same cut where there is nothing
        to fold, or where a network uses a convolution's output before its batch norm does.
    """
    images = example[:2]
    want, pairs = _observed(cut, images)
    folded = FoldedCut(cut, tuple(_Pair.of(*pair) for pair in pairs))
    got = folded.prefix(images)
    return folded if pairs and all(map(_close, got, want)) else cut


def _observed(
    cut: Cut, images: Tensor
) -> tuple[tuple[Tensor, ...], list[tuple[nn.Conv2d, nn.BatchNorm2d]]]:
    """What crosses, and each frozen batch norm that is given a convolution's very output."""
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

    held = [module for module in cut.model.backbone.modules() if is_held(module)]
    convolutions = [module for module in held if isinstance(module, nn.Conv2d)]
    norms = [module for module in held if isinstance(module, nn.BatchNorm2d)]
    handles = [module.register_forward_hook(after_convolution) for module in convolutions]
    handles += [
        norm.register_forward_pre_hook(before_norm)
        for norm in norms
        if norm.running_mean is not None and _parts(norm) is not None
    ]
    try:
        crossing = cut.prefix(images)
    finally:
        for handle in handles:
            handle.remove()
    return crossing, [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]


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


@contextmanager
def _folded(pairs: tuple[_Pair, ...]) -> Iterator[None]:
    """Let the folded weights take the place of the own ones, and put those back after."""
    before = [(dict(p.convolution._parameters), p.norm.__dict__.get("forward")) for p in pairs]
    try:
        for pair in pairs:
            pair.convolution._parameters.update(weight=pair.weight, bias=pair.bias)
            pair.norm.__dict__["forward"] = pair.rest
        yield
    finally:
        for pair, (parameters, forward) in zip(pairs, before, strict=True):
            pair.convolution._parameters.update(parameters)
            del pair.norm.__dict__["forward"]
            if forward is not None:
                pair.norm.__dict__["forward"] = forward
