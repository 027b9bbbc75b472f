"""One set of published weights: its state dict in its library's layout, loaded as a user would."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models

from transferkit.backbones.catalog import build_network
from transferkit.backbones.skeleton import skeleton
from transferkit.backbones.source import PooledEncoder
from transferkit.backbones.spec import LicenseWarning, Network, WeightsSpec

State = dict[str, Tensor]

_DRAWS = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.bernoulli_})
_DOWNLOADS = (
    "torchvision.models._api.load_state_dict_from_url",
    "timm.models._builder.load_state_dict_from_hf",
    "timm.models._builder.load_state_dict_from_url",
)


class WithoutInitialisation(TorchFunctionMode):
    """Put zeros where a network would draw random numbers, to save the time."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        drawn = func in _DRAWS or getattr(func, "__module__", "") == "torch.nn.init"
        options = dict(kwargs or {})
        if drawn:  # zeros, because some draw again until all numbers are in range
            tensor: Tensor = args[0] if args else options["tensor"]
            with torch.no_grad():
                return tensor.zero_()
        return func(*args, **options)


def published_state(full: str, spec: WeightsSpec, *, numbers: bool = True) -> State:
    """The layout of the network that its own library makes for these weights.

    Args:
        full: Full name of the backbone.
        spec: The weights.
        numbers: Fill it with random numbers; else the tensors are without memory.
    """
    source, _, name = full.partition("/")
    drawn: State = {}  # by identity: some networks share tensors
    state = {}
    for key, value in _published(source, name, spec).state_dict(keep_vars=True).items():
        identity = str(id(value))
        if identity not in drawn:
            drawn[identity] = _random_like(value) if numbers else value.detach()
        state[key] = drawn[identity]
    return state


def check(full: str, spec: WeightsSpec, channels: int, state: State) -> str:
    """Load a tag as a user does, its download replaced; "ok" or what went wrong."""
    return _outcome(full, spec, channels, state, weights=spec.tag)


def check_file(full: str, spec: WeightsSpec, state: State) -> str:
    """Write the state dict to a file, and load that as a user does; "ok" or what went wrong."""
    known: set[int] = set()
    unshared = {}
    for key, value in state.items():
        unshared[key] = value.clone() if id(value) in known else value
        known.add(id(value))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(unshared, path)
        name = full if spec.tag == "default" else f"{full}.{spec.tag}"
        return _outcome(name, spec, 3, state, weights=path)


def _outcome(
    name: str, spec: WeightsSpec, channels: int, state: State, *, weights: str | Path
) -> str:
    versions = {key: value._version for key, value in state.items()}
    with ExitStack() as stack:
        for download in _DOWNLOADS:
            stack.enter_context(patch(download, lambda *_, **__: dict(state)))
        stack.enter_context(patch("transferkit.backbones.weights._reach", lambda _: None))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", LicenseWarning)
        try:
            network = _build(name, weights, channels, meta=_is_meta(state))
        except Exception as error:  # any failure is a row of the table
            return f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
    if versions != {key: value._version for key, value in state.items()}:
        return "the given state dict was changed"
    if network.input_size != (channels, *spec.input_size[1:]):
        return "wrong size"
    # VGG16's features alone leave its fully connected layers random
    lacking = ("classifier.",) if spec.tag == "IMAGENET1K_FEATURES" else ()
    return _compare(state, network.module, channels, lacking) or "ok"


def _build(name: str, weights: str | Path, channels: int, *, meta: bool) -> Network:
    """Build with weights; on the meta device where the weights are without memory."""
    made = []

    def build() -> nn.Module:
        made.append(build_network(name, weights=weights, in_channels=channels))
        return made[-1].module

    if meta:
        skeleton(build)
    else:
        with WithoutInitialisation():
            build()
    return made[-1]


def _compare(state: State, module: nn.Module, channels: int, lacking: tuple[str, ...]) -> str:
    """Compare a built network with the published state dict; empty where all is right."""
    prefix = "encoder." if isinstance(module, PooledEncoder) else ""
    adapted = channels == 3
    for key, value in module.state_dict().items():
        if key.startswith(lacking):
            continue
        source = state[key.removeprefix(prefix)]
        if not _same(value, source, channels):
            return f"{key} differs"
        adapted |= value.shape != source.shape
    return "" if adapted else "no first layer was adapted"


def _same(value: Tensor, source: Tensor, channels: int) -> bool:
    """Whether a tensor is the published one, or a first layer's as it should be adapted."""
    if value.shape == source.shape:
        return value.is_meta or torch.equal(value, source)
    if source.ndim == 4 and source.shape[1] == 3:
        turn = torch.arange(channels) % 3
        expected = source.sum(1, keepdim=True) if channels == 1 else source[:, turn] * 3 / channels
        close = value.is_meta or torch.allclose(value, expected, atol=1e-6)
        return value.shape == expected.shape and close
    # pixels gathered first: their order is found, and tested elsewhere
    ratio = source.shape[1] / value.shape[1]
    return ratio == 3 / channels and (value.is_meta or bool(value.isfinite().all()))


def _published(source: str, name: str, spec: WeightsSpec) -> nn.Module:
    """The library's own network for these weights, without memory."""
    if source == "timm":
        tag = None if spec.tag == "default" else spec.tag
        return skeleton(lambda: timm.create_model(name, pretrained_cfg=tag))
    options: dict[str, object] = {}
    if name.startswith("vit_"):
        options = {"image_size": spec.input_size[1]}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": True, "init_weights": False}
    return skeleton(lambda: models.get_model(name, weights=None, **options).train())


def _random_like(value: Tensor) -> Tensor:
    if value.is_floating_point():
        return torch.rand(value.shape)
    return torch.zeros(value.shape, dtype=value.dtype)


def _is_meta(state: State) -> bool:
    return any(value.is_meta for value in state.values())
