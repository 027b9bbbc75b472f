"""The boundary cut: run the frozen stages once, store their activations, train the rest on these.

No graph is traced. The tail is the whole network, in which the calls of the frozen stages do no
work: the last of them returns the stored activations, those before it return NaN, and the calls
after it run for real. A value that reaches the result by another way, such as a skip connection
over the boundary, would make it NaN, so a hidden dependency cannot pass unseen; the calls that it
came from are then stored too. Each cut is checked against the uncut model before it is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from transferkit.backbones.stages import intercept_calls
from transferkit.models.classifier import Classifier, shared_copy
from transferkit.models.device import device_of, seeded
from transferkit.models.fast_layers import folded_copy
from transferkit.models.freezing import frozen_stages

_PLAIN = (bool, int, float, str, type(None), torch.Size)

Run = Callable[[], object]
Visit = Callable[[int, str, Run], object]
"""Gets the position of an intercepted call, the module's name, and what runs the call."""


@dataclass(frozen=True, slots=True, eq=False)
class Cut(ABC):
    """The frozen and the trainable stages, as long as these, the device and the image size stay."""

    model: Classifier
    stage: str  # name of the first stage of the tail
    frozen: Classifier  # runs the prefix: the model itself, or a copy with batch norms folded

    @abstractmethod
    def prefix(self, images: Tensor) -> tuple[Tensor, ...]:
        """Activations at the boundary for images (B, C, H, W): contiguous tensors (B, ...)."""

    @abstractmethod
    def tail(self, *activations: Tensor) -> Tensor:
        """Logits (B, K) from the activations, which may be float16 copies."""

    def folded(self, example: Tensor) -> Cut:
        """The same cut, with the batch norms of its prefix folded."""
        return replace(self, frozen=folded_copy(self.model, example, frozen_only=True))


def cut_at_boundary(model: Classifier, example: Tensor) -> Cut | str:
    """Cut after the last frozen stage, checked on images (B, C, H, W); or a phrase why not."""
    frozen, stages = len(frozen_stages(model)), model.stages
    if not frozen:
        return "no stage is frozen"
    if frozen >= len(stages) - 1:
        return HeadCut(model, "head", model)
    images = torch.cat([example, example.flip(-1), example.flip(-2)])[:3]
    # the check trains for a step, so it has modes and buffers of its own
    twin = shared_copy(model, buffers=False)
    try:
        plain = StageCut.between(twin, frozen, images)
        # the ways to treat modules that write to their inputs, the cheapest first
        ways = [(dense, early) for early in (False, True) for dense in (False, True)]
        variants = (replace(plain, dense=dense, early=early) for dense, early in ways)
        found = next(filter(None, (_settle(cut, images) for cut in variants)), None)
    except ShortcutError as error:
        return f"a frozen part of {model.name} cannot be kept: {error}"
    except MemoryError:
        return f"there is too little memory to check the cut of {model.name}"
    if found is None:
        return f"{model.name} cut at {stages[frozen].name} differs from the uncut model"
    return replace(found, model=model, frozen=model)


