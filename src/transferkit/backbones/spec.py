"""What a backbone is: its published facts, the network a source builds, and what a source is."""

from __future__ import annotations

import csv
import textwrap
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Protocol

from torch import nn

from transferkit._format import table
from transferkit._typing import JSON

InputSize = tuple[int, int, int]
"""Channels, height and width of an input."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_INDENT = 15


class LicenseWarning(UserWarning):
    """The weights being loaded have a licence that forbids commercial use."""


@dataclass(frozen=True, slots=True)
class WeightsSpec:
    """One set of pretrained weights of a backbone, as its library publishes it.

    Attributes:
        tag: The name that ``weights=`` takes: ``"IMAGENET1K_V2"``, ``"a1_in1k"``.
        input_size: Channels, height and width that the weights expect.
        mean: Mean of each channel, on the scale where white is 1.
        std: Standard deviation of each channel, on the same scale.
        interpolation: How images are resized: ``"bilinear"`` or ``"bicubic"``.
        num_classes: Classes of the published classifier; 0 where there is none.
        top1: Published ImageNet-1k accuracy in percent, where the library carries it.
        top5: Published ImageNet-1k top-5 accuracy in percent, where the library carries it.
        license: Licence of the weights, where the library states one.
        non_commercial: Whether that licence forbids commercial use; None where not known.
        url: Where the weights are published.
    """

    tag: str
    input_size: InputSize
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    num_classes: int
    top1: float | None = None
    top5: float | None = None
    license: str | None = None
    non_commercial: bool | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """The published facts of one backbone.

    Attributes:
        name: Full name, with its source: ``"torchvision/resnet50"``.
        source: The source that builds it: ``"torchvision"``.
        num_params: Parameters of the published network, its own classifier included.
        feature_dim: Width D of the features, measured on a forward pass.
        stages: Names of its stages from input to output, without the head.
        input_size: Channels, height and width of its default input.
        mean: Mean of each channel that its default weights expect.
        std: Standard deviation of each channel that its default weights expect.
        weights: The pretrained weights there are, the default first.
        license: Licence of the code that builds it, where known.
        default_weights: Tag of the default weights, or None where there are none.
        gflops: Thousand million multiply-adds for one image of the default input; None where
            not known.
    """

    name: str
    source: str
    num_params: int
    feature_dim: int
    stages: tuple[str, ...]
    input_size: InputSize
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: tuple[WeightsSpec, ...] = ()
    license: str | None = None
    default_weights: str | None = None
    gflops: float | None = None

    def to_dict(self) -> dict[str, JSON]:
        """The spec as plain lists, numbers and strings, ready for JSON."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    def __str__(self) -> str:
        channels, height, width = self.input_size
        facts = (
            ("parameters", f"{self.num_params:,}"),
            ("GFLOPs", "not known" if self.gflops is None else f"{self.gflops:.2f}"),
            ("feature width", f"{self.feature_dim}"),
            ("input", f"{channels} x {height} x {width}"),
            ("mean, std", f"{_numbers(self.mean)}; {_numbers(self.std)}"),
            ("stages", _wrapped(self.stages)),
            ("code licence", self.license or "not stated"),
        )
        lines = [self.name, *(f"  {key:<{_INDENT}}{value}" for key, value in facts), "", ""]
        weights = _weights_table(self.weights, self.default_weights)
        return "\n".join(lines) + (weights or "no pretrained weights")


@dataclass(slots=True)
class Network:
    """A network as a source builds it, with its own classifier removed.

    Attributes:
        module: Normalised images (B, C, H, W) to features (B, D). GoogLeNet and Inception in
            train mode return a named tuple: the features and the auxiliary heads' outputs.
        feature_dim: Width D of the features.
        input_size: Channels, height and width that it was built for.
        mean: Mean of each of the C channels, to normalise images with.
        std: Standard deviation of each of the C channels.
        interpolation: How images are resized: ``"bilinear"`` or ``"bicubic"``.
        classifier: Dotted name, in the source's layout, of the classifier that was removed;
            empty where the network never had one.
        aux: Dotted names of the auxiliary classifiers' last layers, or ``()``.
    """

    module: nn.Module
    feature_dim: int
    input_size: InputSize
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    classifier: str
    aux: tuple[str, ...] = ()


