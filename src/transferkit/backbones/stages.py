"""Stages by one rule for every architecture, from one recorded forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from transferkit.backbones.meta_forward import Call, has_parameters, record_calls
from transferkit.backbones.spec import InputSize
from transferkit.errors import ConfigError

LARGEST_SHARE = 0.85
"""A piece with more of the parameters than this is taken apart."""

_FEWEST = 3
_FEW = 4
_LARGE = 0.1


@dataclass(frozen=True, slots=True)
class Stage:
    """A named, ordered piece of a network; modules and parameters are dotted names."""

    name: str  # of the module that opens it: "layer1", "blocks.7"
    modules: tuple[str, ...]  # that it calls, in the order of their first call
    parameters: tuple[str, ...]  # in the order of ``named_parameters()``


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, torch.compile's wrapper or an average's."""
    # By torch's and timm's two names for it: their classes take a second to import, or differ
    # between versions. A wrapper of the user's own stays: it may do more than hold the network.
    children: dict[str, nn.Module] = getattr(model, "_modules", {})  # none of what is no module
    inner = children.get("module", children.get("_orig_mod"))
    if inner is None or len(children) > 1:
        return model
    return unwrap(inner) if type(model).__module__.startswith(("torch.", "timm.")) else model


def trace_stages(
    module: nn.Module,
    input_size: InputSize,
    *,
    head: str | Sequence[str] = (),
    limit: float = LARGEST_SHARE,
) -> tuple[Stage, ...]:
    """Divide a network into stages, from input to output; the modules of ``head`` are the last.

    A head that was removed may be named too: what held it is divided as if it were there.
    """
    # One forward pass is recorded and its tree of calls expanded until no piece but the head holds
    # more than ``limit`` of the parameters. A stage starts at each piece that has parts; bare
    # layers join the stage before, and those that open the network form a stage of their own.
    # Where three or four stages come of that and only one is large and made of pieces, it is taken
    # apart once more (the ``stages`` between a stem and a wide last convolution). Networks with
    # fewer than three such pieces (VGG, AlexNet) start one at each layer with a weight matrix.
    #
    # Every parameter is in exactly one stage: shared ones in the first that holds them, loose ones
    # (position embeddings) in the first of all, those that only a training pass uses (auxiliary
    # heads) in the last.
    heads = (head,) if isinstance(head, str) else tuple(head)
    tree = _Tree(module, tuple(filter(None, heads)), limit)
    root = record_calls(module, input_size)
    groups = tree.group(tree.frontier(root))
    parameters = tree.assign([modules for _, modules in groups], root, input_size)
    return tuple(
        Stage(name or "body", tuple(modules), names)
        for (name, modules), names in zip(groups, parameters, strict=True)
    )


