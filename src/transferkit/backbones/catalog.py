"""The catalog: every backbone of every source, by name.

A full name carries its source, ``"torchvision/resnet50"``. A bare name resolves to the first
source that has it, torchvision before timm. A tag may follow a dot, ``"resnet50.a1_in1k"``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import cast

from torch import nn

from transferkit._validation import check_number, check_sequence, check_text, to_path
from transferkit.backbones.channels import adapt_statistics
from transferkit.backbones.registered import RegisteredSource, Registration, check_registration
from transferkit.backbones.source import Source
from transferkit.backbones.spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BackboneSpec,
    InputSize,
    Network,
    WeightsSpec,
    packaged_rows,
)
from transferkit.backbones.weights import saved_facts
from transferkit.errors import ConfigError, UnknownNameError

# In the order in which a bare name is looked for. Each module holds one ``SOURCE`` and is
# imported when its source is first asked, so that torchvision never waits for timm.
_LIBRARIES = {
    "torchvision": "transferkit.backbones.torchvision",
    "timm": "transferkit.backbones.timm",
    "transferkit": "transferkit.backbones.embedded",
}
_OWN = "user"
_FILE_TAG = "file"  # of the weights file that a network was registered with
_registered: dict[str, RegisteredSource] = {}


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name stands for: a backbone of a source, with a tag if the name has one."""

    source: Source
    name: str
    tag: str | None = None

    def weights(self) -> WeightsSpec | None:
        """The weights of the tag, or None without a tag."""
        specs = self.source.weights(self.name)
        return next((spec for spec in specs if spec.tag == self.tag), None)

    @property
    def full_name(self) -> str:
        """The name with its source, without the tag."""
        return f"{self.source.name}/{self.name}"


def list_backbones(
    pattern: str = "*",
    *,
    source: str | None = None,
    pretrained: bool = False,
    max_params: int | None = None,
) -> list[str]:
    """List backbones by name, in the order of their sources.

    Args:
        pattern: Shell-style, on the full or the bare name: ``"resnet*"``, ``"timm/vit_*"``;
            upper and lower case are the same.
        source: One source only: ``"torchvision"``, ``"timm"``, ``"transferkit"``, ``"user"``.
        pretrained: Only those with pretrained weights.
        max_params: Only those with at most so many parameters, their own classifier included.

    Returns:
        Full names, such as ``"torchvision/resnet50"``; empty where nothing matches.

    Raises:
        UnknownNameError: There is no such source.

    Example:
        >>> import transferkit as tk
        >>> tk.list_backbones("resnet1*", source="torchvision")
        ['torchvision/resnet101', 'torchvision/resnet152', 'torchvision/resnet18']
        >>> tk.list_backbones("squeezenet*", max_params=1_240_000, source="torchvision")
        ['torchvision/squeezenet1_1']
    """
    check_text("pattern", pattern)
    if source is not None:
        check_text("source", source)
    if max_params is not None:
        check_number("max_params", max_params, least=0)
    prefix, slash, _ = pattern.lower().partition("/")
    found = []
    for one in _sources() if source is None else [_source(source)]:
        if slash and not fnmatchcase(one.name, prefix):
            continue
        for name in one.names():
            full = f"{one.name}/{name}"
            text = full if slash else name
            if fnmatchcase(text.lower(), pattern.lower()) and (not pretrained or one.weights(name)):
                found.append(full)
    return [name for name in found if max_params is None or count_params(name) <= max_params]


