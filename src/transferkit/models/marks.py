"""Marks of the frozen part: what a cache was computed from, so that no other is ever used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from transferkit.data.dataset import ImageData
from transferkit.models.classifier import Classifier

QuickMark: TypeAlias = tuple[tuple[str, int, int], ...]


def changing(model: nn.Module) -> dict[str, Tensor]:
    """What a training step may change: trainable parameters, and buffers of modules that train.

    Args:
        model: In train mode, frozen as it is to be used.
    """
    lasting = model.state_dict().keys()
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                found[dot + name] = parameter
        if module.training:
            found |= {dot + name: buffer for name, buffer in module.named_buffers(recurse=False)}
    return {name: tensor for name, tensor in found.items() if name in lasting}


def frozen(model: nn.Module) -> dict[str, Tensor]:
    """All weights and buffers that a training step cannot change; ``model`` is in train mode."""
    live = changing(model)
    state = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if name not in live}


def backbone(model: Classifier) -> dict[str, Tensor]:
    """All weights and buffers behind the features, frozen or not."""
    state = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}


def quick_mark(tensors: Mapping[str, Tensor]) -> QuickMark:
    """Changes when a tensor is replaced or written to, or another set of them comes.

    Costs no look at the values, so it holds within one process only.
    """
    return tuple((name, t.data_ptr(), t._version) for name, t in tensors.items())


def prefix_key(model: Classifier, tensors: Mapping[str, Tensor], data: ImageData, *how: str) -> str:
    """The key of what a part of ``model`` makes of ``data``.

    A hash of weights, preprocessing and pixels, of torch's version and of ``how``.

    Args:
        model: The classifier.
        tensors: The weights and buffers of the part.
        data: The images.
        how: What else the numbers depend on: where the part ends, the precision.
    """
    digest = hashlib.blake2b(digest_size=16)
    preprocess = sorted(model.preprocess.recipe().items())
    facts = (torch.__version__, model.name, preprocess, data.fingerprint(), how)
    digest.update(repr(facts).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
