"""The boundary cut: run the frozen stages once, store their activations, train the rest on these.

No graph is traced. The tail is the whole network, in which the calls of the frozen stages do no
work: the last of them returns the stored activations, those before it return NaN, and the calls
after it run for real. A value that reaches the result by another way, such as a skip connection
over the boundary, would make it NaN, so a hidden dependency cannot pass unseen; the calls that it
came from are then stored too. Each cut is checked against the uncut model before it is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from transferkit.models.classifier import Classifier, shared_copy
from transferkit.models.device import device_of, seeded
from transferkit.models.fast_layers import folded_copy
from transferkit.models.freezing import frozen_stages
from transferkit.models.skipped_calls import Run, ShortcutError, Template, copied, watched

_INPUT = -1
_FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AssertionError)


@dataclass(frozen=True, slots=True, eq=False)
class Cut(ABC):
    """A classifier in two parts: the frozen stages, and the trainable ones.

    Valid while the same stages are frozen, on the device and at the image size it was made for.
    """

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


@dataclass(frozen=True, slots=True)
class NoCut:
    """The model cannot be cut, for a reason that a sentence can end with."""

    reason: str


def cut_at_boundary(model: Classifier, example: Tensor) -> Cut | NoCut:
    """Cut a classifier after its last frozen stage; checked on images ``example`` (B, C, H, W)."""
    frozen, stages = len(frozen_stages(model)), model.stages
    if not frozen:
        return NoCut("no stage is frozen")
    if frozen >= len(stages) - 1:
        return HeadCut(model, "head", model)
    images = torch.cat([example, example.flip(-1), example.flip(-2)])[:3]
    # the check trains for a step, so it has modes and buffers of its own
    twin = shared_copy(model, buffers=False)
    try:
        plain = StageCut.between(twin, frozen, images)
        found = next(filter(None, (_settle(cut, images) for cut in plain.variants())), None)
    except ShortcutError as error:
        return NoCut(f"a frozen part of {model.name} cannot be kept: {error}")
    except MemoryError:
        return NoCut(f"there is too little memory to check the cut of {model.name}")
    if found is None:
        return NoCut(f"{model.name} cut at {stages[frozen].name} differs from the uncut model")
    return replace(found, model=model, frozen=model)


class HeadCut(Cut):
    """The backbone is the prefix, the head is the tail, and features are the activations."""

    def prefix(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features (B, D)."""
        with torch.no_grad():
            return (self.frozen.features(images).contiguous(),)

    def tail(self, *activations: Tensor) -> Tensor:
        """Logits (B, K) of features (B, D)."""
        (features,) = activations
        return self.model.classify(features)


class _ReachedError(Exception):
    """The last call of the prefix has returned."""