class _Tree:
    """A network's modules and parameters, looked up by dotted name."""

    def __init__(self, module: nn.Module, heads: tuple[str, ...], limit: float) -> None:
        self.module = module
        self.modules = dict(module.named_modules())
        self.heads = heads
        self.limit = limit
        self.sizes = {id(p): p.numel() for p in module.parameters()}
        if not self.sizes:
            raise ConfigError(f"{type(module).__name__} has no parameters to divide into stages.")
        self.body = sum(self.sizes.values()) - self.size(heads)

    def owned(self, names: Iterable[str]) -> set[int]:
        """Identities of the parameters inside the named modules."""
        inside = (self.modules[name].parameters() for name in names if name in self.modules)
        return {id(parameter) for parameters in inside for parameter in parameters}

    def size(self, names: Iterable[str]) -> int:
        """How many numbers the parameters of the named modules hold, shared ones once."""
        return sum(self.sizes[key] for key in self.owned(names))

    def is_composite(self, name: str) -> bool:
        """Whether a module has parts with parameters."""
        return any(map(has_parameters, self.modules[name].children()))

    def has_matrix(self, name: str) -> bool:
        """Whether a layer has a weight of two dimensions or more, as Conv and Linear have."""
        return any(p.ndim > 1 for p in self.modules[name].parameters(recurse=False))

    def frontier(self, root: Call) -> list[Call]:
        """The pieces of the network, in call order."""
        calls = [piece for call in root.inner for piece in self._expand(call)] or [root]
        while self._count_composites(calls) < _FEWEST:
            finer = [piece for call in calls for piece in self._open(call)]
            if finer == calls:
                break
            calls = finer
        return self._without_lump(calls) if self._count_composites(calls) >= _FEWEST else calls

    def _without_lump(self, calls: list[Call]) -> list[Call]:
        """Take the one large composite piece apart, where few stages would come otherwise."""
        lumps = [call for call in calls if self._part(call) != [call]]
        count = sum(name not in self.heads for name, _ in self.group(calls))
        if len(lumps) != 1 or count > _FEW:
            return calls
        return [piece for call in calls for piece in self._part(call)]

    def _part(self, call: Call) -> list[Call]:
        """The parts of a large piece that is made of pieces; any other as it is."""
        inner = self._open(call)
        made_of_pieces = self._count_composites(inner) > 1
        return inner if made_of_pieces and self.size([call.name]) > _LARGE * self.body else [call]

    def _expand(self, call: Call) -> list[Call]:
        if call.name in self.heads or not call.inner:
            return [call]
        holds_head = any(head.startswith(f"{call.name}.") for head in self.heads)
        if not holds_head and self.size([call.name]) <= self.limit * self.body:
            return [call]
        return [piece for inner in call.inner for piece in self._expand(inner)]

    def _open(self, call: Call) -> list[Call]:
        closed = call.name in self.heads or not call.inner or not self.is_composite(call.name)
        return [call] if closed else call.inner

    def _count_composites(self, calls: Sequence[Call]) -> int:
        names = {call.name for call in calls} - set(self.heads)
        return sum(map(self.is_composite, names))

    def group(self, calls: Sequence[Call]) -> list[tuple[str, list[str]]]:
        """Join the pieces to stages: each a name and the modules called."""
        few = self._count_composites(calls) < _FEWEST
        groups: list[tuple[str, list[str]]] = []
        waiting: list[str] = []
        seen: set[int] = set()
        for name in dict.fromkeys(call.name for call in calls):
            fresh = not self.owned([name]) <= seen
            seen |= self.owned([name])
            if groups and groups[-1][0] in self.heads:
                groups[-1][1].append(name)
            elif fresh and self._starts(name, few=few):
                groups += self._opening(waiting)
                groups.append((name, [*waiting, name]))
                waiting = []
            elif groups:
                groups[-1][1].append(name)
            else:
                waiting.append(name)
        groups += [(waiting[0], waiting)] if waiting else []
        if self.heads and groups[-1][0] not in self.heads:
            groups.append((self.heads[0], [name for name in self.heads if name in self.modules]))
        return groups

    def _starts(self, name: str, *, few: bool) -> bool:
        starts = name in self.heads or self.is_composite(name)
        return starts or (few and self.has_matrix(name))

    def _opening(self, waiting: list[str]) -> list[tuple[str, list[str]]]:
        """The stage of the bare layers that open the network; none if they hold no parameter."""
        named = [name for name in waiting if self.owned([name])]
        if not named:
            return []
        modules = list(waiting)
        waiting.clear()
        return [(named[0], modules)]

    def assign(
        self, groups: Sequence[list[str]], root: Call, input_size: InputSize
    ) -> list[tuple[str, ...]]:
        """Give each parameter to one stage; modules of a training pass only join the last."""
        taken: dict[int, int] = {}
        for index, modules in enumerate(groups):
            for key in self.owned(modules):
                taken.setdefault(key, index)
        loose = self.sizes.keys() - taken.keys()
        if loose:
            extra = self._only_in_training(loose, root, input_size)
            groups[-1].extend(extra)
            taken |= dict.fromkeys(loose & self.owned(extra), len(groups) - 1)
        names: list[list[str]] = [[] for _ in groups]
        for name, parameter in self.module.named_parameters():
            names[taken.get(id(parameter), 0)].append(name)
        return [tuple(part) for part in names]

    def _only_in_training(self, loose: set[int], root: Call, input_size: InputSize) -> list[str]:
        """Outermost modules holding loose parameters that only a training pass calls."""
        called = root.names()
        idle = [
            name
            for name in self.modules
            if name not in called and not self.owned([name]).isdisjoint(loose)
        ]
        if not idle:
            return []
        try:
            called = record_calls(self.module, input_size, training=True).names()
        except ConfigError:
            return []
        found = [name for name in idle if name in called]
        return [name for name in found if name.rpartition(".")[0] not in found]
