"""Layers that compute the same numbers faster: folded batch norms, and memory formats.

Folding, for frozen stages. With running mean m and variance v, scale g and shift b, a batch norm in
eval mode is the same affine map of each channel for every image, so the convolution before it
(weight W, bias a) can do its work at no cost (Jacob et al. 2018, section 3.2, arXiv:1712.05877):

    g (W x + a - m) / sqrt(v + eps) + b  =  s W x + (s (a - m) + b),   s = g / sqrt(v + eps)

Memory formats, for training on a CPU. Images come channels last (see
:class:`~transferkit.data.preprocess.Preprocess`), and convolutions keep the format of their input.
That is the fast one for large maps and for depthwise convolutions; on maps of a few pixels, dense
convolutions are faster with the channels first. The choice is a rule and not a measurement in each
run: on a busy machine a measurement would come out now one way and now the other, and two runs with
the same seed would not give the same weights bit for bit.

Their gains: ``benchmarks/ablation.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.hooks import RemovableHandle

from transferkit.backbones.stages import Stage, intercept_calls
from transferkit.models.classifier import Classifier, shared_copy
from transferkit.models.device import device_of

_TOLERANCE = 1e-4

SMALL_MAP = 64
"""Pixels of a map, 8 by 8, up to which a stage of dense convolutions takes channels first."""

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


def folded_copy(model: Classifier, example: Tensor, *, frozen_only: bool = False) -> Classifier:
    """A copy of ``model`` in eval mode with its batch norms folded, valid until its weights change.

    None is folded where the copy would not reproduce the features of ``example``.
    """
    images = example[:2]
    copy = shared_copy(model)
    kinds = nn.Conv2d | nn.BatchNorm2d
    layers = [(name, m) for name, m in copy.named_modules() if isinstance(m, kinds)]
    still = [name for name, m in layers if not (frozen_only and m.training)]
    copy.eval()
    with torch.no_grad():
        want, pairs = _observed(copy, images, still)
        for convolution, norm in pairs:
            _fold(convolution, norm)
        scale = want.abs().amax().clamp(min=1e-6)
        close = (copy.features(images) - want).abs() <= _TOLERANCE * scale
    # a network may use a convolution's output a second time, before its batch norm
    return copy if close.all() else shared_copy(model).eval()


def _observed(model: Classifier, images: Tensor, still: Sequence[str]) -> tuple[Tensor, list[Pair]]:
    """The features, and the pairs, among ``still``, of a convolution and the norm of its output."""
    modules = {name: model.get_submodule(name) for name in still}
    made: dict[int, tuple[nn.Conv2d, object]] = {}  # holds the outputs, so that no id comes twice
    pairs: list[Pair] = []
    calls: Counter[nn.Module] = Counter()

    def visit(name: str, args: tuple[object, ...], run: Callable[[], object]) -> object:
        module = modules[name]
        calls[module] += 1
        if isinstance(module, nn.BatchNorm2d) and args and id(args[0]) in made:
            pairs.append((made[id(args[0])][0], module))
        output = run()
        if isinstance(module, nn.Conv2d):
            made[id(output)] = (module, output)
        return output

    with intercept_calls(modules, visit):
        features = model.features(images)
    # weights that are used twice, with a batch norm for each use, cannot be folded
    return features, [
        (convolution, norm)
        for convolution, norm in pairs
        if calls[convolution] == calls[norm] == 1
        and norm.running_mean is not None
        and _after(norm) is not None
    ]


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
    """The steps of a batch norm after normalising; None for kinds that are not known here."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    if [name for name, _ in norm.named_children()] == ["drop", "act"]:  # timm's own kind
        return nn.Sequential(*norm.children())
    return None


@contextmanager
def fast_formats(model: Classifier) -> Iterator[None]:
    """Let each stage of ``model`` work in the memory format that suits it."""
    handles = choose_formats(model)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def choose_formats(model: Classifier) -> list[RemovableHandle]:
    """Hook the stages that work faster on channels first; on a GPU none."""
    if device_of(model).type != "cpu":
        return []
    first = [model.get_submodule(s.modules[0]) for s in model.stages[:-1] if _dense(model, s)]
    return [module.register_forward_pre_hook(_channels_first_if_small) for module in first]


def _dense(model: Classifier, stage: Stage) -> bool:
    """Whether a stage has convolutions larger than 1 x 1, and none of them is depthwise."""
    inside = (m for name in stage.modules for m in model.get_submodule(name).modules())
    spatial = [m for m in inside if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    return bool(spatial) and not any(m.groups == m.in_channels > 1 for m in spatial)


def _channels_first_if_small(_: nn.Module, inputs: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(
        value.contiguous(memory_format=torch.contiguous_format)
        if isinstance(value, Tensor) and value.ndim == 4 and value.shape[2:].numel() <= SMALL_MAP
        else value
        for value in inputs
    )
