"""Marks of the frozen part: what a cache was computed from, so that no other is ever used."""

from __future__ import annotations

import hashlib
from typing import TypeAlias

import torch
from torch import Tensor

from transferkit.data.dataset import ImageData
from transferkit.models.classifier import Classifier
from transferkit.models.freezing import frozen_stages
from transferkit.training.keeper import changing

QuickMark: TypeAlias = tuple[tuple[str, int, int], ...]


def frozen_tensors(model: Classifier) -> dict[str, Tensor]:
    """All weights and buffers that a training step cannot change; ``model`` is in train mode."""
    live = changing(model)
    state = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if name not in live}


def quick_mark(model: Classifier) -> QuickMark:
    """Changes when a frozen tensor is replaced or written to, or another is frozen.

    Costs no look at the values, so it holds within one process only.
    """
    frozen = frozen_tensors(model)
    return tuple((name, t.data_ptr(), t._version) for name, t in frozen.items())


def content_mark(model: Classifier) -> str:
    """A hash of the frozen weights, where the frozen part ends, and the preprocessing."""
    digest = hashlib.blake2b(digest_size=16)
    stages = [stage.name for stage in frozen_stages(model)]
    preprocess = sorted(model.preprocess.recipe().items())
    digest.update(repr((torch.__version__, model.name, stages, preprocess)).encode())
    for name, tensor in frozen_tensors(model).items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def prefix_key(model: Classifier, data: ImageData, *how: str) -> str:
    """The key of what the frozen part makes of ``data``: weights, preprocessing and pixels.

    Args:
        model: The classifier, frozen as it is to be used.
        data: The images.
        how: What else the numbers depend on, such as the precision.
    """
    text = repr((content_mark(model), data.fingerprint(), how))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
