"""Freezing: which stages train, and the promise that the others do not change at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import TypedDict

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from transferkit._format import table
from transferkit._typing import JSON
from transferkit._validation import check_number
from transferkit.backbones.stages import Stage, unwrap
from transferkit.errors import ConfigError, UnknownNameError
from transferkit.models.classifier import Classifier
from transferkit.models.plain_model import plain_stages


def layout(model: nn.Module) -> tuple[Stage, ...]:
    """The stages of a classifier or a plain model from input to output; the last is its head."""
    return model.stages if isinstance(model, Classifier) else plain_stages(model)


def boundary_index(stages: tuple[Stage, ...], upto: object) -> int:
    """Position of the stage that ``upto`` means, as in :func:`unfreeze`."""
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


class KeepEval:
    """Takes the place of a frozen module's ``train``: the module stays in eval mode.

    ``training = False`` alone would not last, since every ``model.train()`` sets it again. An
    object and not a closure, so that it can be pickled, and in a deep copy holds the copied module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        """Pass ``mode`` on to the children only, some of which may be trainable."""
        self.module.training = False
        for child in self.module.children():
            child.train(mode)
        return self.module


def stages(model: nn.Module) -> tuple[str, ...]:
    """Names of the stages of a model from input to output; the last is the head.

    Args:
        model: A ``Classifier``, or a plain torchvision or timm model; one that is compiled,
            averaged or wrapped in DataParallel is taken for the model inside.

    Example:
        >>> import torchvision
        >>> import transferkit as tk
        >>> tk.stages(torchvision.models.resnet18())
        ('conv1', 'layer1', 'layer2', 'layer3', 'layer4', 'fc')
    """
    return tuple(stage.name for stage in layout(unwrap(model)))


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
    not sample. A module that holds frozen and trainable stages stays in eval mode itself and
    passes the mode on. What was frozen or trainable before does not matter.

    Args:
        model: A ``Classifier``, or a plain torchvision or timm model.
        upto: A stage's name (``"layer3"``); a dotted prefix of consecutive stages (``"stages.2"``
            for ``"stages.2.blocks.0"`` and on), which means the first of them; ``"head"`` for the
            last stage; a position, from the end where negative; or None for the whole model.

    Raises:
        UnknownNameError: No such stage; the message lists them.
        ConfigError: The model is wrapped in DistributedDataParallel already.

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
    if isinstance(model, DistributedDataParallel):
        raise ConfigError(
            "A model must be frozen before it is wrapped in DistributedDataParallel, which settles "
            "then which gradients it shares. Freeze or unfreeze model.module, and wrap that anew."
        )
    model = unwrap(model)
    parts = layout(model)
    first = 0 if upto is None else boundary_index(parts, upto)
    frozen, trainable = parts[:first], parts[first:]
    names = {name for stage in frozen for name in stage.parameters}
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(name not in names)
    # the mode that the model was last set to is that of the head, which always follows it
    head = [model.get_submodule(name) for name in parts[-1].modules] or [model]
    mode = any(module.training for module in head)
    held = _held(model, frozen, trainable)
    for module in model.modules():
        if is_held(module):
            del module.__dict__["train"]
        if module in held:
            module.__dict__["train"] = KeepEval(module)
    model.train(mode)


def frozen_stages(model: nn.Module) -> tuple[Stage, ...]:
    """The stages, from the input on, that ``unfreeze`` froze: parameters and mode."""
    parameters = dict(model.named_parameters())

    def is_frozen(stage: Stage) -> bool:
        still = not any(parameters[name].requires_grad for name in stage.parameters)
        return still and all(is_held(model.get_submodule(name)) for name in stage.modules)

    return tuple(takewhile(is_frozen, layout(model)))


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters, and the persistent buffers of modules in train mode, by name."""
    names = {n for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    for prefix, module in model.named_modules():
        if module.training:
            names |= {name for name, _ in module.named_buffers(prefix, recurse=False)}
    state = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if name in names}


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All other parameters and persistent buffers, which no training step changes."""
    trained = trained_tensors(model)
    state = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if name not in trained}


def is_held(module: nn.Module) -> bool:
    """Whether ``unfreeze`` keeps a module in eval mode."""
    return isinstance(module.__dict__.get("train"), KeepEval)


