"""What timm says of its networks and their weights: its listing and its pretrained configs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Protocol, cast

import timm
from timm.models import get_pretrained_cfg

from transferkit.backbones.licences import forbids_commercial_use
from transferkit.backbones.spec import WeightsSpec

UNTAGGED = "default"
"""The tag given to the weights of a network that timm tags with nothing."""


class Config(Protocol):
    """What is read here of timm's ``PretrainedCfg``."""

    tag: str | None
    url: str | None
    hf_hub_id: str | None
    input_size: tuple[int, int, int]
    fixed_input_size: bool
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int
    first_conv: str | tuple[str, ...] | None
    classifier: str | tuple[str, ...] | None
    license: str | None


@cache
def names() -> tuple[str, ...]:
    """Every network of timm, sorted as timm sorts; deprecated names are left out."""
    return tuple(timm.list_models())


@cache
def tags() -> Mapping[str, tuple[str, ...]]:
    """The tags with weights of every network that has some, each network's default first."""
    found: dict[str, list[str]] = {}
    for full in timm.list_models(pretrained=True):
        name, _, tag = full.partition(".")
        found.setdefault(name, []).append(tag or UNTAGGED)
    for name, listed in found.items():
        default = config(name, None).tag or UNTAGGED
        listed.sort(key=lambda tag: tag != default)
    return {name: tuple(listed) for name, listed in found.items()}


def config(name: str, tag: str | None) -> Config:
    """Metadata that timm has of one set of weights, or of the network where ``tag`` is None."""
    return cast(Config, get_pretrained_cfg(f"{name}.{tag}" if tag else name))


def weights_spec(name: str, tag: str | None) -> WeightsSpec:
    """The same as a spec; timm's package carries no published accuracy."""
    facts = config(name, None if tag == UNTAGGED else tag)
    hub = f"https://huggingface.co/{facts.hf_hub_id}" if facts.hf_hub_id else None
    return WeightsSpec(
        tag=facts.tag or UNTAGGED,
        input_size=facts.input_size,
        mean=tuple(facts.mean),
        std=tuple(facts.std),
        interpolation=facts.interpolation,
        num_classes=facts.num_classes,
        license=facts.license,
        non_commercial=forbids_commercial_use(facts.license),
        url=hub or facts.url,
    )
