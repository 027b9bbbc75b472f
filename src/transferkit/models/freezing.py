"""Freezing: which stages learn, and the promise that the others do not change at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from transferkit.backbones.stages import Stage
from transferkit.models.classifier import Classifier
from transferkit.models.layout import boundary_index, layout


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
