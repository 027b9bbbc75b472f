"""Parameter groups for an optimizer: learning rates by stage, weight decay where it belongs."""

from __future__ import annotations

from typing import TypedDict

from torch import nn

from transferkit._validation import check_number
from transferkit.models.freezing import layout


class ParamGroup(TypedDict):
    """One group, as torch's optimizers take it.

    Attributes:
        params: Its parameters.
        lr: Learning rate.
        weight_decay: Weight decay.
        name: The stage's name; vectors, which are not decayed, have a group of their own.
    """

    params: list[nn.Parameter]
    lr: float
    weight_decay: float
    name: str


def param_groups(
    model: nn.Module, lr: float, *, decay: float = 1.0, weight_decay: float = 0.0
) -> list[ParamGroup]:
    """Exactly the trainable parameters of a model, one or two groups a stage, input first.

    The head learns at ``lr``, the stage before it at ``lr * decay``, and so on towards the
    input (discriminative fine-tuning: Howard and Ruder 2018, section 3.2, arXiv:1801.06146).

    Args:
        model: A ``Classifier``, or a plain torchvision or timm model.
        lr: Learning rate of the head.
        decay: What the rate is multiplied by at each stage towards the input, in (0, 1].
        weight_decay: Weight decay of matrices and convolutions. Vectors and scalars (biases,
            normalisation) are not decayed.

    Raises:
        ConfigError: An option outside its range.

    Example:
        >>> import torch
        >>> import transferkit as tk
        >>> model = tk.create_classifier("resnet18", 2, weights=None)
        >>> tk.unfreeze(model, upto="layer3")
        >>> groups = tk.param_groups(model, lr=0.01, decay=0.5)
        >>> [(group["name"], group["lr"]) for group in groups]
        [('layer3', 0.0025), ('layer4', 0.005), ('head', 0.01)]
        >>> optimizer = torch.optim.AdamW(groups)
    """
    _check(lr, decay, weight_decay)
    parts = layout(model)
    parameters = dict(model.named_parameters())
    groups = []
    for distance, stage in zip(range(len(parts) - 1, -1, -1), parts, strict=True):
        trainable = [p for p in map(parameters.__getitem__, stage.parameters) if p.requires_grad]
        matrices = [p for p in trainable if p.ndim > 1 or not weight_decay]
        vectors = [p for p in trainable if p.ndim <= 1 and weight_decay]
        rate = lr * decay**distance
        groups += [
            ParamGroup(params=matrices, lr=rate, weight_decay=weight_decay, name=stage.name),
            ParamGroup(params=vectors, lr=rate, weight_decay=0.0, name=f"{stage.name}, vectors"),
        ]
    return [group for group in groups if group["params"]]


def _check(lr: float, decay: float, weight_decay: float) -> None:
    check_number("lr", lr, above=0)
    check_number("decay", decay, above=0, most=1)
    check_number("weight_decay", weight_decay, least=0)
