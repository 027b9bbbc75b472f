"""The stages of any model: a classifier of ours, or a plain torchvision or timm model."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from transferkit.backbones.calls import Call, record_calls
from transferkit.backbones.stages import LARGEST_SHARE, Stage, trace_stages
from transferkit.data.given import described
from transferkit.errors import ConfigError, UnknownNameError
from transferkit.models.classifier import Classifier

_USUAL_SIDES = (224, 299, 256, 384, 64, 32)


def layout(model: nn.Module) -> tuple[Stage, ...]:
    """The stages of a model from input to output; the last is its head.

    The head of a plain timm model is the classifier that timm names. Of any other plain model
    it is the last part that is called and has parameters (``"fc"``, ``"classifier"``), so that
    a head of several layers put there by hand is one head; where that part holds most of the
    network (VGG, AlexNet), it is the last of its layers. A model without a classifier has an
    empty stage ``"head"``.

    Raises:
        ConfigError: It is no model, or takes no image of the sizes tried.
    """
    if isinstance(model, Classifier):
        return model.stages
    _require_module(model)
    refusals = []
    for size in _sizes(model):
        try:
            return trace_stages(model, size, head=_heads(model, size))
        except ConfigError as error:
            refusals.append(error)
    raise refusals[0]


def _require_module(value: object) -> None:
    if not isinstance(value, nn.Module):
        raise ConfigError(
            f"Expected a Classifier or another torch module, got {described(value)}. Build one "
            "with tk.create_classifier(name, num_classes)."
        )


def boundary_index(stages: tuple[Stage, ...], upto: object) -> int:
    """Position of the stage that ``upto`` means.

    Args:
        stages: The stages of a model.
        upto: A stage's name; a dotted prefix that covers consecutive stages (``"stages.2"`` for
            ``"stages.2.blocks.0"`` and on), which means the first of them; ``"head"`` for the
            last stage; or a position, from the end where negative.

    Raises:
        UnknownNameError: No such stage; the message lists them.
    """
    names = [stage.name for stage in stages]
    if isinstance(upto, int):
        if not -len(names) <= upto < len(names):
            raise UnknownNameError(
                f"No stage at position {upto} of {len(names)}: {', '.join(names)}."
            )
        return upto % len(names)
    if not isinstance(upto, str):
        raise ConfigError(f"upto must be a stage's name, a position or None, got {upto!r}.")
    if upto in names:
        return names.index(upto)
    if upto == "head":
        return len(names) - 1
    inside = [index for index, name in enumerate(names) if name.startswith(f"{upto}.")]
    if inside and inside[-1] - inside[0] == len(inside) - 1:
        return inside[0]
    raise UnknownNameError.among("stage", upto, names)


def _sizes(model: nn.Module) -> Iterator[tuple[int, int, int]]:
    """Input sizes worth trying, the likeliest first."""
    published = _published(model).get("input_size")
    channels, *_ = published if isinstance(published, tuple | list) else (3,)
    convolutions = (m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    depths = dict.fromkeys((next(convolutions, channels), channels, 3))
    own = [getattr(model, name, None) for name in ("image_size", "img_size")]
    own += [getattr(getattr(model, "patch_embed", None), "img_size", None)]
    sides = [tuple(published[1:])] if isinstance(published, tuple | list) else []
    sides = [_pair(side) for side in own if side] + sides + [_pair(s) for s in _USUAL_SIDES]
    for height, width in dict.fromkeys(sides):
        for depth in depths:
            yield depth, height, width


def _pair(side: int | tuple[int, int]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def _published(model: nn.Module) -> dict[str, object]:
    """What timm says of a model that it built; empty for any other."""
    config = getattr(model, "pretrained_cfg", None)
    return config if isinstance(config, dict) else {}


def _heads(model: nn.Module, size: tuple[int, int, int]) -> tuple[str, ...]:
    named = _published(model).get("classifier")
    names = (named,) if isinstance(named, str) else named
    known = {name for name, _ in model.named_modules()}
    if isinstance(names, tuple | list) and names and known.issuperset(names):
        return tuple(names)
    return (_last_part(model, record_calls(model, size)) or "head",)


def _last_part(model: nn.Module, root: Call) -> str | None:
    """Name of the part that classifies: the last one called, if it ends in a weight matrix."""
    modules = dict(model.named_modules())
    limit = LARGEST_SHARE * _size(model)
    call: Call | None = root
    while call and (call is root or _size(modules[call.name]) > limit):
        call = next((inner for inner in reversed(call.inner) if _size(modules[inner.name])), None)
    if call is None:
        return None
    own = [list(modules[leaf.name].parameters(recurse=False)) for leaf in call.leaves()]
    last = next((parameters for parameters in reversed(own) if parameters), None)
    return call.name if last and any(parameter.ndim > 1 for parameter in last) else None


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