class Source(Protocol):
    """A library of backbones. Bare names only: the catalog puts the source's name before them."""

    @property
    def name(self) -> str:
        """The source's own name, the part of a full name before the slash."""

    def names(self) -> tuple[str, ...]:
        """Every backbone of the source, in the order to list them."""

    def weights(self, name: str) -> tuple[WeightsSpec, ...]:
        """The pretrained weights of a backbone, the default first; cheap, builds nothing."""

    def spec(self, name: str) -> BackboneSpec:
        """The facts of a backbone. May build it without memory to measure it."""

    def build(
        self,
        name: str,
        *,
        weights: str | Path | None,
        in_channels: int,
        image_size: tuple[int, int] | None,
    ) -> Network:
        """Build a backbone without its classifier.

        Args:
            name: One of ``names()``.
            weights: ``"default"``, a tag, a file in the source's key layout, or None (random).
            in_channels: Channels C of the images.
            image_size: Height and width, or None for the weights' own.
        """


def _weights_table(weights: tuple[WeightsSpec, ...], default: str | None) -> str:
    """The tags with what is published of them, the default first; empty where there are none."""
    rows = [
        (
            f"{spec.tag} (default)" if spec.tag == default else spec.tag,
            f"{spec.input_size[1]} x {spec.input_size[2]}",
            str(spec.num_classes or "-"),
            _percent(spec.top1),
            _percent(spec.top5),
            (spec.license or "not stated")
            + (" (no commercial use)" if spec.non_commercial else ""),
        )
        for spec in weights
    ]
    header = ("weights", "input", "classes", "top-1", "top-5", "licence")
    return table(header, rows) if rows else ""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _wrapped(names: tuple[str, ...]) -> str:
    """Names in lines of a terminal's usual width, indented like the facts."""
    indent = " " * (_INDENT + 2)
    return textwrap.fill(", ".join(names), 80, initial_indent=indent, subsequent_indent=indent)[
        len(indent) :
    ]


def _plain(value: object) -> JSON:
    """Tuples as lists, all the way down."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"not a plain value: {value!r}")


_FORBID = frozenset(
    {
        "apple-amlr",  # research purposes only
        "cc-by-nc-4.0",
        "fair-noncommercial-research-license",
        "seer-license",  # non-commercial research only
    }
)
_ALLOW = frozenset(
    {
        "apache-2.0",
        "apple-ascl",
        "bsd-3-clause",
        "cc-by-4.0",
        "cvnets-license",
        "dinov3-license",
        "fastvit-license",
        "gemma",
        "mit",
        "mobileone-license",
        "nvidia-open-model-license",
    }
)


def forbids_commercial_use(licence: str | None) -> bool | None:
    """Whether a licence, by its short name, forbids commercial use; None where not known.

    False means only that commercial use is not forbidden as such: some of these licences have
    terms of their own to read first.
    """
    if licence in _FORBID or (licence or "").startswith("cc-by-nc"):
        return True
    return False if licence in _ALLOW else None


_FILE = "catalog.csv"


@dataclass(frozen=True, slots=True)
class Measures:
    """What was measured of one backbone when the table was made.

    Attributes:
        num_params: Parameters, its own classifier included.
        feature_dim: Width of the features.
        gflops: Thousand million multiply-adds for one image of the default input; None where
            it was not counted.
        image_size: Height and width of the default input.
        stages: How many stages it has.
    """

    num_params: int
    feature_dim: int
    gflops: float | None
    image_size: tuple[int, int]
    stages: int


@cache
def published_measures() -> dict[str, Measures]:
    """The packaged table: full names to measures."""
    path = files("transferkit.backbones") / _FILE
    if not path.is_file():
        return {}
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
    return {row["name"]: _measures(row) for row in csv.DictReader(lines)}


def _measures(row: dict[str, str]) -> Measures:
    _, height, width = map(int, row["input_size"].split("x"))
    return Measures(
        num_params=int(row["num_params"]),
        feature_dim=int(row["feature_dim"]),
        gflops=float(row["gflops"]) if row["gflops"] else None,
        image_size=(height, width),
        stages=int(row["stages"]),
    )