def get_backbone_spec(name: str) -> BackboneSpec:
    """Measure and look up the facts of a backbone, without memory for its weights.

    Args:
        name: A full name, a bare name, or either with a tag: then that tag is the default.

    Raises:
        UnknownNameError: Nothing goes by that name; the nearest names are given.

    Example:
        >>> import transferkit as tk
        >>> spec = tk.get_backbone_spec("resnet18")
        >>> spec.num_params, spec.feature_dim, spec.input_size
        (11689512, 512, (3, 224, 224))
        >>> spec.stages
        ('conv1', 'layer1', 'layer2', 'layer3', 'layer4')
        >>> spec.weights[0].tag, spec.weights[0].top1
        ('IMAGENET1K_V1', 69.758)
    """
    found = resolve(name)
    row = packaged_rows().get(found.full_name)
    spec = replace(found.source.spec(found.name), gflops=row.gflops if row else None)
    first = found.weights()
    if first is None:
        return spec
    others = tuple(weights for weights in spec.weights if weights != first)
    return replace(
        spec,
        input_size=first.input_size,
        mean=first.mean,
        std=first.std,
        weights=(first, *others),
        default_weights=first.tag,
        gflops=spec.gflops if first.input_size == spec.input_size else None,
    )


def build_network(
    name: str,
    *,
    weights: str | Path | None = "default",
    in_channels: int = 3,
    image_size: int | tuple[int, int] | None = None,
) -> Network:
    """Build a backbone, its own classifier removed; the options are those of ``create_classifier``.

    The image size and the normalisation are those of the weights: of a saved classifier as it was
    saved; with another file or None, those of a tag in the name.
    """
    found = resolve(name)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    named = found.weights()
    if named is not None and weights in ("default", named.tag):
        weights, named = named.tag, None
    if named is not None and weights in {spec.tag for spec in found.source.weights(found.name)}:
        raise ConfigError(
            f"{found.full_name}.{found.tag} names its weights already, got weights={weights!r} "
            "too. Leave one of them out."
        )
    file = Path(weights) if weights is not None and Path(weights).is_file() else None
    facts = (saved_facts(file) if file else None) or named
    size = size or (facts.input_size[1:] if facts else None)
    network = found.source.build(
        found.name, weights=weights, in_channels=in_channels, image_size=size
    )
    # GoogLeNet and Inception normalise otherwise for other channels
    if facts is not None and not (network.aux and facts.input_size[0] != in_channels):
        network.mean = adapt_statistics(facts.mean, in_channels)
        network.std = adapt_statistics(facts.std, in_channels)
        network.interpolation = facts.interpolation
    return network


def register_backbone(
    name: str,
    build: Callable[[], nn.Module],
    *,
    feature_dim: int | None = None,
    input_size: InputSize = (3, 224, 224),
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    interpolation: str = "bilinear",
    weights: str | Path | None = None,
    old_head: str | Sequence[str] = (),
    replace: bool = False,
) -> None:
    """Put a network of your own in the catalog, for this process.

    Args:
        name: ``"mynet"``, which becomes ``"user/mynet"``, or with a prefix of your own,
            ``"lab/mynet"``.
        build: Makes the network, without a classifier: normalised images (B, C, H, W) to
            features (B, D); tokens (B, N, D) and maps (B, D, H, W) are averaged to that.
        feature_dim: Width D of the features, checked if given, else measured.
        input_size: Channels, height and width of the images that it is made for.
        mean: Mean of each channel to normalise images with; by default that of a saved classifier
            given as ``weights``, else ImageNet's.
        std: Standard deviation of each channel, likewise.
        interpolation: How images are resized: ``"bilinear"`` or ``"bicubic"``.
        weights: A ``.safetensors`` or ``.pth`` file that ``weights="default"`` loads; without
            one, ``"default"`` keeps what ``build`` returns.
        old_head: Names of the modules in the file that were the network's own classifier
            (``"fc"``), which are left out; if there are such and none is named, the error lists
            them.
        replace: Whether a network of that name may be replaced.

    Raises:
        ConfigError: The name is taken or cannot be a name, or the statistics do not fit the
            channels.

    Warns:
        UserWarning: When it is built, if it seems to end in its own classifier still.

    Example:
        >>> import transferkit as tk
        >>> from torch import nn
        >>> def small():
        ...     return nn.Sequential(nn.Conv2d(1, 8, kernel_size=3), nn.ReLU())
        >>> tk.register_backbone("small", small, input_size=(1, 28, 28), mean=(0.5,), std=(0.25,))
        >>> tk.create_classifier("user/small", 2, in_channels=1).feature_dim
        8
    """
    check_text("name", name)
    prefix, bare = _own_name(name)
    path = None if weights is None else to_path("weights", weights)
    saved = saved_facts(path) if path is not None and path.is_file() else None
    mean = (saved.mean if saved else IMAGENET_MEAN) if mean is None else mean
    std = (saved.std if saved else IMAGENET_STD) if std is None else std
    check_registration(build, input_size, mean, std)
    source = _registered.get(prefix, RegisteredSource(prefix))
    if bare in source.entries and not replace:
        raise ConfigError(f"{prefix}/{bare} is registered. Pass replace=True to replace it.")
    facts = WeightsSpec(_FILE_TAG, input_size, mean, std, interpolation, num_classes=0)
    heads = (old_head,) if isinstance(old_head, str) else old_head
    check_sequence("old_head", heads)
    source.entries[bare] = Registration(build, feature_dim, facts, path, tuple(heads))
    _registered[prefix] = source


