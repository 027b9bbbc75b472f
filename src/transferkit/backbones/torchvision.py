"""torchvision's image classifiers, by torchvision's own listing and metadata."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import isnan, isqrt
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlparse

from torch import nn
from torch.hub import get_dir
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from transferkit.backbones.channels import adapt_first_layers, adapt_statistics, replace_module
from transferkit.backbones.meta_forward import (
    LeafCall,
    check_size,
    count_parameters,
    leaf_calls,
    skeleton,
)
from transferkit.backbones.spec import BackboneSpec, InputSize, Network, WeightsSpec
from transferkit.backbones.stages import trace_stages
from transferkit.backbones.weights import (
    StateDict,
    choose_weights,
    fetch,
    load_weights,
    read_state_dict,
    state_dict_of,
    warn_of_licence,
)
from transferkit.errors import UnknownNameError

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

_CODE_LICENCE = "bsd-3-clause"
_SWAG_LICENCE = "cc-by-nc-4.0"
_WITH_AUX = {"googlenet": ("aux1.fc2", "aux2.fc2"), "inception_v3": ("AuxLogits.fc",)}
_POSITIONS = "encoder.pos_embedding"
_HALF = (0.5, 0.5, 0.5)
_OLD_DENSE_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")


class TorchvisionSource:
    """The source named ``torchvision``."""

    name = "torchvision"

    def names(self) -> tuple[str, ...]:
        """Every classifier of torchvision; not its detectors, segmenters or video networks."""
        return tuple(models.list_models(module=models))

    def weights(self, name: str) -> tuple[WeightsSpec, ...]:
        """The tags of ``name``, its default first."""
        enum = self._enum(name)
        default = enum["DEFAULT"]
        others = [member for member in enum if member is not default]
        return tuple(map(_weights_spec, (default, *others)))

    def spec(self, name: str) -> BackboneSpec:
        """Measure ``name`` on a network without memory, at the input of its default weights."""
        weights = self.weights(name)
        anatomy = _anatomy(name, weights[0].input_size[1:])
        return BackboneSpec(
            name=f"{self.name}/{name}",
            source=self.name,
            num_params=anatomy.num_params,
            feature_dim=anatomy.feature_dim,
            stages=_stage_names(name, weights[0].input_size),
            input_size=weights[0].input_size,
            mean=weights[0].mean,
            std=weights[0].std,
            weights=weights,
            license=_CODE_LICENCE,
            default_weights=weights[0].tag,
        )

    def build(
        self,
        name: str,
        *,
        weights: str | Path | None,
        in_channels: int = 3,
        image_size: tuple[int, int] | None = None,
    ) -> Network:
        """Build ``name`` without its classifier.

        Raises:
            ConfigError: The network cannot take ``image_size`` or ``in_channels``.
            WeightsError: The weights cannot be fetched, read or fitted.
        """
        specs = self.weights(name)
        chosen = choose_weights(weights, specs, name=f"{self.name}/{name}")
        spec = chosen if isinstance(chosen, WeightsSpec) else specs[0]
        size = spec.input_size[1:] if image_size is None else image_size
        if image_size is not None:
            check_size(f"{self.name}/{name}", size, lambda s: _anatomy(name, s))
        anatomy = _anatomy(name, size)
        given = None if chosen is None else self._read(name, chosen)
        module = _construct(name, size)
        replace_module(module, anatomy.classifier, nn.Identity())
        if given is not None:
            load_weights(
                module,
                _up_to_date(given.state, module),
                name=f"{self.name}/{name}",
                origin=given.origin,
                dropped=(anatomy.classifier, *_WITH_AUX.get(name, ()), *given.lacks),
            )
        mean, std = spec.mean, spec.std
        if in_channels != 3:
            adapt_first_layers(module, anatomy.calls, in_channels)
            if name in _WITH_AUX:
                mean, std = _normalise_plainly(module)
        return Network(
            module=module,
            feature_dim=anatomy.feature_dim,
            input_size=(in_channels, *size),
            mean=adapt_statistics(mean, in_channels),
            std=adapt_statistics(std, in_channels),
            interpolation=spec.interpolation,
            classifier=anatomy.classifier,
            aux=_WITH_AUX.get(name, ()),
        )

    def _enum(self, name: str) -> type[WeightsEnum]:
        if name not in self.names():
            raise UnknownNameError.among(f"{self.name} backbone", name, self.names())
        return cast("type[WeightsEnum]", models.get_model_weights(name))

    def _read(self, name: str, chosen: WeightsSpec | Path) -> _Given:
        """The weights of a file or a tag, before any network is built."""
        if isinstance(chosen, Path):
            return _Given(read_state_dict(chosen), str(chosen))
        full, member = f"{self.name}/{name}", self._enum(name)[chosen.tag]
        warn_of_licence(chosen, name=full)
        address = None if _is_cached(member) else member.url
        state = fetch(lambda: _download(member), name=full, tag=chosen.tag, url=address)
        origin = f"the weights {chosen.tag!r}"
        if chosen.num_classes:
            return _Given(state, origin)
        # VGG16's features alone: its fully connected layers are NaN in the file, and start random.
        kept = ((key, value) for key, value in state.items() if not key.startswith("classifier."))
        return _Given(state_dict_of(state, kept), origin, lacks=("classifier",))


@dataclass(frozen=True, slots=True, eq=False)
class _Given:
    """Weights to load: where they come from, and which modules they leave as they are."""

    state: StateDict
    origin: str
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Anatomy:
    """What one forward pass of a network without memory shows."""

    num_params: int
    feature_dim: int
    classifier: str
    calls: tuple[LeafCall, ...]


SOURCE = TorchvisionSource()


@lru_cache(maxsize=256)
def _anatomy(name: str, size: tuple[int, int]) -> _Anatomy:
    """Measure ``name`` at an image size; fails where the network cannot take the size."""
    module = skeleton(lambda: _construct(name, size))
    calls = leaf_calls(module, (3, *size))
    classifier = calls[-1].name
    return _Anatomy(
        num_params=count_parameters(module),
        feature_dim=module.get_parameter(f"{classifier}.weight").shape[1],
        classifier=classifier,
        calls=calls,
    )


def _stage_names(name: str, input_size: InputSize) -> tuple[str, ...]:
    module = skeleton(lambda: _construct(name, input_size[1:]))
    head = _anatomy(name, input_size[1:]).classifier
    stages = trace_stages(module, input_size, head=(head, *_WITH_AUX.get(name, ())))
    return tuple(stage.name for stage in stages[:-1])


def _construct(name: str, size: tuple[int, int]) -> nn.Module:
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


def _normalise_plainly(module: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Turn off GoogLeNet's and Inception's own change of normalisation, which needs 3 channels.

    It turns ImageNet's mean and deviation into one half each, so images normalised by one half
    give the same numbers without it.
    """
    module.__dict__["transform_input"] = False
    return _HALF, _HALF


def _download(member: WeightsEnum) -> StateDict:
    """Fetch a published state dict into torch's cache, its hash checked, nothing unpickled."""
    state = member.get_state_dict(progress=True, check_hash=True, weights_only=True)
    return state_dict_of(state, state.items())


def _is_cached(member: WeightsEnum) -> bool:
    return (Path(get_dir()) / "checkpoints" / Path(urlparse(member.url).path).name).is_file()


def _up_to_date(state: StateDict, module: nn.Module) -> StateDict:
    """Bring old densenet keys up to date and position embeddings to the network's image size."""
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
    """What torchvision publishes of one set of weights."""
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
