"""timm's networks, by timm's own listing and metadata.

timm makes a network and loads its weights in one call. Here that is taken apart, so that a local
file goes through the network's own checkpoint filter as a published one does, and what does not
fit is reported.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, cast

import timm
from huggingface_hub import constants, try_to_load_from_cache
from timm.models import PretrainedCfg, _builder, get_pretrained_cfg
from torch import Tensor, nn

from transferkit.backbones.channels import RGB, is_adapted, widen
from transferkit.backbones.skeleton import Size, check_size, output_shape, skeleton
from transferkit.backbones.source import Anatomy, Weights, assemble, describe_without_memory
from transferkit.backbones.spec import (
    BackboneSpec,
    Network,
    WeightsSpec,
    forbids_commercial_use,
)
from transferkit.backbones.stages import count_parameters
from transferkit.backbones.weights import (
    choose_weights,
    fetch,
    load_weights,
    own_layout,
    read_state_dict,
    warn_of_licence,
)
from transferkit.errors import ConfigError

_CODE_LICENCE = "apache-2.0"
_UNTAGGED = "default"  # the tag of weights that timm tags with nothing
_HUB_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
_lock = threading.Lock()  # of timm's loading function

Filter = Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]]


class TimmSource:
    """The source named ``timm``."""

    name = "timm"

    def names(self) -> tuple[str, ...]:
        """Every network of timm, its encoders without a classifier too."""
        return _names()

    def weights(self, name: str) -> tuple[WeightsSpec, ...]:
        """The tags of ``name`` that have weights, its default first."""
        return tuple(_weights_spec(name, tag) for tag in _tags().get(name, ()))

    def spec(self, name: str) -> BackboneSpec:
        """Measure ``name`` at the input of its default weights."""
        return describe_without_memory(self, name, _CODE_LICENCE)

    def build(
        self, name: str, weights: Weights, in_channels: int, image_size: Size | None
    ) -> Network:
        """Build ``name`` without its classifier."""
        full, specs = f"{self.name}/{name}", self.weights(name)
        chosen = choose_weights(weights, specs, name=full)
        default = specs[0] if specs else _weights_spec(name, None)
        facts = chosen if isinstance(chosen, WeightsSpec) else default
        tag = None if facts.tag == _UNTAGGED else facts.tag
        size = facts.input_size[1:] if image_size is None else image_size
        if in_channels != RGB and not _config(name, tag).first_conv:
            raise ConfigError(f"{full} has a fixed stem for 3 channels: in_channels must be 3.")
        check_size(full, size, lambda tried: _anatomy(name, tag, tried))
        anatomy = _anatomy(name, tag, size)
        construct = _constructor(name, tag, anatomy.img_size)
        if chosen is None:
            module = construct(in_chans=in_channels)
        elif isinstance(chosen, Path):
            dropped = (*anatomy.removed, *_classifiers(_config(name, tag)))
            module = _with_file(construct, chosen, in_channels, size, name=full, dropped=dropped)
        else:
            warn_of_licence(chosen, name=full)
            url = _address(_config(name, tag))
            with _lock:
                module = fetch(
                    lambda: construct(pretrained=True), name=full, tag=chosen.tag, url=url
                )
            module = _widened(construct, module, in_channels, size)
        _reset(module)
        return assemble(module, anatomy, facts, name=full, in_channels=in_channels, size=size)


SOURCE = TimmSource()


def renamed(name: str) -> str | None:
    """The full name of the network that timm itself would load, with a warning, for an old name."""
    new = timm.models.get_deprecated_models().get(name)
    return f"{SOURCE.name}/{new}" if new else None


def _constructor(name: str, tag: str | None, img_size: Size | None) -> Callable[..., nn.Module]:
    """Has timm make a network with its own classifier; an ``img_size`` of None is left out."""
    return partial(timm.create_model, name, pretrained_cfg=tag, img_size=img_size, in_chans=RGB)


@lru_cache(maxsize=512)
def _anatomy(name: str, tag: str | None, size: Size) -> Anatomy:
    """Measure a network at an image size; fails where the network cannot take the size."""
    facts = _config(name, tag)
    if size == facts.input_size[1:]:
        return _measure(name, tag, None, size)
    if facts.fixed_input_size:
        return _measure(name, tag, size, size)
    try:
        return _measure(name, tag, None, size)
    except Exception as error:  # whatever the network raises
        try:
            return _measure(name, tag, size, size)
        except Exception:
            raise error from None


def _measure(name: str, tag: str | None, img_size: Size | None, size: Size) -> Anatomy:
    module = skeleton(_constructor(name, tag, img_size))
    if size != _config(name, tag).input_size[1:]:
        _check_patches(module, size)
    num_params, before = count_parameters(module), dict.fromkeys(module.state_dict())
    _reset(module)
    after = module.state_dict()
    removed = tuple(dict.fromkeys(key.rpartition(".")[0] for key in before if key not in after))
    stated = [name for name in _classifiers(_config(name, tag)) if name in removed]
    return Anatomy(
        num_params=num_params,
        output=output_shape(module, (RGB, *size)),
        classifier=(stated or removed or ("",))[0],
        removed=removed,
        img_size=img_size,
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


def _classifiers(facts: PretrainedCfg) -> tuple[str, ...]:
    """The classifiers that timm's metadata names; there may be two, or none."""
    stated = cast("str | tuple[str, ...] | None", facts.classifier) or ()
    return (stated,) if isinstance(stated, str) else tuple(stated)


