"""A table of backbones with their size, cost, accuracy and licence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from transferkit._format import plain, table
from transferkit._typing import JSON
from transferkit._validation import check_among
from transferkit.backbones.catalog import get_backbone_spec, list_backbones, resolve
from transferkit.backbones.spec import BackboneRow, packaged_rows

Order = Literal["name", "params", "gflops", "top1"]

_NAMED = ("backbone", "weights", "licence")
_HEADER = (*_NAMED, "params", "GFLOPs", "features", "input", "stages", "top-1")


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
        return {"backbones": plain([asdict(row) for row in self.rows])}


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
    check_among("order", order, get_args(Order))
    names = list_backbones(pattern, source=source, pretrained=pretrained, max_params=max_params)
    rows = [_row(name) for name in names]
    if order != "name":
        rows.sort(key=_SORT_KEYS[order])
    return BackboneTable(tuple(rows))


_SORT_KEYS: dict[str, Callable[[BackboneRow], float]] = {
    "params": lambda row: row.num_params,
    "gflops": lambda row: float("inf") if row.gflops is None else row.gflops,
    "top1": lambda row: 0.0 if row.top1 is None else -row.top1,
}


def _row(name: str) -> BackboneRow:
    found, row = resolve(name), packaged_rows().get(name)
    if row is None:  # a network newer than the packaged table
        spec = get_backbone_spec(name)
        size, stages = spec.input_size[1:], len(spec.stages)
        row = BackboneRow(name, spec.num_params, None, spec.feature_dim, size, stages)
    if not (specs := found.source.weights(found.name)):
        return row
    return replace(
        row,
        tags=len(specs),
        weights=specs[0].tag,
        top1=specs[0].top1,
        license=specs[0].license,
        non_commercial=specs[0].non_commercial,
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