def resolve(name: str) -> Resolved:
    """Find the source of a name: a full name, a bare one, or either with a tag after a dot."""
    check_text("The name of a backbone", name)
    prefix, slash, bare = name.rpartition("/")
    for source in [_source(prefix)] if slash else _sources():
        if (found := _find(source, bare)) is not None:
            return found
    raise _unknown([_source(prefix)] if slash else list(_sources()), bare)


def count_params(name: str) -> int:
    """Parameters of a backbone, from the packaged table or measured where it is not there."""
    return (packaged_rows().get(name) or get_backbone_spec(name)).num_params


def _sources() -> Iterator[Source]:
    """Every source in order, each imported only when it is reached."""
    yield from map(_library, _LIBRARIES)
    yield from _registered.values()


@cache
def _library(name: str) -> Source:
    return cast(Source, import_module(_LIBRARIES[name]).SOURCE)


def _source(name: str) -> Source:
    if name in _LIBRARIES:
        return _library(name)
    if name in _registered:
        return _registered[name]
    raise UnknownNameError.among("source of backbones", name, [*_LIBRARIES, *_registered])


def _find(source: Source, name: str) -> Resolved | None:
    names = source.names()
    if name in names:
        return Resolved(source, name)
    bare, dot, tag = name.partition(".")
    if dot and bare in names and any(tag == spec.tag for spec in source.weights(bare)):
        return Resolved(source, bare, tag)
    return None


def _unknown(sources: list[Source], name: str) -> UnknownNameError:
    """The error for an unknown tag of a backbone, or for an unknown backbone."""
    prefix = f"{sources[0].name}/" if len(sources) == 1 else ""
    bare, dot, tag = name.partition(".")
    having = [source for source in sources if bare in source.names()]
    if dot and having:
        tags = [spec.tag for source in having for spec in source.weights(bare)]
        return UnknownNameError.among(f"weights of {prefix}{bare}", tag, dict.fromkeys(tags))
    kind = f"{sources[0].name} backbone" if prefix else "backbone"
    retired: Callable[[str], str | None] = import_module(_LIBRARIES["timm"]).renamed
    renamed = retired(bare) if _library("timm") in sources else None
    if renamed:
        return UnknownNameError(f"Unknown {kind} {name!r}. It is now named {renamed!r}.")
    known = dict.fromkeys(known for source in sources for known in source.names())
    return UnknownNameError.among(kind, name, known, hint="List them with list_backbones().")


def _own_name(name: str) -> tuple[str, str]:
    """Split a name for registration into its prefix and its bare name."""
    prefix, slash, bare = name.rpartition("/")
    prefix = prefix if slash else _OWN
    if prefix in _LIBRARIES:
        raise ConfigError(f"The prefix of {name!r} is a library's. Choose another.")
    if not re.fullmatch(r"[\w.\-]+", bare) or not re.fullmatch(r"[\w\-]+", prefix):
        raise ConfigError(f"A name must be letters, digits, '_', '-' and '.', got {name!r}.")
    return prefix, bare
