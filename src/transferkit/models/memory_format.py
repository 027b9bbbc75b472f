"""Memory formats: how the maps between the layers lie in memory while a network trains on a CPU.

Images come channels last (see :class:`~transferkit.data.preprocess.Preprocess`), and convolutions
keep what they are given. That is the fast way for large maps and for depthwise convolutions; on
maps of a few pixels, dense convolutions are faster with the channels first. The choice is a rule
and not a measurement in each run: a measurement on a busy machine would choose now one way and now
the other, and two runs with the same seed would not give the same weights bit for bit. What the
rule rests on: ``benchmarks/formats.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from transferkit.backbones.stages import Stage
from transferkit.models.classifier import Classifier
from transferkit.models.device import device_of

SMALL_MAP = 64
"""Pixels of a map, 8 by 8, up to which a stage of dense convolutions takes channels first."""


@contextmanager
def fast_formats(model: Classifier) -> Iterator[None]:
    """Let each stage of ``model`` work in the memory format that suits it.

    Only where things lie in memory changes; the numbers are equal to float rounding. On a GPU
    everything stays channels last.
    """
    handles = []
    if device_of(model).type == "cpu":
        first = [model.get_submodule(s.modules[0]) for s in model.stages[:-1] if _dense(model, s)]
        handles = [module.register_forward_pre_hook(_channels_first_if_small) for module in first]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _dense(model: Classifier, stage: Stage) -> bool:
    """Whether a stage has convolutions over neighbours, and none of them is depthwise."""
    inside = (m for name in stage.modules for m in model.get_submodule(name).modules())
    spatial = [m for m in inside if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    return bool(spatial) and not any(m.groups == m.in_channels > 1 for m in spatial)


def _channels_first_if_small(_: nn.Module, inputs: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(_settled(value) if isinstance(value, Tensor) else value for value in inputs)


def _settled(maps: Tensor) -> Tensor:
    if maps.ndim == 4 and maps.shape[2] * maps.shape[3] <= SMALL_MAP:
        return maps.contiguous(memory_format=torch.contiguous_format)
    return maps
