"""Skipped module calls: how they are intercepted, and which values they return instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from transferkit.backbones.meta_forward import intercept_calls

Run = Callable[[], object]
Visit = Callable[[int, str, Run], object]
"""Gets the position of an intercepted call, the module's name, and what runs the call."""

_PLAIN = (bool, int, float, str, type(None), torch.Size)


class ShortcutError(Exception):
    """The output of a module cannot be stored image by image."""


def watched(modules: Mapping[str, nn.Module], visit: Visit) -> AbstractContextManager[None]:
    """Send every call of the named modules, unless from within another, through ``visit``."""
    count, inside = 0, False

    def visit_if_outermost(name: str, _: object, run: Run) -> object:
        nonlocal count
        if inside:
            return run()
        count += 1
        return visit(count - 1, name, partial(run_inside, run))

    def run_inside(run: Run) -> object:
        nonlocal inside
        inside = True
        try:
            return run()
        finally:
            inside = False

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
    """The structure of a call's output, so that it can be stored as plain tensors (B, ...)."""

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

    def unpack(self, packed: Iterator[Tensor]) -> object:
        """An output again, from as many packed tensors as it needs."""
        return self._filled(lambda leaf: leaf.unpack(next(packed)))

    def blank(self, count: int, device: torch.device, *, dense: bool) -> object:
        """An output for ``count`` images in which every number that an image decides is NaN."""
        return self._filled(lambda leaf: leaf.blank(count, device, dense=dense))

    def _filled(self, value: Callable[[Leaf], Tensor]) -> object:
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


def copied(output: object) -> object:
    """The output with a copy of each of its tensors."""
    values, spec = tree_flatten(output)
    return tree_unflatten([v.clone() if isinstance(v, Tensor) else v for v in values], spec)
