"""Memory formats: the layout of the maps between the layers while a network trains on a CPU.

Images come channels last (see :class:`~transferkit.data.preprocess.Preprocess`), and convolutions
keep the format of their input. That is the fast one for large maps and for depthwise convolutions;
on maps of a few pixels, dense convolutions are faster with the channels first. The choice is a rule
and not a measurement in each run: on a busy machine a measurement would come out now one way and
now the other, and two runs with the same seed would not give the same weights bit for bit. What the
rule rests on: ``benchmarks/formats.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from transferkit.backbones.stages import Stage
from transferkit.models.classifier import Classifier
from transferkit.models.device import device_of

SMALL_MAP = 64
"""Pixels of a map, 8 by 8, up to which a stage of dense convolutions takes channels first."""


@contextmanager
def fast_formats(model: Classifier) -> Iterator[None]:
    """Let each stage of ``model`` work in the memory format that suits it."""
    handles = choose_formats(model)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def choose_formats(model: Classifier) -> list[RemovableHandle]:
    """Hook the stages that work faster on channels first; on a GPU none.

    Only the layout in memory changes; the numbers are equal to float rounding.
    """
    if device_of(model).type != "cpu":
        return []
    first = [model.get_submodule(s.modules[0]) for s in model.stages[:-1] if _dense(model, s)]
    return [module.register_forward_pre_hook(_channels_first_if_small) for module in first]


def _dense(model: Classifier, stage: Stage) -> bool:
    """Whether a stage has convolutions over neighbours, and none of them is depthwise."""
    inside = (m for name in stage.modules for m in model.get_submodule(name).modules())
    spatial = [m for m in inside if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    return bool(spatial) and not any(m.groups == m.in_channels > 1 for m in spatial)


def _channels_first_if_small(_: nn.Module, inputs: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(_channels_first(v) if isinstance(v, Tensor) else v for v in inputs)


def _channels_first(maps: Tensor) -> Tensor:
    small = maps.ndim == 4 and maps.shape[2] * maps.shape[3] <= SMALL_MAP
    return maps.contiguous(memory_format=torch.contiguous_format) if small else maps
