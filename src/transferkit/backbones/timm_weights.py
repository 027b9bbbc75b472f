"""timm's loading of weights, taken apart: first the network, then the weights and how they fit.

timm makes a network and loads its weights in one call. Taken apart, a local file goes through
the network's own checkpoint filter as a published one does, and what does not fit is reported.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Protocol, cast

import timm
from huggingface_hub import constants, try_to_load_from_cache
from timm.models import _builder, get_pretrained_cfg
from torch import Tensor, nn

from transferkit.backbones.spec import WeightsSpec, forbids_commercial_use
from transferkit.backbones.weights import fetch, load_weights, read_state_dict

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
    """The same as a spec, without an accuracy: timm's package carries none."""
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


Filter = Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]]

_HUB_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Load:
    """One load of weights that timm was about to do.

    Attributes:
        run: Does it as timm would: fetches the published weights and loads them.
        filter: Brings a state dict to the network's layout and image size; None if not needed.
        strict: Whether timm would insist on every key.
    """

    run: Callable[[], None]
    filter: Filter | None
    strict: bool


@contextmanager
def deferred_loads() -> Iterator[list[Load]]:
    """Have ``timm.create_model(..., pretrained=True)`` note its load instead of doing it."""
    # timm offers no other way to a network's checkpoint filter. Its loading function is replaced
    # while the context lasts, one thread at a time.
    loads: list[Load] = []
    load_pretrained = _builder.load_pretrained

    def note(
        model: nn.Module,
        pretrained_cfg: dict[str, object] | None = None,
        num_classes: int = 1000,
        in_chans: int = 3,
        filter_fn: Filter | None = None,
        strict: bool = True,
        cache_dir: str | Path | None = None,
    ) -> None:
        options = (pretrained_cfg, num_classes, in_chans, filter_fn, strict, cache_dir)
        loads.append(Load(partial(load_pretrained, model, *options), filter_fn, strict))

    with _lock:
        _builder.load_pretrained = note
        try:
            yield loads
        finally:
            _builder.load_pretrained = load_pretrained


def load_file(
    module: nn.Module, path: Path, load: Load, *, name: str, dropped: Sequence[str]
) -> None:
    """Load a local file into ``module`` as timm would load a published one."""
    state: Mapping[str, Tensor] = read_state_dict(path)
    if load.filter is not None:
        with suppress(Exception):  # a foreign file can trip it anywhere; misfits are listed
            state = load.filter(dict(state), module)
    origin, spare = str(path), not load.strict
    load_weights(module, OrderedDict(state), name=name, origin=origin, dropped=dropped, spare=spare)


def check_reachable(config: Config, *, name: str, tag: str) -> None:
    """Find an absent network before anything is built."""
    fetch(lambda: None, name=name, tag=tag, url=_address(config))


def _address(config: Config) -> str | None:
    """The server to reach first, or None where the weights are in the cache or the hub is off."""
    if config.hf_hub_id is None:
        return config.url
    cached = (try_to_load_from_cache(config.hf_hub_id, file) for file in _HUB_FILES)
    if constants.HF_HUB_OFFLINE or any(isinstance(path, str) for path in cached):
        return None
    return str(constants.ENDPOINT)