class HeadCut(Cut):
    """The backbone is the prefix, the head is the tail, and features are the activations."""

    def prefix(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features (B, D)."""
        with torch.no_grad():
            return (self.frozen.features(images).contiguous(),)

    def tail(self, *activations: Tensor) -> Tensor:
        """Logits (B, K) of features (B, D)."""
        return self.model.classify(*activations)


class _ReachedError(Exception):
    """The last call of the prefix has returned."""


@dataclass(frozen=True, slots=True, eq=False)
class StageCut(Cut):
    """A cut inside the backbone."""

    modules: tuple[str, ...]  # those whose calls are counted, by name
    templates: tuple[Template, ...]  # of the backbone's input, then of each call's output
    live: tuple[int, ...]  # positions of the templates whose tensors the tail needs
    dense: bool = False  # skipped calls return tensors with memory: the tail writes to them
    early: bool = False  # live outputs are copied at once: a later call writes to them
    copied: bool = True  # the activations are copied: the tail writes to them

    @classmethod
    def between(cls, model: Classifier, frozen: int, images: Tensor) -> StageCut:
        """Observe the prefix on two images and on three, and cut after its last call."""
        stages = model.stages
        names = tuple(name for stage in stages[:-1] for name in stage.modules)
        trainable = {name for stage in stages[frozen:] for name in stage.modules}
        two, three = (_observe(model, names, trainable, images[:count]) for count in (2, 3))
        if len(two) == 1 or len(two) != len(three):
            raise ShortcutError("its calls differ from batch to batch")
        templates = tuple(map(Template.of, two, three))
        last = (len(templates) - 1,)
        return cls(model, stages[frozen].name, model, names, templates, live=last)

    def prefix(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the frozen stages; see ``Cut``."""
        outputs: dict[int, object] = {}
        last = len(self.templates) - 1

        def visit(call: int, _: str, run: Run) -> object:
            position, output = call + 1, run()
            if position in self.live:
                outputs[position] = (
                    tree_map_only(Tensor, Tensor.clone, output) if self.early else output
                )
            if position == last:
                raise _ReachedError
            return output

        with torch.no_grad():
            outputs[0] = source = self.frozen.preprocessed(images)
            with suppress(_ReachedError), watched(self.frozen, self.modules, visit):
                self.frozen.backbone(source)
        return tuple(t for i in self.live for t in self.templates[i].pack(outputs[i]))

    def tail(self, *activations: Tensor) -> Tensor:
        """Run the stages after the boundary; see ``Cut``."""
        count, device = len(activations[0]), activations[0].device
        packed = iter([tensor.clone() for tensor in activations] if self.copied else activations)
        live = {
            i: self.templates[i].filled(lambda leaf: leaf.unpack(next(packed))) for i in self.live
        }

        def value(position: int) -> object:
            if position in live:
                return live[position]
            blank = partial(Leaf.blank, count=count, device=device, dense=self.dense)
            return self.templates[position].filled(blank)

        def visit(call: int, _: str, run: Run) -> object:
            position = call + 1
            return value(position) if position < len(self.templates) else run()

        with watched(self.model, self.modules, visit):
            output = self.model.backbone(value(0))
        return self.model.classify(output if isinstance(output, Tensor) else output[0])


def _observe(
    model: Classifier, names: Sequence[str], trainable: set[str], images: Tensor
) -> list[object]:
    """The backbone's input, and the outputs of its calls before the first trainable one."""

    def visit(_: int, name: str, run: Run) -> object:
        if name in trainable:
            raise _ReachedError
        seen.append(run())
        return seen[-1]

    with torch.no_grad():
        source = model.preprocessed(images)
        seen: list[object] = [source]
        with suppress(_ReachedError), watched(model, names, visit):
            model.backbone(source)
            raise ShortcutError("no trainable stage is called")
    return seen


def _settle(cut: StageCut, images: Tensor) -> StageCut | None:
    """The cut with the smallest live set that works; None if it differs from the model with all."""

    def works(live: tuple[int, ...]) -> bool:
        # if the tail needs a skipped call, its logits are NaN and so differ from the model's
        return predicts_alike(cut.model, replace(cut, live=live), images)

    if not works(cut.live):
        earlier = tuple(range(len(cut.templates) - 1))
        if not works(cut.live + earlier):
            return None
        needed = _needed(earlier, cut.live, works)
        cut = replace(cut, live=needed if works(needed) else cut.live + needed)
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


def predicts_alike(model: Classifier, cut: Cut, images: Tensor) -> bool:
    """Whether the logits agree in eval mode, on some rows of the activations, out of order."""
    rows = torch.tensor([2, 0], device=images.device)
    model.eval()
    with torch.no_grad():
        return _agrees(
            {"logits": model(images[rows])},
            lambda: [tensor[rows] for tensor in cut.prefix(images)],
            lambda activations: {"logits": cut.tail(*activations)},
        )


def learns_alike(model: Classifier, cut: Cut, images: Tensor) -> bool:
    """Whether logits, gradients and buffers agree after a step in train mode, from one seed."""
    model.train()
    return _agrees(
        _step(model, lambda: model.outputs(images)),
        lambda: cut.prefix(images),
        lambda activations: _step(model, lambda: (cut.tail(*activations),)),
    )


def _agrees(
    want: Mapping[str, Tensor],
    prefix: Callable[[], Sequence[Tensor]],
    tail: Callable[[Sequence[Tensor]], Mapping[str, Tensor]],
) -> bool:
    """Whether a cut gives the wanted tensors, and leaves the activations as they were."""
    try:
        activations = prefix()
        versions = [tensor._version for tensor in activations]  # count the writes to a tensor
        got = tail(activations)
    except Exception as error:  # whatever the network raises
        # too little memory says nothing about the cut; the CPU's error has no type of its own
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise MemoryError from error
        return False
    untouched = [tensor._version for tensor in activations] == versions
    same = untouched and want.keys() == got.keys()
    return same and all(_close(got[name], tensor) for name, tensor in want.items())


def _step(model: Classifier, forward: Callable[[], Sequence[Tensor]]) -> dict[str, Tensor]:
    """Logits, gradients and changed buffers of one training pass, whose buffers are put back."""
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with seeded(0, device_of(model)), torch.enable_grad():
            outputs = forward()
            loss = torch.stack([output.float().square().mean() for output in outputs]).sum()
            gradients = torch.autograd.grad(
                loss, list(learning.values()), allow_unused=True, materialize_grads=True
            )
        after = {n: b.clone() for n, b in model.named_buffers() if not torch.equal(b, before[n])}
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
    logits = {f"output {i}": output.detach() for i, output in enumerate(outputs)}
    return {**logits, **dict(zip(learning, gradients, strict=True)), **after}


def _close(got: Tensor, want: Tensor) -> bool:
    """Equal but for rounding; NaN is never equal."""
    if not want.is_floating_point():
        return torch.equal(got, want)
    tolerance = min(0.05, 1000 * torch.finfo(want.dtype).eps)
    worst = want.abs().amax() if want.numel() else want.new_zeros(())
    return bool(((got - want).abs() <= tolerance * worst.clamp(min=1e-6)).all())


class ShortcutError(Exception):
    """The output of a module cannot be stored image by image."""


def watched(model: nn.Module, names: Sequence[str], visit: Visit) -> AbstractContextManager[None]:
    """Send every call of the named modules, unless from within another, through ``visit``."""
    count, inside = 0, False

    def visit_if_outermost(name: str, _: object, run: Run) -> object:
        nonlocal count, inside
        if inside:
            return run()
        count, inside = count + 1, True
        try:
            return visit(count - 1, name, run)
        finally:
            inside = False

    modules = {name: model.get_submodule(name) for name in names}
    return intercept_calls(modules, visit_if_outermost)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One tensor of an output: its batch dimension, not always the first, and memory layout.

    An image has several rows in it where a network splits it into windows.
    """

    shape: tuple[int, ...]  # for a single image
    dim: int  # the dimension that grows with the batch
    order: tuple[int, ...]  # ``dim``, then the others from the largest stride to the smallest
    dtype: torch.dtype

    @classmethod
    def of(cls, two: Tensor, three: Tensor) -> Leaf:
        """Compare the tensor for two images with that for three; ``dim`` grows as 2 : 3."""
        pairs = list(zip(two.shape, three.shape, strict=False))
        grown = [dim for dim, (a, b) in enumerate(pairs) if a != b]
        ratios = [pairs[dim][0] * 3 == pairs[dim][1] * 2 for dim in grown]
        if two.ndim != three.ndim or ratios != [True]:
            raise ShortcutError("it returns a tensor without a dimension for the images")
        dim, strides = grown[0], two.stride()
        shape = tuple(size // 2 if d == dim else size for d, size in enumerate(two.shape))
        others = sorted((d for d in range(two.ndim) if d != dim), key=lambda d: -strides[d])
        return cls(shape, dim, (dim, *others), two.dtype)

    def pack(self, tensor: Tensor) -> Tensor:
        """The tensor as (B, ...), contiguous: a view of it where its layout is the expected one."""
        rows, packed = self.shape[self.dim], tensor.detach().permute(self.order)
        if rows > 1:
            packed = packed.reshape(-1, rows, *packed.shape[1:])
        return packed.contiguous()

    def unpack(self, packed: Tensor) -> Tensor:
        """The inverse of ``pack``: the shape, type and memory layout of the original tensor."""
        rows = packed.to(self.dtype)
        if self.shape[self.dim] > 1:
            rows = rows.flatten(0, 1)
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return rows.permute(inverse)

    def blank(self, count: int, device: torch.device, *, dense: bool) -> Tensor:
        """NaN for ``count`` images; one number expanded, unless ``dense`` asks for memory."""
        shape = [size * count if d == self.dim else size for d, size in enumerate(self.shape)]
        nothing = torch.nan if self.dtype.is_floating_point else 0
        value = torch.full((), nothing, dtype=self.dtype, device=device).expand(shape)
        return value.clone(memory_format=torch.contiguous_format) if dense else value


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """The structure of a call's output, to store it as plain tensors (B, ...)."""

    leaves: tuple[object, ...]  # a ``Leaf``, or the value itself where it is always the same
    spec: TreeSpec  # how the leaves are nested

    @classmethod
    def of(cls, two: object, three: object) -> Template:
        """Compare the output of a call for two images with that for three."""
        leaves, spec = tree_flatten(two)
        others, other = tree_flatten(three)
        if spec != other:
            raise ShortcutError("what it returns is nested differently from batch to batch")
        return cls(tuple(map(_leaf, leaves, others)), spec)

    def pack(self, output: object) -> list[Tensor]:
        """The tensors of an output that have one row per image, each as (B, ...)."""
        values, _ = tree_flatten(output)
        pairs = zip(self.leaves, values, strict=True)
        return [leaf.pack(value) for leaf, value in pairs if isinstance(leaf, Leaf)]

    def filled(self, value: Callable[[Leaf], Tensor]) -> object:
        """An output again, given the tensor for each of its leaves."""
        values = [value(leaf) if isinstance(leaf, Leaf) else leaf for leaf in self.leaves]
        return tree_unflatten(values, self.spec)


def _leaf(two: object, three: object) -> object:
    """A ``Leaf`` for a tensor with one row per image; a value that all batches share as it is."""
    if isinstance(two, Tensor) and isinstance(three, Tensor):
        if two.shape != three.shape:
            return Leaf.of(two, three)
        if torch.equal(two, three):
            return two.detach()
        raise ShortcutError("it mixes the images of a batch")
    if isinstance(two, _PLAIN) and two == three:
        return two
    raise ShortcutError(f"it returns a {type(two).__name__} that depends on the batch")
