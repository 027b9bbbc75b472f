"""Backbones side by side: what to choose from, in one table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from transferkit._format import table
from transferkit._typing import JSON
from transferkit.backbones.catalog import get_backbone_spec, list_backbones, resolve
from transferkit.backbones.spec import Measures, WeightsSpec, published_measures
from transferkit.errors import ConfigError

Order = Literal["name", "params", "gflops", "top1"]

_NAMED = ("backbone", "weights", "licence")
_HEADER = (*_NAMED, "params", "GFLOPs", "features", "input", "stages", "top-1")


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
    tags: int
    weights: str | None
    top1: float | None
    license: str | None
    non_commercial: bool | None


@dataclass(frozen=True, slots=True)
class BackboneTable:
    """Backbones side by side; prints as a table."""

    rows: tuple[BackboneRow, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[BackboneRow]:
        return iter(self.rows)

    def __str__(self) -> str:
        return table(_HEADER, [_cells(row) for row in self.rows], left=len(_NAMED))

    def to_dict(self) -> dict[str, JSON]:
        """The rows as dictionaries of plain values, ready for JSON."""
        return {"backbones": [_plain(row) for row in self.rows]}


def backbone_table(
    pattern: str = "*",
    *,
    source: str | None = None,
    pretrained: bool = False,
    max_params: int | None = None,
    order: Order = "name",
) -> BackboneTable:
    """Look up the backbones that match, with what there is to choose them by.

    Nothing is built: the figures come from a table in the package, and only networks newer
    than it are measured.

    Args:
        pattern: Shell-style, on the full or the bare name, as in ``list_backbones``.
        source: One source only.
        pretrained: Only those with pretrained weights.
        max_params: Only those with at most so many parameters.
        order: ``"name"`` as listed; ``"params"`` and ``"gflops"``, the smallest first;
            ``"top1"``, the best first and those without a published figure last.

    Raises:
        UnknownNameError: There is no such source.
        ConfigError: There is no such order.

    Example:
        >>> import transferkit as tk
        >>> table = tk.backbone_table("squeezenet*", source="torchvision", order="top1")
        >>> for row in table:
        ...     print(row.name, row.num_params, row.gflops, row.top1)
        torchvision/squeezenet1_1 1235496 0.349 58.178
        torchvision/squeezenet1_0 1248424 0.819 58.092
    """
    names = list_backbones(pattern, source=source, pretrained=pretrained, max_params=max_params)
    rows = [_row(name) for name in names]
    if order == "params":
        rows.sort(key=lambda row: row.num_params)
    elif order == "gflops":
        rows.sort(key=lambda row: float("inf") if row.gflops is None else row.gflops)
    elif order == "top1":
        rows.sort(key=lambda row: -1.0 if row.top1 is None else row.top1, reverse=True)
    elif order != "name":
        raise ConfigError(f"expected order 'name', 'params', 'gflops' or 'top1', got {order!r}")
    return BackboneTable(tuple(rows))


def _row(name: str) -> BackboneRow:
    measures = published_measures().get(name) or _measure(name)
    found = resolve(name)
    specs = found.source.weights(found.name)
    default: WeightsSpec | None = specs[0] if specs else None
    return BackboneRow(
        name=name,
        num_params=measures.num_params,
        gflops=measures.gflops,
        feature_dim=measures.feature_dim,
        image_size=measures.image_size,
        stages=measures.stages,
        tags=len(specs),
        weights=default.tag if default else None,
        top1=default.top1 if default else None,
        license=default.license if default else None,
        non_commercial=default.non_commercial if default else None,
    )


def _measure(name: str) -> Measures:
    """Measures of a backbone that the packaged table does not hold."""
    spec = get_backbone_spec(name)
    return Measures(
        num_params=spec.num_params,
        feature_dim=spec.feature_dim,
        gflops=None,
        image_size=spec.input_size[1:],
        stages=len(spec.stages),
    )


def _cells(row: BackboneRow) -> tuple[str, ...]:
    licence = (row.license or "-") + (" (no commercial use)" if row.non_commercial else "")
    more = f" (+{row.tags - 1})" if row.tags > 1 else ""
    return (
        row.name,
        f"{row.weights}{more}" if row.weights else "-",
        licence,
        f"{row.num_params / 1e6:.1f} M",
        "-" if row.gflops is None else f"{row.gflops:.2f}",
        str(row.feature_dim),
        f"{row.image_size[0]} x {row.image_size[1]}",
        str(row.stages),
        "-" if row.top1 is None else f"{row.top1:.1f}",
    )


def _plain(row: BackboneRow) -> dict[str, JSON]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(row).items()}
