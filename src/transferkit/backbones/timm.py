"""timm's networks, by timm's own listing and metadata."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import timm
from torch import nn

from transferkit.backbones.channels import RGB, widen
from transferkit.backbones.meta_forward import (
    REFUSALS,
    Size,
    check_size,
    count_parameters,
    output_shape,
    skeleton,
)
from transferkit.backbones.source import Anatomy, assemble, describe, without_memory
from transferkit.backbones.spec import BackboneSpec, Network, WeightsSpec
from transferkit.backbones.timm_weights import (
    UNTAGGED,
    check_reachable,
    config,
    deferred_loads,
    load_file,
    names,
    tags,
    weights_spec,
)
from transferkit.backbones.weights import choose_weights, fetch, warn_of_licence
from transferkit.errors import ConfigError, UnknownNameError

_CODE_LICENCE = "apache-2.0"


class TimmSource:
    """The source named ``timm``."""

    name = "timm"

    def names(self) -> tuple[str, ...]:
        """Every network of timm, its encoders without a classifier too."""
        return names()

    def weights(self, name: str) -> tuple[WeightsSpec, ...]:
        """The tags of ``name`` that have weights, its default first."""
        self._require(name)
        return tuple(weights_spec(name, tag) for tag in tags().get(name, ()))

    def spec(self, name: str) -> BackboneSpec:
        """Measure ``name`` at the input of its default weights."""
        network = without_memory(lambda: self.build(name, weights=None))
        return describe(self, name, network, licence=_CODE_LICENCE)

    def build(
        self,
        name: str,
        *,
        weights: str | Path | None,
        in_channels: int = RGB,
        image_size: Size | None = None,
    ) -> Network:
        """Build ``name`` without its classifier."""
        full, specs = f"{self.name}/{name}", self.weights(name)
        chosen = choose_weights(weights, specs, name=full)
        default = specs[0] if specs else weights_spec(name, None)
        facts = chosen if isinstance(chosen, WeightsSpec) else default
        tag = None if facts.tag == UNTAGGED else facts.tag
        size = facts.input_size[1:] if image_size is None else image_size
        if in_channels != RGB and not config(name, tag).first_conv:
            raise ConfigError(f"{full} has a fixed stem for 3 channels: in_channels must be 3.")
        check_size(full, size, lambda tried: _anatomy(name, tag, tried))
        anatomy = _anatomy(name, tag, size)
        plan = _Plan(name, tag, anatomy.img_size)
        module = _build(plan, chosen, anatomy, in_channels, size)
        _reset(module)
        return assemble(module, anatomy, facts, name=full, in_channels=in_channels, size=size)

    def _require(self, name: str) -> None:
        if name not in names():
            renamed = timm.models.get_deprecated_models().get(name)
            hint = f"timm renamed it to {renamed!r}." if renamed else ""
            raise UnknownNameError.among(f"{self.name} backbone", name, names(), hint=hint)


SOURCE = TimmSource()


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which network to have timm make."""

    name: str
    tag: str | None
    img_size: Size | None

    def construct(self, *, pretrained: bool = False, in_channels: int = RGB) -> nn.Module:
        """Make it, with its own classifier; random weights unless ``pretrained``."""
        module: nn.Module = timm.create_model(
            self.name,
            pretrained=pretrained,
            pretrained_cfg=self.tag,
            in_chans=in_channels,
            img_size=self.img_size,  # None is left out
        )
        return module


@lru_cache(maxsize=512)
def _anatomy(name: str, tag: str | None, size: Size) -> Anatomy:
    """Measure a network at an image size; fails where the network cannot take the size."""
    facts = config(name, tag)
    if size == facts.input_size[1:]:
        return _measure(_Plan(name, tag, None), size)
    if facts.fixed_input_size:
        return _measure(_Plan(name, tag, size), size)
    try:
        return _measure(_Plan(name, tag, None), size)
    except REFUSALS as error:
        try:
            return _measure(_Plan(name, tag, size), size)
        except REFUSALS:
            raise error from None


def _measure(plan: _Plan, size: Size) -> Anatomy:
    module = skeleton(plan.construct)
    if size != config(plan.name, plan.tag).input_size[1:]:
        _check_patches(module, size)
    num_params, before = count_parameters(module), dict.fromkeys(module.state_dict())
    _reset(module)
    after = module.state_dict()
    removed = tuple(dict.fromkeys(key.rpartition(".")[0] for key in before if key not in after))
    stated = [name for name in _classifiers(plan.name, plan.tag) if name in removed]
    return Anatomy(
        num_params=num_params,
        output=output_shape(module, (RGB, *size)),
        classifier=(stated or removed or ("",))[0],
        removed=removed,
        img_size=plan.img_size,
    )


def _check_patches(module: nn.Module, size: Size) -> None:
    """Refuse a size that leaves part of a patch over: timm would cut the image's edge off."""
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if not isinstance(patch, tuple) or len(patch) != 2:
        return
    if getattr(module.patch_embed, "dynamic_img_pad", False):
        return
    if size[0] % patch[0] or size[1] % patch[1]:
        raise ValueError(f"not a multiple of its patches of {patch[0]} x {patch[1]} pixels")


def _reset(module: nn.Module) -> None:
    """Take the classifier off, the pooling kept; timm's bare encoders have none."""
    reset = getattr(module, "reset_classifier", None)
    if reset is not None:
        reset(0)


def _classifiers(name: str, tag: str | None) -> tuple[str, ...]:
    """The classifiers that timm's metadata names; there may be two, or none."""
    stated = config(name, tag).classifier or ()
    return (stated,) if isinstance(stated, str) else tuple(stated)


def _build(
    plan: _Plan,
    chosen: WeightsSpec | Path | None,
    anatomy: Anatomy,
    in_channels: int,
    size: Size,
) -> nn.Module:
    """Make the network with its weights, for so many channels, its classifier still on."""
    if chosen is None:
        return plan.construct(in_channels=in_channels)
    full = f"{SOURCE.name}/{plan.name}"
    if isinstance(chosen, WeightsSpec):
        warn_of_licence(chosen, name=full)
        check_reachable(config(plan.name, plan.tag), name=full, tag=chosen.tag)
    with deferred_loads() as loads:
        module = plan.construct(pretrained=True)
    if isinstance(chosen, Path):
        dropped = (*anatomy.removed, *_classifiers(plan.name, plan.tag))
        load_file(module, chosen, loads[-1], name=full, dropped=dropped)
    else:
        fetch(loads[-1].run, name=full, tag=chosen.tag)
    if in_channels == RGB:
        return module
    wide = plan.construct(in_channels=in_channels)
    widen(module, wide, (RGB, *size))
    return wide
