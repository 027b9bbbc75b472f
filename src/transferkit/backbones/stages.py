"""The module calls of a forward pass, and the stages that they divide a network into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from transferkit.backbones.spec import InputSize
from transferkit.errors import ConfigError

_BATCH = 2

LARGEST_SHARE = 0.85
"""A piece with more of the parameters than this is taken apart."""

_FEWEST = 3
_FEW = 4
_LARGE = 0.1

Visit = Callable[[str, tuple[object, ...], Callable[[], object]], object]
"""Takes a module's name, its positional arguments and what runs it; returns the call's result."""


@dataclass(slots=True)
class Call:
    """One call of a module, by its dotted name, with the calls made inside it in order."""

    name: str
    reads_images: bool = False  # its first argument is the network's own input
    inner: list[Call] = field(default_factory=list)

    def names(self) -> set[str]:
        """Names of every module called here or inside."""
        return {self.name}.union(*(call.names() for call in self.inner))

    def leaves(self) -> list[Call]:
        """The innermost calls, in order."""
        return [leaf for call in self.inner for leaf in call.leaves()] if self.inner else [self]


@contextmanager
def intercept_calls(modules: Mapping[str, nn.Module], visit: Visit) -> Iterator[None]:
    """Send every call of the named modules through ``visit``, those inside another call too."""
    # An instance's own ``forward`` stands before its class's. Hooks would do to watch a call, but
    # could not replace it.
    before = {name: module.__dict__.get("forward") for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.__dict__["forward"] = partial(_visit_call, visit, name, module.forward)
        yield
    finally:
        for name, module in modules.items():
            module.__dict__.pop("forward", None)
            if before[name] is not None:
                module.__dict__["forward"] = before[name]


def _visit_call(
    visit: Visit, name: str, forward: Callable[..., object], /, *args: object, **kwargs: object
) -> object:
    return visit(name, args, partial(forward, *args, **kwargs))


def copy_structure(module: nn.Module, stand_in: Callable[[Tensor], Tensor]) -> nn.Module:
    """Copy a module and all inside it; ``stand_in`` gives the copy's parameters and buffers."""
    # deepcopy takes from the memo what it has met before, so each tensor that is put there first
    # is never copied, and one that is shared stays shared. Those in plain attributes and their
    # lists and dictionaries are put there too (the weight of weight_norm, the caches of LeViT):
    # they may not be leaves of the autograd graph, which deepcopy refuses.
    memo: dict[int, object] = {}
    for part in module.modules():
        for tensor in tree_leaves(vars(part)):
            if isinstance(tensor, Tensor) and id(tensor) not in memo:
                memo[id(tensor)] = _as_parameter(tensor, stand_in(tensor))
        for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values()):
            memo[id(hook)] = hook  # may hold anything: a logger, a lock
    copied: nn.Module = deepcopy(module, memo)
    return copied


def _as_parameter(original: Tensor, stand_in: Tensor) -> Tensor:
    if isinstance(original, nn.Parameter) and not isinstance(stand_in, nn.Parameter):
        return nn.Parameter(stand_in, requires_grad=False)
    return stand_in


def record_calls(module: nn.Module, input_size: InputSize, *, training: bool = False) -> Call:
    """Record which module calls which in one forward pass; ConfigError where that fails."""
    try:
        try:
            return record_on_meta(module, input_size, training=training)
        except Exception:
            if training:
                raise
        # The meta device cannot follow where a value is read back, or where a tensor is neither
        # parameter nor buffer: a real pass on zeros takes its place.
        device = next(module.parameters(), torch.empty(0)).device
        return _record(copy_structure(module, lambda tensor: tensor), input_size, device)
    except Exception as error:  # whatever the network raises
        size = " x ".join(map(str, input_size))
        raise ConfigError(
            f"{type(module).__name__} cannot take images of {size} (channels x height x width): "
            f"{type(error).__name__}: {error}"
        ) from error


def record_on_meta(module: nn.Module, input_size: InputSize, *, training: bool = False) -> Call:
    """The same on the meta device alone; raises what the network raises."""
    ghost = copy_structure(
        module, lambda tensor: torch.empty_like(tensor, device="meta", requires_grad=False)
    )
    return _record(ghost, input_size, torch.device("meta"), training=training)


