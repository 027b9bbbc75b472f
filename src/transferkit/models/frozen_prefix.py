"""The boundary cut: run the frozen stages once, keep what crosses, train on that alone.

Nothing is traced to a graph. The tail is the whole network, run on nothing: while it runs, the
calls of the frozen stages return NaN without doing any work, the last of them returns what was
kept, and the calls after it run for real. A value that reaches the result by another way would
make it NaN, so a hidden dependency cannot pass unseen; the calls that it came from are then kept
too. Each cut is checked against the uncut model on a few images before it is handed out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from transferkit.models.classifier import Classifier
from transferkit.models.freezing import frozen_stages
from transferkit.models.prefix_check import learns_alike, predicts_alike

Run = Callable[[], object]
Visit = Callable[[int, str, Run], object]
"""Told the position of a call among the watched ones, the module's name, and how to run it."""

_PLAIN = (bool, int, float, str, type(None), torch.Size)


class ShortcutError(Exception):
    """What a module returns cannot be kept image by image."""


@contextmanager
def watched(modules: Mapping[str, nn.Module], visit: Visit) -> Iterator[None]:
    """Send every outermost call of the named modules through ``visit``.

    Calls made inside another watched call are left alone: some networks pass a module into
    others, which call it again.
    """
    gate = _Gate(visit)
    before = {name: module.__dict__.get("forward") for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.__dict__["forward"] = partial(gate.enter, name, module.forward)
        yield
    finally:
        for name, module in modules.items():
            module.__dict__.pop("forward", None)
            if before[name] is not None:
                module.__dict__["forward"] = before[name]


class _Gate:
    """Counts outermost calls."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.count = 0
        self.inside = False

    def enter(
        self, name: str, forward: Callable[..., object], /, *args: object, **kwargs: object
    ) -> object:
        """Stand in for a module's forward."""
        if self.inside:
            return forward(*args, **kwargs)
        position = self.count
        self.count += 1
        return self.visit(position, name, partial(self._run, forward, args, kwargs))

    def _run(
        self, forward: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        self.inside = True
        try:
            return forward(*args, **kwargs)
        finally:
            self.inside = False


@dataclass(frozen=True, slots=True)
class Leaf:
    """One tensor that a call returns: where its images are, and how it lies in memory.

    Attributes:
        shape: Shape for a single image.
        dim: The dimension that grows with the batch.
        order: The dimensions as they lie in memory, but ``dim`` first.
        dtype: Type of the numbers.
    """

    shape: tuple[int, ...]
    dim: int
    order: tuple[int, ...]
    dtype: torch.dtype

    def pack(self, tensor: Tensor) -> Tensor:
        """The tensor as (B, ...), contiguous: a view of it where it is laid out as expected."""
        rows, packed = self.shape[self.dim], tensor.detach().permute(self.order)
        if rows > 1:
            packed = packed.reshape(-1, rows, *packed.shape[1:])
        return packed.contiguous()

    def unpack(self, packed: Tensor) -> Tensor:
        """The inverse of ``pack``: the same shape, type and layout in memory as was returned."""
        rows = packed.to(self.dtype)
        if self.shape[self.dim] > 1:
            rows = rows.flatten(0, 1)
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return rows.permute(inverse)

    def blank(self, count: int, device: torch.device, *, dense: bool) -> Tensor:
        """NaN for ``count`` images; without memory unless ``dense``."""
        shape = [size * count if d == self.dim else size for d, size in enumerate(self.shape)]
        nothing = torch.nan if self.dtype.is_floating_point else 0
        value = torch.full((), nothing, dtype=self.dtype, device=device).expand(shape)
        return value.clone(memory_format=torch.contiguous_format) if dense else value


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """What a call returns: its tensors that differ from image to image, and all else as it is.

    Attributes:
        leaves: A ``Leaf``, or the value itself where it is the same for every batch.
        spec: How the leaves are nested.
    """

    leaves: tuple[object, ...]
    spec: TreeSpec

    @classmethod
    def of(cls, two: object, three: object) -> Template:
        """Compare what a call returns for two images and for three.

        Raises:
            ShortcutError: It returns something that cannot be told image by image.
        """
        leaves, spec = tree_flatten(two)
        others, other = tree_flatten(three)
        if spec != other:
            raise ShortcutError("what it returns is nested differently from batch to batch")
        return cls(tuple(map(_compare, leaves, others)), spec)

    def pack(self, output: object) -> list[Tensor]:
        """The tensors of an output that differ from image to image, each as (B, ...)."""
        values, _ = tree_flatten(output)
        pairs = zip(self.leaves, values, strict=True)
        return [leaf.pack(value) for leaf, value in pairs if isinstance(leaf, Leaf)]

    def unpack(self, packed: Iterator[Tensor]) -> object:
        """An output again, from as many packed tensors as it needs."""
        values = [x.unpack(next(packed)) if isinstance(x, Leaf) else x for x in self.leaves]
        return tree_unflatten(values, self.spec)

    def blank(self, count: int, device: torch.device, *, dense: bool) -> object:
        """An output whose every number that differs from image to image is NaN."""
        values = [
            leaf.blank(count, device, dense=dense) if isinstance(leaf, Leaf) else leaf
            for leaf in self.leaves
        ]
        return tree_unflatten(values, self.spec)


def copied(output: object) -> object:
    """The output with a copy of each of its tensors."""
    values, spec = tree_flatten(output)
    return tree_unflatten([v.clone() if isinstance(v, Tensor) else v for v in values], spec)


def _compare(two: object, three: object) -> object:
    if isinstance(two, Tensor) and isinstance(three, Tensor):
        return _leaf(two, three)
    if isinstance(two, _PLAIN) and two == three:
        return two
    raise ShortcutError(f"it returns a {type(two).__name__} that depends on the batch")


def _leaf(two: Tensor, three: Tensor) -> Leaf | Tensor:
    """Find the dimension that is 2 : 3; a tensor without one must be the same for any batch."""
    if two.shape == three.shape:
        if torch.equal(two, three):
            return two.detach()
        raise ShortcutError("it mixes the images of a batch")
    pairs = list(zip(two.shape, three.shape, strict=False))
    grown = [dim for dim, (a, b) in enumerate(pairs) if a != b]
    ratios = [pairs[dim][0] * 3 == pairs[dim][1] * 2 for dim in grown]
    if two.ndim != three.ndim or ratios != [True]:
        raise ShortcutError("it returns a tensor without a dimension for the images")
    dim = grown[0]
    shape = tuple(size // 2 if d == dim else size for d, size in enumerate(two.shape))
    strides = two.stride()
    rest = sorted((d for d in range(two.ndim) if d != dim), key=lambda d: -strides[d])
    return Leaf(shape, dim, (dim, *rest), two.dtype)


_INPUT = -1


class Cut(ABC):
    """A classifier in two parts: what never changes, and what learns.

    Valid while the same stages are frozen, on the device and at the image size it was made for.
    Works in eval mode and in train mode: ``tail`` runs in the mode that the model is in.
    """

    model: Classifier
    """The classifier that is cut."""
    stage: str
    """Name of the first stage of the tail."""

    @abstractmethod
    def prefix(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the frozen stages, without gradients.

        Args:
            images: uint8, or float in [0, 1]; (B, C, H, W).

        Returns:
            What crosses the boundary: contiguous tensors (B, ...), free of the autograd graph,
            which may be stored, and indexed by image.
        """

    @abstractmethod
    def tail(self, *crossing: Tensor) -> Tensor:
        """Run the rest, on what ``prefix`` returned for some images.

        Args:
            crossing: Tensors (B, ...), on the model's device; float16 copies will do.

        Returns:
            Logits (B, K). Gradients reach every trainable parameter that they reach uncut.
        """


@dataclass(frozen=True, slots=True)
class NoCut:
    """There is no cut to be had; the model trains uncut.

    Attributes:
        reason: Why, as a clause that a sentence can end with.
    """

    reason: str


def cut_at_boundary(model: Classifier, example: Tensor) -> Cut | NoCut:
    """Cut a classifier between its last frozen stage and its first trainable one.

    Args:
        model: The classifier, with some stages frozen by ``freeze`` or ``unfreeze``. Nothing in
            it changes.
        example: Images (B, C, H, W) like those that it will see, on its device; three are used.

    Returns:
        The cut, after it has reproduced the uncut model's logits, gradients and running
        statistics on the example; else why there is none.
    """
    frozen, stages = len(frozen_stages(model)), model.stages
    if not frozen:
        return NoCut("no stage is frozen")
    if frozen >= len(stages) - 1:
        return HeadCut(model)
    images = torch.cat([example, example.flip(-1), example.flip(-2)])[:3]
    try:
        plain = StageCut.between(model, frozen, images)
        return next(filter(None, (_settle(cut, images) for cut in plain.variants())))
    except ShortcutError as error:
        return NoCut(f"a frozen part of {model.name} cannot be kept: {error}")
    except MemoryError:
        return NoCut(f"there is too little memory to check the cut of {model.name}")
    except StopIteration:
        return NoCut(f"{model.name} cut at {stages[frozen].name} differs from the uncut model")


class HeadCut(Cut):
    """The backbone is the prefix, the head is the tail, and features cross."""

    def __init__(self, model: Classifier) -> None:
        self.model = model
        self.stage = "head"

    def prefix(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features (B, D)."""
        with torch.no_grad():
            return (self.model.features(images).contiguous(),)

    def tail(self, *crossing: Tensor) -> Tensor:
        """Logits (B, K) of features (B, D)."""
        (features,) = crossing
        weight = next(self.model.head.parameters(), features)
        logits: Tensor = self.model.head(features.to(weight.dtype))
        return logits


class _ReachedError(Exception):
    """The prefix has done all it has to."""


@dataclass(frozen=True, slots=True, eq=False)
class StageCut(Cut):
    """A cut inside the backbone.

    Attributes:
        model: The classifier.
        stage: Name of the first stage of the tail.
        modules: The modules of the backbone whose calls are counted, by name.
        source: The backbone's input.
        templates: What each call of the prefix returns.
        live: The calls of the prefix whose outputs the tail needs; -1 is the input.
        dense: Whether skipped calls must return tensors with memory, to be written to.
        early: Whether live outputs are copied before a later call may write to them.
        copied: Whether the tail writes to what crosses.
    """

    model: Classifier
    stage: str
    modules: dict[str, nn.Module]
    source: Template
    templates: tuple[Template, ...]
    live: tuple[int, ...]
    dense: bool = False
    early: bool = False
    copied: bool = True

    @classmethod
    def between(cls, model: Classifier, frozen: int, images: Tensor) -> StageCut:
        """Observe the prefix on two images and on three, and cut after its last call.

        Raises:
            ShortcutError: A call returns what cannot be kept image by image.
        """
        stages = model.stages
        names = [name for stage in stages[:-1] for name in stage.modules]
        modules = {name: model.get_submodule(name) for name in names}
        learning = {name for stage in stages[frozen:] for name in stage.modules}
        (two, outputs), (three, others) = (
            _observe(model, modules, learning, images[:count]) for count in (2, 3)
        )
        if not 0 < len(outputs) == len(others):
            raise ShortcutError("its calls differ from batch to batch")
        templates = tuple(map(Template.of, outputs, others))
        source = Template.of(two, three)
        last = len(templates) - 1
        return cls(model, stages[frozen].name, modules, source, templates, live=(last,))

    def prefix(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the frozen stages; see ``Cut``."""
        kept: dict[int, object] = {}
        last = len(self.templates) - 1

        def visit(position: int, _: str, run: Run) -> object:
            output = run()
            if position in self.live:
                kept[position] = copied(output) if self.early else output
            if position == last:
                raise _ReachedError
            return output

        with torch.no_grad():
            source = self.model.preprocess(images)
            kept[_INPUT] = source
            with suppress(_ReachedError), watched(self.modules, visit):
                self.model.backbone(source)
        return tuple(t for i in self.live for t in self._template(i).pack(kept[i]))

    def tail(self, *crossing: Tensor) -> Tensor:
        """Run the stages after the boundary; see ``Cut``."""
        count, device = len(crossing[0]), crossing[0].device
        packed = iter([tensor.clone() for tensor in crossing] if self.copied else crossing)
        given = {i: self._template(i).unpack(packed) for i in self.live}
        last = len(self.templates) - 1

        def value(position: int) -> object:
            if position in given:
                return given[position]
            return self._template(position).blank(count, device, dense=self.dense)

        def visit(position: int, _: str, run: Run) -> object:
            return run() if position > last else value(position)

        with watched(self.modules, visit):
            output = self.model.backbone(value(_INPUT))
        features = output if isinstance(output, Tensor) else output[0]
        logits: Tensor = self.model.head(features)
        return logits

    def variants(self) -> Iterator[StageCut]:
        """The ways to treat writing in place, the cheapest first."""
        for early in (False, True):
            for dense in (False, True):
                yield replace(self, dense=dense, early=early)

    def candidates(self) -> tuple[int, ...]:
        """What could be live besides the last call: those before it, and the input."""
        return tuple(range(_INPUT, len(self.templates) - 1))

    def _template(self, position: int) -> Template:
        return self.source if position == _INPUT else self.templates[position]


def _observe(
    model: Classifier, modules: dict[str, nn.Module], learning: set[str], images: Tensor
) -> tuple[Tensor, list[object]]:
    """The backbone's input, and what its calls return before the first that learns."""
    outputs: list[object] = []

    def visit(_: int, name: str, run: Run) -> object:
        if name in learning:
            raise _ReachedError
        outputs.append(run())
        return outputs[-1]

    with torch.no_grad():
        source = model.preprocess(images)
        with suppress(_ReachedError), watched(modules, visit):
            model.backbone(source)
            raise ShortcutError("no trainable stage is called")
    return source, outputs


def _settle(cut: StageCut, images: Tensor) -> StageCut | None:
    """Keep what the tail needs, and no more; None if it differs from the model even so."""

    def works(live: tuple[int, ...]) -> bool:
        return predicts_alike(cut.model, replace(cut, live=live), images)

    if not works(cut.live):
        if not works(cut.live + cut.candidates()):
            return None
        others = _needed(cut.candidates(), cut.live, works)
        cut = replace(cut, live=others if works(others) else cut.live + others)
    for option in (replace(cut, copied=False), cut):
        if predicts_alike(cut.model, option, images) and learns_alike(cut.model, option, images):
            return option
    return None


def _needed(
    group: tuple[int, ...], kept: tuple[int, ...], works: Callable[[tuple[int, ...]], bool]
) -> tuple[int, ...]:
    """A smallest part of ``group`` that works together with ``kept``; all of it does.

    By halves, so that few needed calls among many take few trials (Junker 2004, QuickXplain).
    """
    if works(kept):
        return ()
    if len(group) == 1:
        return group
    left, right = group[: len(group) // 2], group[len(group) // 2 :]
    of_right = _needed(right, kept + left, works)
    of_left = _needed(left, kept + of_right, works)
    return of_left + of_right