def _held(model: nn.Module, frozen: Sequence[Stage], trainable: Sequence[Stage]) -> set[nn.Module]:
    """The modules to keep in eval mode: those of frozen stages, and containers of any of them."""
    if not frozen:
        return set()
    scope = model.backbone if isinstance(model, Classifier) else model
    held = _inside(model, frozen)
    in_trainable = _inside(model, trainable)
    names = {name for stage in frozen for name in stage.parameters}
    frozen_ids = {id(parameter) for name, parameter in model.named_parameters() if name in names}
    for module in scope.modules():
        # a module that is used without being called belongs to no stage: it is held where all its
        # parameters are frozen, also where it has none (DINOv3's jittered position embeddings)
        own = [id(parameter) for parameter in module.parameters()]
        if frozen_ids.issuperset(own) and (own or module not in in_trainable):
            held.add(module)
    containers = {
        module
        for module in scope.modules()
        if module not in in_trainable and not held.isdisjoint(module.modules())
    }
    return held | containers


def _inside(model: nn.Module, stages: Iterable[Stage]) -> set[nn.Module]:
    """Every module of some stages, with all that is inside."""
    named = (model.get_submodule(name) for stage in stages for name in stage.modules)
    return {inner for module in named for inner in module.modules()}


class ParamGroup(TypedDict):
    """One parameter group of a torch optimizer, named after the stage it belongs to."""

    params: list[nn.Parameter]
    lr: float
    weight_decay: float
    name: str


def param_groups(
    model: nn.Module, lr: float, *, decay: float = 1.0, weight_decay: float = 0.0
) -> list[ParamGroup]:
    """Parameter groups of exactly the trainable parameters, stage by stage, input first.

    The head has learning rate ``lr``, the stage before it ``lr * decay``, and so on towards the
    input (discriminative fine-tuning: Howard and Ruder 2018, section 3.2, arXiv:1801.06146).

    Args:
        model: A ``Classifier``, or a plain torchvision or timm model.
        lr: Learning rate of the head.
        decay: Factor of the learning rate at each stage towards the input, in (0, 1].
        weight_decay: Weight decay of matrices and convolutions. Vectors and scalars (biases,
            normalisation) are not decayed; they have a group of their own, "<stage>, vectors".

    Raises:
        ConfigError: An option outside its range.

    Example:
        >>> import torch
        >>> import transferkit as tk
        >>> model = tk.create_classifier("resnet18", 2, weights=None)
        >>> tk.unfreeze(model, upto="layer3")
        >>> groups = tk.param_groups(model, lr=0.01, decay=0.5)
        >>> [(group["name"], group["lr"]) for group in groups]
        [('layer3', 0.0025), ('layer4', 0.005), ('head', 0.01)]
        >>> optimizer = torch.optim.AdamW(groups)
    """
    check_number("lr", lr, above=0)
    check_number("decay", decay, above=0, most=1)
    check_number("weight_decay", weight_decay, least=0)
    model = unwrap(model)
    parts, parameters = layout(model), dict(model.named_parameters())
    groups: list[ParamGroup] = []
    for distance, stage in enumerate(reversed(parts)):
        trainable = [p for p in map(parameters.__getitem__, stage.parameters) if p.requires_grad]
        matrices = [p for p in trainable if p.ndim > 1 or not weight_decay]
        vectors = [p for p in trainable if p.ndim <= 1 and weight_decay]
        rate = lr * decay**distance
        groups[:0] = [
            ParamGroup(params=matrices, lr=rate, weight_decay=weight_decay, name=stage.name),
            ParamGroup(params=vectors, lr=rate, weight_decay=0.0, name=f"{stage.name}, vectors"),
        ]
    return [group for group in groups if group["params"]]


@dataclass(frozen=True, slots=True)
class StageSummary:
    """Name of a stage, and how many parameters it has, all and trainable ones."""

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
        stages: One row per stage; the last is the head.
    """

    name: str
    stages: tuple[StageSummary, ...]

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(stage.parameters for stage in self.stages)

    @property
    def trainable(self) -> int:
        """Number of trainable parameters."""
        return sum(stage.trainable for stage in self.stages)

    def to_dict(self) -> dict[str, JSON]:
        """The summary as plain data."""
        return {
            "name": self.name,
            "parameters": self.parameters,
            "trainable": self.trainable,
            "stages": [{**asdict(stage), "state": stage.state} for stage in self.stages],
        }

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
    model = unwrap(model)
    parts, parameters = layout(model), dict(model.named_parameters())
    name = model.name if isinstance(model, Classifier) else type(model).__name__
    rows = []
    for stage in parts:
        own = [parameters[key] for key in stage.parameters]
        trainable = sum(p.numel() for p in own if p.requires_grad)
        rows.append(StageSummary(stage.name, sum(p.numel() for p in own), trainable))
    return Summary(name, tuple(rows))
