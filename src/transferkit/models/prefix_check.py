"""Does a cut model do what the uncut one does? Logits, gradients and running statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from transferkit.models.classifier import Classifier
from transferkit.models.device import device_of, seeded

_ROWS = (2, 0)
_SEED = 0
_FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AssertionError)


class Halves(Protocol):
    """A prefix and a tail, to be compared with the model they are of."""

    def prefix(self, images: Tensor) -> tuple[Tensor, ...]:
        """What crosses the boundary."""

    def tail(self, *crossing: Tensor) -> Tensor:
        """Logits."""


def predicts_alike(model: Classifier, halves: Halves, images: Tensor) -> bool:
    """Whether the logits agree in eval mode, on some rows of what crosses, out of order.

    Args:
        model: The uncut model.
        halves: The two parts.
        images: Three images (3, C, H, W).

    Raises:
        MemoryError: There is too little memory to tell.
    """
    rows = torch.tensor(_ROWS, device=images.device)
    with _mode(model, training=False), torch.no_grad():
        want = model(images[rows])
        try:
            crossing = [tensor[rows] for tensor in halves.prefix(images)]
            versions = _versions(crossing)
            got = halves.tail(*crossing)
        except _FAILURES as error:
            _raise_if_memory_ran_out(error)
            return False
    return _versions(crossing) == versions and _close(got, want)


def learns_alike(model: Classifier, halves: Halves, images: Tensor) -> bool:
    """Whether logits, gradients and buffers agree after a step in train mode, on one seed.

    Args:
        model: The uncut model; its buffers are put back.
        halves: The two parts.
        images: Two images (B, C, H, W) or more.

    Raises:
        MemoryError: There is too little memory to tell.
    """
    with _mode(model, training=True):
        want = _step(model, lambda: model.outputs(images))
        try:
            crossing = halves.prefix(images)
            versions = _versions(crossing)
            got = _step(model, lambda: (halves.tail(*crossing),))
        except _FAILURES as error:
            _raise_if_memory_ran_out(error)
            return False
    if _versions(crossing) != versions or want.keys() != got.keys():
        return False
    return all(_close(got[name], tensor) for name, tensor in want.items())


def _raise_if_memory_ran_out(error: Exception) -> None:
    """Let through what says nothing of the two parts; the CPU's has no type of its own."""
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        raise MemoryError(str(error)) from error


def _step(model: Classifier, forward: Callable[[], Sequence[Tensor]]) -> dict[str, Tensor]:
    """Logits, gradients and new buffers of one training pass; leaves the model as it was."""
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with seeded(_SEED, device_of(model)), _buffers_kept(model) as before, torch.enable_grad():
        outputs = forward()
        loss = torch.stack([output.float().square().mean() for output in outputs]).sum()
        gradients = torch.autograd.grad(loss, list(learning.values()), allow_unused=True)
        after = {n: b.clone() for n, b in model.named_buffers() if not torch.equal(b, before[n])}
    found = {f"gradient of {name}": g for name, g in _present(learning, gradients)}
    logits = {f"output {i}": output.detach() for i, output in enumerate(outputs)}
    return {**logits, **found, **after}


def _present(
    names: Iterable[str], gradients: Iterable[Tensor | None]
) -> Iterator[tuple[str, Tensor]]:
    """The gradients that there are: a parameter that the output does not use has none."""
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is not None:
            yield name, gradient


@contextmanager
def _mode(model: Classifier, *, training: bool) -> Iterator[None]:
    """Put the model in a mode, and every part back in its own after."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


@contextmanager
def _buffers_kept(model: Classifier) -> Iterator[Mapping[str, Tensor]]:
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield before
    finally:
        for name, buffer in model.named_buffers():
            if not torch.equal(buffer, before[name]):
                buffer.copy_(before[name])


def _versions(crossing: Sequence[Tensor]) -> list[int]:
    """Changes when something writes to one of the tensors."""
    return [tensor._version for tensor in crossing]


def _close(got: Tensor, want: Tensor) -> bool:
    """Equal but for rounding; NaN is never equal."""
    if not want.is_floating_point():
        return torch.equal(got, want)
    tolerance = min(0.05, 1000 * torch.finfo(want.dtype).eps)
    worst = want.abs().amax() if want.numel() else want.new_zeros(())
    return bool(((got - want).abs() <= tolerance * worst.clamp(min=1e-6)).all())
