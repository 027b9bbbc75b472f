"""Freezing: which stages learn, and the promise that the others do not change at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from torch import nn

from transferkit._format import describe, table
from transferkit._typing import JSON
from transferkit.backbones.meta_forward import Call, record_calls
from transferkit.backbones.stages import LARGEST_SHARE, Stage, trace_stages
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
            f"Expected a Classifier or another torch module, got {describe(value)}. Build one "
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


class KeepEval:
    """Takes the place of a module's ``train``: the module stays in eval mode.

    The children are still told the mode, so that a trainable part inside a container that
    also holds frozen ones learns as usual. Survives pickling and deep copies.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        """Keep the module in eval mode and pass ``mode`` on to its children."""
        self.module.training = False
        for child in self.module.children():
            child.train(mode)
        return self.module


def stages(model: nn.Module) -> tuple[str, ...]:
    """Names of the stages of a model from input to output; the last is the head.

    Args:
        model: A ``Classifier``, or a plain torchvision or timm model.

    Example:
        >>> import torchvision
        >>> import transferkit as tk
        >>> tk.stages(torchvision.models.resnet18())
        ('conv1', 'layer1', 'layer2', 'layer3', 'layer4', 'fc')
    """
    return tuple(stage.name for stage in layout(model))


def freeze(model: nn.Module) -> None:
    """Freeze every stage but the head, as ``unfreeze(model, upto=-1)`` does.

    Args:
        model: A ``Classifier``, or a plain torchvision or timm model.

    Example:
        >>> import transferkit as tk
        >>> model = tk.create_classifier("resnet18", 2, weights=None)
        >>> tk.freeze(model)
        >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        ['head.weight', 'head.bias']
        >>> _ = model.train()
        >>> model.backbone.training, model.head.training
        (False, True)
    """
    unfreeze(model, upto=-1)


def unfreeze(model: nn.Module, upto: str | int | None = None) -> None:
    """Make exactly the stages from ``upto`` to the head trainable, and freeze those before.

    A frozen stage has no parameter that requires a gradient, and stays in eval mode through
    every ``.train()``: its normalisation layers do not update and its dropout and drop-path do
    not sample. A module that holds stages on both sides stays in eval mode itself and passes
    the mode on. What was frozen or trainable before does not matter.

    Args:
        model: A ``Classifier``, or a plain torchvision or timm model.
        upto: A stage's name; a dotted prefix of consecutive stages (the first of them is
            meant); a position, from the end where negative (-1 is the head); or None for the
            whole model.

    Raises:
        UnknownNameError: No such stage; the message lists them.

    Example:
        >>> import transferkit as tk
        >>> model = tk.create_classifier("resnet18", 2, weights=None)
        >>> tk.unfreeze(model, upto="layer4")
        >>> print(tk.summary(model))
        torchvision/resnet18
        stage   parameters  trainable      state
        ------  ----------  ---------  ---------
        conv1        9,536          0     frozen
        layer1     147,968          0     frozen
        layer2     525,568          0     frozen
        layer3   2,099,712          0     frozen
        layer4   8,393,728  8,393,728  trainable
        head         1,026      1,026  trainable
        total   11,177,538  8,394,754
    """
    parts = layout(model)
    first = 0 if upto is None else boundary_index(parts, upto)
    frozen, trainable = parts[:first], parts[first:]
    names = {name for stage in frozen for name in stage.parameters}
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(name not in names)
    mode = _mode(model, parts[-1])
    held = _held(model, frozen, trainable)
    for module in model.modules():
        if is_held(module):
            del module.__dict__["train"]
        if module in held:
            module.__dict__["train"] = KeepEval(module)
    model.train(mode)


def frozen_stages(model: nn.Module) -> tuple[Stage, ...]:
    """The leading stages that are frozen, parameters and mode, as ``unfreeze`` leaves them."""
    parts = layout(model)
    parameters = dict(model.named_parameters())
    modules = dict(model.named_modules())

    def is_frozen(stage: Stage) -> bool:
        still = not any(parameters[name].requires_grad for name in stage.parameters)
        return still and all(is_held(modules[name]) for name in stage.modules)

    first = next((i for i, stage in enumerate(parts) if not is_frozen(stage)), len(parts))
    return parts[:first]