@dataclass(frozen=True, slots=True, eq=False)
class StageCut(Cut):
    """A cut inside the backbone."""

    modules: tuple[str, ...]  # those whose calls are counted, by name
    source: Template  # of the backbone's input
    templates: tuple[Template, ...]  # of the output of each call of the prefix
    live: tuple[int, ...]  # the calls whose outputs the tail needs; -1 is the backbone's input
    dense: bool = False  # skipped calls return tensors with memory: the tail writes to them
    early: bool = False  # live outputs are copied at once: a later call writes to them
    copied: bool = True  # the activations are copied: the tail writes to them

    @classmethod
    def between(cls, model: Classifier, frozen: int, images: Tensor) -> StageCut:
        """Observe the prefix on two images and on three, and cut after its last call."""
        stages = model.stages
        names = tuple(name for stage in stages[:-1] for name in stage.modules)
        trainable = {name for stage in stages[frozen:] for name in stage.modules}
        (two, outputs), (three, others) = (
            _observe(model, names, trainable, images[:count]) for count in (2, 3)
        )
        if not 0 < len(outputs) == len(others):
            raise ShortcutError("its calls differ from batch to batch")
        templates = tuple(map(Template.of, outputs, others))
        source, last = Template.of(two, three), len(templates) - 1
        return cls(model, stages[frozen].name, model, names, source, templates, live=(last,))

    def prefix(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the frozen stages; see ``Cut``."""
        outputs: dict[int, object] = {}
        last = len(self.templates) - 1

        def visit(position: int, _: str, run: Run) -> object:
            output = run()
            if position in self.live:
                outputs[position] = copied(output) if self.early else output
            if position == last:
                raise _ReachedError
            return output

        with torch.no_grad():
            outputs[_INPUT] = source = self.frozen.preprocessed(images)
            with suppress(_ReachedError), watched(_named(self.frozen, self.modules), visit):
                self.frozen.backbone(source)
        return tuple(t for i in self.live for t in self._template(i).pack(outputs[i]))

    def tail(self, *activations: Tensor) -> Tensor:
        """Run the stages after the boundary; see ``Cut``."""
        count, device = len(activations[0]), activations[0].device
        packed = iter([tensor.clone() for tensor in activations] if self.copied else activations)
        stored = {i: self._template(i).unpack(packed) for i in self.live}
        last = len(self.templates) - 1

        def value(position: int) -> object:
            if position in stored:
                return stored[position]
            return self._template(position).blank(count, device, dense=self.dense)

        def visit(position: int, _: str, run: Run) -> object:
            return run() if position > last else value(position)

        with watched(_named(self.model, self.modules), visit):
            output = self.model.backbone(value(_INPUT))
        return self.model.classify(output if isinstance(output, Tensor) else output[0])

    def variants(self) -> Iterator[StageCut]:
        """The ways to treat modules that write to their inputs, the cheapest first."""
        for early in (False, True):
            for dense in (False, True):
                yield replace(self, dense=dense, early=early)

    def _template(self, position: int) -> Template:
        return self.source if position == _INPUT else self.templates[position]


def _named(model: Classifier, names: Sequence[str]) -> dict[str, torch.nn.Module]:
    return {name: model.get_submodule(name) for name in names}


def _observe(
    model: Classifier, names: Sequence[str], trainable: set[str], images: Tensor
) -> tuple[Tensor, list[object]]:
    """The backbone's input, and the outputs of its calls before the first trainable one."""
    outputs: list[object] = []

    def visit(_: int, name: str, run: Run) -> object:
        if name in trainable:
            raise _ReachedError
        outputs.append(run())
        return outputs[-1]

    with torch.no_grad():
        source = model.preprocessed(images)
        with suppress(_ReachedError), watched(_named(model, names), visit):
            model.backbone(source)
            raise ShortcutError("no trainable stage is called")
    return source, outputs


def _settle(cut: StageCut, images: Tensor) -> StageCut | None:
    """The cut with the smallest live set that works; None if it differs from the model with all."""

    def works(live: tuple[int, ...]) -> bool:
        # if the tail needs a skipped call, its logits are NaN and so differ from the model's
        return predicts_alike(cut.model, replace(cut, live=live), images)

    if not works(cut.live):
        earlier = tuple(range(_INPUT, len(cut.templates) - 1))
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
    except _FAILURES as error:
        # too little memory says nothing about the cut; the CPU's error has no type of its own
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise MemoryError(str(error)) from error
        return False
    if [tensor._version for tensor in activations] != versions or want.keys() != got.keys():
        return False
    return all(_close(got[name], tensor) for name, tensor in want.items())


def _step(model: Classifier, forward: Callable[[], Sequence[Tensor]]) -> dict[str, Tensor]:
    """Logits, gradients and changed buffers of one training pass, whose buffers are put back."""
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with seeded(0, device_of(model)), _buffers_kept(model) as before, torch.enable_grad():
        outputs = forward()
        loss = torch.stack([output.float().square().mean() for output in outputs]).sum()
        # a parameter that the output does not use has no gradient
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            loss, list(learning.values()), allow_unused=True
        )
        reached = {n: g for n, g in zip(learning, gradients, strict=True) if g is not None}
        after = {n: b.clone() for n, b in model.named_buffers() if not torch.equal(b, before[n])}
    logits = {f"output {i}": output.detach() for i, output in enumerate(outputs)}
    return {**logits, **reached, **after}


@contextmanager
def _buffers_kept(model: Classifier) -> Iterator[Mapping[str, Tensor]]:
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield before
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])


def _close(got: Tensor, want: Tensor) -> bool:
    """Equal but for rounding; NaN is never equal."""
    if not want.is_floating_point():
        return torch.equal(got, want)
    tolerance = min(0.05, 1000 * torch.finfo(want.dtype).eps)
    worst = want.abs().amax() if want.numel() else want.new_zeros(())
    return bool(((got - want).abs() <= tolerance * worst.clamp(min=1e-6)).all())