def _with_file(
    construct: Callable[..., nn.Module],
    path: Path,
    in_channels: int,
    size: Size,
    *,
    name: str,
    dropped: Sequence[str],
) -> nn.Module:
    """Make the network with the weights of a local file, as timm would load a published one."""
    module, checkpoint_filter, strict = _caught_load(construct)
    plain = own_layout(read_state_dict(path), module)
    early = in_channels != RGB and is_adapted(plain, module, in_channels)
    if early:  # it was saved from a network with those channels
        module = construct(in_chans=in_channels)
    state: Mapping[str, Tensor] = plain
    if checkpoint_filter is not None:
        with suppress(Exception):  # a foreign file can trip it anywhere; misfits are listed
            state = checkpoint_filter(dict(plain), module)
    origin, spare = str(path), not strict
    load_weights(module, OrderedDict(state), name=name, origin=origin, dropped=dropped, spare=spare)
    return module if early else _widened(construct, module, in_channels, size)


def _widened(
    construct: Callable[..., nn.Module], module: nn.Module, in_channels: int, size: Size
) -> nn.Module:
    """The network for so many channels, with the weights of one for three."""
    if in_channels == RGB:
        return module
    wide = construct(in_chans=in_channels)
    widen(module, wide, (RGB, *size))
    return wide


@cache
def _names() -> tuple[str, ...]:
    """Every network of timm, sorted as timm sorts; deprecated names are left out."""
    return tuple(timm.list_models())


@cache
def _tags() -> Mapping[str, tuple[str, ...]]:
    """The tags with weights of every network that has some, each network's default first."""
    found: dict[str, list[str]] = {}
    for full in timm.list_models(pretrained=True):
        name, _, tag = full.partition(".")
        found.setdefault(name, []).append(tag or _UNTAGGED)
    for name, listed in found.items():
        default = _config(name, None).tag or _UNTAGGED
        listed.sort(key=lambda tag: tag != default)
    return {name: tuple(listed) for name, listed in found.items()}


def _config(name: str, tag: str | None) -> PretrainedCfg:
    """Metadata that timm has of one set of weights, or of the network where ``tag`` is None."""
    return cast(PretrainedCfg, get_pretrained_cfg(f"{name}.{tag}" if tag else name))


def _weights_spec(name: str, tag: str | None) -> WeightsSpec:
    """The same as a spec, without an accuracy: timm's package carries none."""
    facts = _config(name, None if tag == _UNTAGGED else tag)
    return WeightsSpec(
        tag=facts.tag or _UNTAGGED,
        input_size=facts.input_size,
        mean=tuple(facts.mean),
        std=tuple(facts.std),
        interpolation=facts.interpolation,
        num_classes=facts.num_classes,
        license=facts.license,
        non_commercial=forbids_commercial_use(facts.license),
        url=f"https://huggingface.co/{facts.hf_hub_id}" if facts.hf_hub_id else _url(facts),
    )


def _url(facts: PretrainedCfg) -> str | None:
    return facts.url if isinstance(facts.url, str) else None


def _caught_load(
    construct: Callable[..., nn.Module],
) -> tuple[nn.Module, Filter | None, bool]:
    """Make a network, with timm's filter for its checkpoints, and whether timm wants every key."""
    # timm offers no other way to a network's checkpoint filter than the moment of loading. Its
    # loading function is replaced for that moment, one thread at a time.
    caught: list[tuple[Filter | None, bool]] = []

    def catch(
        _: nn.Module, *, filter_fn: Filter | None = None, strict: bool = True, **__: object
    ) -> None:
        caught.append((filter_fn, strict))

    with _lock:
        load_pretrained = _builder.load_pretrained
        _builder.load_pretrained = cast(Any, catch)
        try:
            module = construct(pretrained=True)
        finally:
            _builder.load_pretrained = load_pretrained
    return module, *caught[-1]


def _address(config: PretrainedCfg) -> str | None:
    """The server to reach first, or None where the weights are in the cache or the hub is off."""
    if config.hf_hub_id is None:
        return _url(config)
    cached = (try_to_load_from_cache(config.hf_hub_id, file) for file in _HUB_FILES)
    if constants.HF_HUB_OFFLINE or any(isinstance(path, str) for path in cached):
        return None
    return str(constants.ENDPOINT)