def is_held(module: nn.Module) -> bool:
    """Whether a module is kept in eval mode by a freeze."""
    return isinstance(module.__dict__.get("train"), KeepEval)


def _mode(model: nn.Module, head: Stage) -> bool:
    """The mode that was last asked for: of the head's modules, which are never held."""
    known = dict(model.named_modules())
    return any(known[name].training for name in head.modules) if head.modules else model.training


def _held(model: nn.Module, frozen: Sequence[Stage], trainable: Sequence[Stage]) -> set[nn.Module]:
    """Modules to keep in eval mode: those of frozen stages, and containers of any of them.

    A module without parameters that belongs to no stage, because it is used without being called
    (the position embeddings of DINOv3, which are jittered in training), is kept too.
    """
    if not frozen:
        return set()
    scope = model.backbone if isinstance(model, Classifier) else model
    still = _inside(model, frozen)
    learning = _inside(model, trainable)
    names = {name for stage in frozen for name in stage.parameters}
    quiet = {id(parameter) for name, parameter in model.named_parameters() if name in names}
    for module in scope.modules():
        own = [id(parameter) for parameter in module.parameters()]
        if quiet.issuperset(own) and (own or module not in learning):
            still.add(module)
    around = {
        module
        for module in scope.modules()
        if module not in learning and not still.isdisjoint(module.modules())
    }
    return still | around


def _inside(model: nn.Module, stages: Iterable[Stage]) -> set[nn.Module]:
    """Every module of some stages, with all that is inside."""
    known = dict(model.named_modules())
    named = (known[name] for stage in stages for name in stage.modules)
    return {inner for module in named for inner in module.modules()}


@dataclass(frozen=True, slots=True)
class StageSummary:
    """One stage of a model.

    Attributes:
        name: Name of the stage.
        parameters: How many numbers its parameters hold.
        trainable: How many of them learn.
    """

    name: str
    parameters: int
    trainable: int

    @property
    def state(self) -> str:
        """``"trainable"``, ``"frozen"`` or ``"partly"``."""
        if self.trainable == self.parameters:
            return "trainable"
        return "partly" if self.trainable else "frozen"


@dataclass(frozen=True, slots=True)
class Summary:
    """The stages of a model, from input to output.

    Attributes:
        name: The backbone's full name, or the class of a plain model.
        stages: One entry a stage; the last is the head.
    """

    name: str
    stages: tuple[StageSummary, ...]

    @property
    def parameters(self) -> int:
        """How many numbers the parameters hold."""
        return sum(stage.parameters for stage in self.stages)

    @property
    def trainable(self) -> int:
        """How many of them learn."""
        return sum(stage.trainable for stage in self.stages)

    def to_dict(self) -> dict[str, JSON]:
        """The summary as plain data."""
        rows: list[JSON] = [{**asdict(stage), "state": stage.state} for stage in self.stages]
        totals: dict[str, JSON] = {"parameters": self.parameters, "trainable": self.trainable}
        return {"name": self.name, **totals, "stages": rows}

    def __str__(self) -> str:
        rows = [(s.name, f"{s.parameters:,}", f"{s.trainable:,}", s.state) for s in self.stages]
        rows.append(("total", f"{self.parameters:,}", f"{self.trainable:,}", ""))
        return f"{self.name}\n" + table(("stage", "parameters", "trainable", "state"), rows)


def summary(model: nn.Module) -> Summary:
    """Tabulate the stages of a model; print the result to read it.

    Args:
        model: A ``Classifier``, or a plain torchvision or timm model.

    Example:
        >>> import transferkit as tk
        >>> model = tk.create_classifier("resnet18", 2, weights=None)
        >>> tk.freeze(model)
        >>> table = tk.summary(model)
        >>> table.trainable, table.parameters
        (1026, 11177538)
        >>> [stage.name for stage in table.stages if stage.state == "frozen"]
        ['conv1', 'layer1', 'layer2', 'layer3', 'layer4']
    """
    parts = layout(model)
    parameters = dict(model.named_parameters())
    name = model.name if isinstance(model, Classifier) else type(model).__name__
    rows = []
    for stage in parts:
        own = [parameters[key] for key in stage.parameters]
        learning = sum(p.numel() for p in own if p.requires_grad)
        rows.append(StageSummary(stage.name, sum(p.numel() for p in own), learning))
    return Summary(name, tuple(rows))
