"""The stages of a plain model: which images it takes, and which of its parts is the head."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from transferkit._format import describe
from transferkit.backbones.stages import (
    LARGEST_SHARE,
    Call,
    Stage,
    count_parameters,
    record_calls,
    trace_stages,
)
from transferkit.errors import ConfigError

_USUAL_SIDES = (224, 299, 256, 384, 64, 32)


def plain_stages(model: nn.Module) -> tuple[Stage, ...]:
    """The stages of a torchvision, timm or other torch model; the last is its head.

    A model without a classifier has an empty stage ``"head"``.
    """
    if isinstance(model, torch.jit.ScriptModule) or not isinstance(model, nn.Module):
        raise ConfigError(
            f"Expected a Classifier or another torch module, got {describe(model)}. Build one "
            "with tk.create_classifier(name, num_classes), or give the module that a TorchScript "
            "one was made of."
        )
    refusals = []
    for size in _input_sizes(model):
        try:
            return trace_stages(model, size, head=_head_names(model, size))
        except ConfigError as error:
            refusals.append(error)
    raise refusals[0]


def _input_sizes(model: nn.Module) -> Iterator[tuple[int, int, int]]:
    """Channels, height and width worth trying, the likeliest first."""
    published = _timm_config(model).get("input_size")
    channels, *sides = published if isinstance(published, tuple | list) else (3,)
    convolutions = (m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    depths = dict.fromkeys((next(convolutions, channels), channels, 3))
    own = [getattr(model, name, None) for name in ("image_size", "img_size")]
    own += [getattr(getattr(model, "patch_embed", None), "img_size", None), tuple(sides)]
    tried = [(side, side) if isinstance(side, int) else side for side in (*own, *_USUAL_SIDES)]
    for height, width in dict.fromkeys(filter(None, tried)):
        for depth in depths:
            yield depth, height, width


def _timm_config(model: nn.Module) -> dict[str, object]:
    """The pretrained configuration of a timm model; empty for any other."""
    config = getattr(model, "pretrained_cfg", None)
    return config if isinstance(config, dict) else {}


def _head_names(model: nn.Module, size: tuple[int, int, int]) -> tuple[str, ...]:
    """The classifier that timm names; of other models the last part called, such as ``"fc"``."""
    named = _timm_config(model).get("classifier")
    names = (named,) if isinstance(named, str) else named
    known = {name for name, _ in model.named_modules()}
    if isinstance(names, tuple | list) and names and known.issuperset(names):
        return tuple(names)
    return (_last_part(model, record_calls(model, size)) or "head",)


def _last_part(model: nn.Module, root: Call) -> str | None:
    """Name of the last part called that has parameters, if its own last are a weight matrix.

    A head of several layers is one part, unless it holds most of the network (VGG, AlexNet).
    """
    modules = dict(model.named_modules())
    limit = LARGEST_SHARE * count_parameters(model)
    call: Call | None = root
    while call and (call is root or count_parameters(modules[call.name]) > limit):
        inner = reversed(call.inner)
        call = next((part for part in inner if count_parameters(modules[part.name])), None)
    if call is None:
        return None
    own = [list(modules[leaf.name].parameters(recurse=False)) for leaf in call.leaves()]
    last = next((parameters for parameters in reversed(own) if parameters), None)
    return call.name if last and any(parameter.ndim > 1 for parameter in last) else None
