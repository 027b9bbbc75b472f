"""The facts of a backbone and of its weights, and the network that is built of it."""

from __future__ import annotations

import csv
import textwrap
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files

from torch import nn

from transferkit._format import plain, table
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
        return {key: plain(value) for key, value in asdict(self).items()}

    def __str__(self) -> str:
        mean, std = (", ".join(f"{v:.3g}" for v in both) for both in (self.mean, self.std))
        stages = textwrap.wrap(", ".join(self.stages), 78 - _INDENT)
        facts = (
            ("parameters", f"{self.num_params:,}"),
            ("GFLOPs", "not known" if self.gflops is None else f"{self.gflops:.2f}"),
            ("feature width", f"{self.feature_dim}"),
            ("input", " x ".join(map(str, self.input_size))),
            ("mean, std", f"{mean}; {std}"),
            ("stages", f"\n{' ' * (_INDENT + 2)}".join(stages)),
            ("code licence", self.license or "not stated"),
        )
        lines = [self.name, *(f"  {key:<{_INDENT}}{value}" for key, value in facts), "", ""]
        rows = [_weights_row(spec, default=self.default_weights) for spec in self.weights]
        header = ("weights", "input", "classes", "top-1", "top-5", "licence")
        return "\n".join(lines) + (table(header, rows) if rows else "no pretrained weights")


@dataclass(frozen=True, slots=True)
class BackboneRow:
    """One backbone, with its default weights.

    Attributes:
        name: Full name: ``"torchvision/resnet50"``.
        num_params: Parameters, its own classifier included.
        gflops: Thousand million multiply-adds for one image of the default input; None where
            not known.
        feature_dim: Width of the features.
        image_size: Height and width of the default input.
        stages: How many stages it has, the head not counted.
        tags: How many sets of pretrained weights there are.
        weights: Tag of the default weights, or None.
        top1: Published ImageNet-1k accuracy of the default weights in percent, where known.
        license: Licence of the default weights, where known.
        non_commercial: Whether that licence forbids commercial use; None where not known.
    """

    name: str
    num_params: int
    gflops: float | None
    feature_dim: int
    image_size: tuple[int, int]
    stages: int
    tags: int = 0
    weights: str | None = None
    top1: float | None = None
    license: str | None = None
    non_commercial: bool | None = None


@cache
def packaged_rows() -> dict[str, BackboneRow]:
    """The packaged table by full name; its rows leave the weights' columns empty."""
    path = files("transferkit.backbones") / "catalog.csv"
    if not path.is_file():
        return {}
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
    rows = {}
    for row in csv.DictReader(lines):
        _, height, width = map(int, row["input_size"].split("x"))
        rows[row["name"]] = BackboneRow(
            name=row["name"],
            num_params=int(row["num_params"]),
            gflops=float(row["gflops"]) if row["gflops"] else None,
            feature_dim=int(row["feature_dim"]),
            image_size=(height, width),
            stages=int(row["stages"]),
        )
    return rows


@dataclass(slots=True)
class Network:
    """A network as a source builds it, its own classifier removed."""

    # Normalised images (B, C, H, W) to features (B, D). GoogLeNet and Inception in train mode
    # return a named tuple: the features and the auxiliary heads' outputs.
    module: nn.Module
    feature_dim: int
    input_size: InputSize
    mean: tuple[float, ...]  # of each channel, as std
    std: tuple[float, ...]
    interpolation: str
    classifier: str  # dotted name of what was removed; empty where there never was one
    aux: tuple[str, ...] = ()  # dotted names of the auxiliary classifiers' last layers
    num_params: int = 0  # of the published network, with its classifier


def _weights_row(spec: WeightsSpec, *, default: str | None) -> tuple[str, ...]:
    return (
        f"{spec.tag} (default)" if spec.tag == default else spec.tag,
        f"{spec.input_size[1]} x {spec.input_size[2]}",
        str(spec.num_classes or "-"),
        "-" if spec.top1 is None else f"{spec.top1:.2f} %",
        "-" if spec.top5 is None else f"{spec.top5:.2f} %",
        (spec.license or "not stated") + (" (no commercial use)" if spec.non_commercial else ""),
    )


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
    """Whether a licence, by its short name, forbids commercial use; None where not known."""
    if licence in _FORBID or (licence or "").startswith("cc-by-nc"):
        return True
    # Some of these have terms of their own to read first; none forbids commercial use as such.
    return False if licence in _ALLOW else None