def _record(
    own: nn.Module, input_size: InputSize, device: torch.device, *, training: bool = False
) -> Call:
    """Record one forward pass of a module that nobody else sees."""
    for part in own.modules():
        part.training = training  # past any override of ``train``
    floats = (p.dtype for p in own.parameters() if p.is_floating_point())
    dtype = next(floats, torch.get_default_dtype())
    images = torch.zeros(_BATCH, *input_size, device=device, dtype=dtype)
    root = Call("")
    stack = [root]

    def enter(name: str, _: nn.Module, args: tuple[object, ...]) -> None:
        call = Call(name, reads_images=bool(args) and args[0] is images)
        stack[-1].inner.append(call)
        stack.append(call)

    def leave(_: nn.Module, __: tuple[object, ...], ___: object) -> None:
        stack.pop()

    # Hooks, not ``intercept_calls``: they see what is called as a module, and not the forward that
    # HRNet calls by name, which belongs to its caller's stage.
    for name, part in own.named_modules():
        part.register_forward_pre_hook(partial(enter, name), prepend=True)
        part.register_forward_hook(leave)
    with torch.no_grad(), device:
        own(images)
    return root.inner[0]


def count_parameters(module: nn.Module) -> int:
    """Parameters of a module, each counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def has_parameters(module: nn.Module) -> bool:
    """Whether a module holds a parameter, itself or in its parts."""
    return next(module.parameters(), None) is not None


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
    # What is no module has no children, and is refused later.
    children: dict[str, nn.Module] = dict(getattr(model, "_modules", {}).items())
    inner = children.get("module", children.get("_orig_mod"))
    if inner is None or len(children) > 1:
        return model
    return unwrap(inner) if type(model).__module__.startswith(("torch.", "timm.")) else model


def trace_stages(
    module: nn.Module, input_size: InputSize, *, head: str | Sequence[str] = ()
) -> tuple[Stage, ...]:
    """Divide a network into stages, from input to output; the modules of ``head`` are the last.

    A head that was removed may be named too: what held it is divided as if it were there.
    """
    # One forward pass is recorded and its tree of calls expanded until no piece but the head holds
    # more than LARGEST_SHARE of the parameters. A stage starts at each piece that has parts; bare
    # layers join the stage before, and those that open the network form a stage of their own.
    # Where three or four stages come of that and only one is large and made of pieces, it is taken
    # apart once more (the ``stages`` between a stem and a wide last convolution). Networks with
    # fewer than three such pieces (VGG, AlexNet) start one at each layer with a weight matrix.
    #
    # Every parameter is in exactly one stage: shared ones in the first that holds them, loose ones
    # (position embeddings) in the first of all, those that only a training pass uses (auxiliary
    # heads) in the last.
    heads = (head,) if isinstance(head, str) else tuple(head)
    tree = _Tree(module, tuple(filter(None, heads)))
    root = record_calls(module, input_size)
    groups = tree.group(tree.frontier(root))
    parameters = tree.assign([modules for _, modules in groups], root, input_size)
    return tuple(
        Stage(name or "body", tuple(modules), names)
        for (name, modules), names in zip(groups, parameters, strict=True)
    )


class _Tree:
    """A network's modules and parameters, looked up by dotted name."""

    def __init__(self, module: nn.Module, heads: tuple[str, ...]) -> None:
        self.module = module
        self.modules = dict(module.named_modules())
        self.heads = heads
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
        if not holds_head and self.size([call.name]) <= LARGEST_SHARE * self.body:
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
        waiting: list[str] = []  # bare layers before the first stage
        seen: set[int] = set()
        for name in dict.fromkeys(call.name for call in calls):
            fresh = not self.owned([name]) <= seen
            seen |= self.owned([name])
            own = self.modules[name].parameters(recurse=False)
            starts = name in self.heads or self.is_composite(name)
            starts = starts or (few and any(parameter.ndim > 1 for parameter in own))
            if groups and (groups[-1][0] in self.heads or not (fresh and starts)):
                groups[-1][1].append(name)
            elif fresh and starts:
                opening = [layer for layer in waiting if self.owned([layer])]
                if opening:
                    groups.append((opening[0], waiting))
                    waiting = []
                groups.append((name, [*waiting, name]))
                waiting = []
            else:
                waiting.append(name)
        groups += [(waiting[0], waiting)] if waiting else []
        if self.heads and groups[-1][0] not in self.heads:
            groups.append((self.heads[0], [name for name in self.heads if name in self.modules]))
        return groups

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
