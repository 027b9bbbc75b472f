"""Auxiliary heads, which GoogLeNet and Inception v3 train beside the main one."""

from __future__ import annotations

from torch import nn

from transferkit.backbones.calls import record_calls
from transferkit.backbones.spec import Network
from transferkit.errors import ConfigError


def renew_auxiliary(network: Network, num_classes: int) -> None:
    """Put new auxiliary classifiers, for these classes, where the published ones were.

    Where the images are too small for an auxiliary head (Inception v3 below 267 pixels), the
    heads are taken off, as torchvision does with ``aux_logits=False``.

    Args:
        network: A network as a source built it; changed in place.
        num_classes: Number of classes.

    Raises:
        ConfigError: An auxiliary classifier is not a linear layer.
    """
    for name in network.aux:
        old = network.module.get_submodule(name)
        if not isinstance(old, nn.Linear):
            raise ConfigError(f"Expected {name} to be a linear layer, got {type(old).__name__}.")
        holder, _, attribute = name.rpartition(".")
        new = nn.Linear(old.in_features, num_classes)
        setattr(network.module.get_submodule(holder), attribute, new)
    if network.aux and not _fits(network):
        absent = dict.fromkeys((name.partition(".")[0] for name in network.aux), None)
        for attribute, value in {**absent, "aux_logits": False}.items():
            setattr(network.module, attribute, value)
        network.aux = ()


def _fits(network: Network) -> bool:
    """Whether a training pass works at the network's own image size."""
    try:
        record_calls(network.module, network.input_size, training=True)
    except ConfigError:
        return False
    return True
