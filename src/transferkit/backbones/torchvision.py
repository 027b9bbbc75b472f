"""torchvision's image classifiers, by torchvision's own listing and metadata."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from math import isnan, isqrt
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from torch import nn
from torch.hub import get_dir
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from transferkit.backbones.channels import RGB
from transferkit.backbones.skeleton import Size, check_size, skeleton
from transferkit.backbones.source import Anatomy, Weights, assemble, describe_without_memory, fill
from transferkit.backbones.spec import BackboneSpec, Network, WeightsSpec
from transferkit.backbones.stages import count_parameters, has_parameters, record_on_meta
from transferkit.backbones.weights import (
    StateDict,
    choose_weights,
    fetch,
    own_layout,
    read_state_dict,
    state_dict_of,
    warn_of_licence,
)

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

_CODE_LICENCE = "bsd-3-clause"
_SWAG_LICENCE = "cc-by-nc-4.0"
_WITH_AUX = {"googlenet": ("aux1.fc2", "aux2.fc2"), "inception_v3": ("AuxLogits.fc",)}
_VGG_CLASSIFIER = "classifier"
_POSITIONS = "encoder.pos_embedding"
_OLD_DENSE_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")


class TorchvisionSource:
    """The source named ``torchvision``."""

    name = "torchvision"

    def names(self) -> tuple[str, ...]:
        """Every classifier of torchvision; not its detectors, segmenters or video networks."""
        return tuple(models.list_models(module=models))

    def weights(self, name: str) -> tuple[WeightsSpec, ...]:
        """The tags of ``name``, its default first."""
        enum = models.get_model_weights(name)
        default = enum["DEFAULT"]
        others = [member for member in enum if member is not default]
        return tuple(map(_weights_spec, (default, *others)))

    def spec(self, name: str) -> BackboneSpec:
        """Measure ``name`` at the input of its default weights."""
        return describe_without_memory(self, name, _CODE_LICENCE)

    def build(
        self, name: str, weights: Weights, in_channels: int, image_size: Size | None
    ) -> Network:
        """Build ``name`` without its classifier."""
        full, specs, aux = f"{self.name}/{name}", self.weights(name), _WITH_AUX.get(name, ())
        chosen = choose_weights(weights, specs, name=full)
        facts = chosen if isinstance(chosen, WeightsSpec) else specs[0]
        size = facts.input_size[1:] if image_size is None else image_size
        if image_size is not None:
            check_size(full, size, lambda tried: _anatomy(name, tried))
        anatomy = _anatomy(name, size)
        state = None if chosen is None else self._read(name, chosen)
        module = _construct(name, size)
        module.set_submodule(anatomy.classifier, nn.Identity())
        lacks = () if facts.num_classes else (_VGG_CLASSIFIER,)
        fill(
            module,
            None if state is None else _up_to_date(state, module),
            (RGB, *size),
            in_channels,
            name=full,
            origin=str(chosen) if isinstance(chosen, Path) else f"the weights {facts.tag!r}",
            dropped=(anatomy.classifier, *aux, *lacks),
        )
        network = assemble(module, anatomy, facts, name=full, in_channels=in_channels, size=size)
        network.aux = aux
        return _normalised_plainly(network) if aux and in_channels != RGB else network

    def _read(self, name: str, chosen: WeightsSpec | Path) -> StateDict:
        """The weights of a file or a tag, before any network is built."""
        if isinstance(chosen, Path):
            return read_state_dict(chosen)
        full, member = f"{self.name}/{name}", models.get_model_weights(name)[chosen.tag]
        warn_of_licence(chosen, name=full)
        address = None if _is_cached(member) else member.url
        download = partial(member.get_state_dict, check_hash=True, weights_only=True)
        state = fetch(download, name=full, tag=chosen.tag, url=address)
        # VGG16's features alone: its fully connected layers are NaN in the file, and start random.
        left_out = () if chosen.num_classes else (f"{_VGG_CLASSIFIER}.",)
        return state_dict_of(
            state, ((k, v) for k, v in state.items() if not k.startswith(left_out))
        )


SOURCE = TorchvisionSource()


@lru_cache(maxsize=256)
def _anatomy(name: str, size: Size) -> Anatomy:
    """Measure ``name`` at an image size; fails where the network cannot take the size."""
    module = skeleton(lambda: _construct(name, size))
    # The classifier is the last layer with parameters that a forward pass calls, in all of them.
    calls = record_on_meta(module, (RGB, *size)).leaves()
    named = (call.name for call in reversed(calls))
    classifier = next(name for name in named if has_parameters(module.get_submodule(name)))
    width = module.get_parameter(f"{classifier}.weight").shape[1]
    return Anatomy(count_parameters(module), output=(2, width), classifier=classifier)


def _construct(name: str, size: Size) -> nn.Module:
    """Build ``name`` with random weights as its pretrained weights have it built."""
    builder: Callable[..., nn.Module] = models.get_model_builder(name)
    if name in _WITH_AUX:
        return builder(weights=None, aux_logits=True, transform_input=True, init_weights=False)
    if name.startswith("vit_"):
        if size[0] != size[1]:
            raise ValueError("this network takes square images only")
        return builder(weights=None, image_size=size[0])
    if name.startswith("maxvit_"):
        return builder(weights=None, input_size=size)
    return builder(weights=None)


def _normalised_plainly(network: Network) -> Network:
    """Turn off GoogLeNet's and Inception's own change of normalisation, which needs 3 channels."""
    # It turns ImageNet's mean and deviation into one half each, so images normalised by one half
    # give the same numbers without it.
    network.module.__dict__["transform_input"] = False
    half = (0.5,) * network.input_size[0]
    return replace(network, mean=half, std=half)


def _is_cached(member: WeightsEnum) -> bool:
    return (Path(get_dir()) / "checkpoints" / Path(urlparse(member.url).path).name).is_file()


def _up_to_date(state: StateDict, module: nn.Module) -> StateDict:
    """Bring keys and position embeddings to the network's layout and image size."""
    state = own_layout(state, module)
    items = ((_OLD_DENSE_KEY.sub(r"\1\2", key), value) for key, value in state.items())
    renamed = state_dict_of(state, items)
    positions = renamed.get(_POSITIONS)
    if not isinstance(module, models.VisionTransformer) or positions is None:
        return renamed
    cells = positions.shape[1] - 1 if positions.ndim == 3 else -1
    if cells < 1 or isqrt(cells) ** 2 != cells:
        return renamed  # not the embedding of a square grid: the fit report will say so
    resized: StateDict = interpolate_embeddings(module.image_size, module.patch_size, renamed)
    return resized


def _weights_spec(member: WeightsEnum) -> WeightsSpec:
    """Torchvision's metadata of one set of weights."""
    meta, transforms = member.meta, member.transforms()
    side = int(transforms.crop_size[0])
    metrics = meta.get("_metrics", {}).get("ImageNet-1K", {})
    swag = "SWAG" in str(meta.get("license", ""))
    return WeightsSpec(
        tag=member.name,
        input_size=(3, side, side),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=str(transforms.interpolation.value),
        num_classes=len(meta["categories"] or ()),
        top1=_published(metrics.get("acc@1")),
        top5=_published(metrics.get("acc@5")),
        license=_SWAG_LICENCE if swag else _CODE_LICENCE,
        non_commercial=swag,
        url=member.url,
    )


def _published(value: float | None) -> float | None:
    return None if value is None or isnan(value) else float(value)
