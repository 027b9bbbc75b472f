"""``transferkit list`` and ``transferkit info``: what there is to choose from."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from transferkit._text import table

if TYPE_CHECKING:
    from transferkit.backbones.listing import Order
    from transferkit.backbones.spec import BackboneSpec, WeightsSpec


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--source", help="Only this library: torchvision, timm or transferkit.")
@click.option("--pretrained", is_flag=True, help="Only backbones that have pretrained weights.")
@click.option("--max-params", type=float, help="At most this many parameters, in millions.")
@click.option("--table", "as_table", is_flag=True, help="With size, cost, licence and accuracy.")
@click.option(
    "--order",
    type=click.Choice(["name", "params", "gflops", "top1"]),
    default="name",
    show_default=True,
    help="Smallest first, or the most accurate first.",
)
def list_command(
    pattern: str,
    source: str | None,
    pretrained: bool,
    max_params: float | None,
    as_table: bool,
    order: Order,
) -> None:
    """List the backbones whose name matches PATTERN, such as 'resnet*'."""
    from transferkit.backbones.catalog import resolve
    from transferkit.backbones.listing import backbone_table

    limit = None if max_params is None else round(max_params * 1e6)
    rows = backbone_table(
        pattern, source=source, pretrained=pretrained, max_params=limit, order=order
    )
    if not len(rows) and not set("*?[") & set(pattern):
        resolve(pattern)  # raises where no backbone goes by that name, and gives the nearest
    if not len(rows):
        click.echo("no backbone matches", err=True)
    else:
        click.echo(rows if as_table else "\n".join(row.name for row in rows))


@click.command("info")
@click.argument("name")
def info_command(name: str) -> None:
    """Show what is known of the backbone NAME: size, stages, weights, licences."""
    from transferkit.backbones.catalog import get_backbone_spec

    click.echo(describe(get_backbone_spec(name)))


def describe(spec: BackboneSpec) -> str:
    """The facts of one backbone and a table of its pretrained weights."""
    channels, height, width = spec.input_size
    facts = [
        ("backbone", spec.name),
        ("parameters", f"{spec.num_params:,}"),
        ("feature width", str(spec.feature_dim)),
        ("input", f"{channels} x {height} x {width}"),
        ("mean, std", f"{numbers(spec.mean)}; {numbers(spec.std)}"),
        ("stages", stage_names(spec.stages)),
        ("licence", spec.license or "not stated"),
    ]
    lines = "\n".join(f"{key:<14}{value}" for key, value in facts)
    if not spec.weights:
        return f"{lines}\n\nno pretrained weights"
    header = ("weights", "input", "classes", "top-1", "top-5", "licence")
    rows = [weights_row(weights, spec.default_weights) for weights in spec.weights]
    return f"{lines}\n\n{table(header, rows)}"


def weights_row(weights: WeightsSpec, default: str | None) -> tuple[str, ...]:
    """One row of the table of weights; the default tag is marked."""
    return (
        f"{weights.tag} (default)" if weights.tag == default else weights.tag,
        f"{weights.input_size[1]} x {weights.input_size[2]}",
        str(weights.num_classes),
        "-" if weights.top1 is None else f"{weights.top1:.2f} %",
        "-" if weights.top5 is None else f"{weights.top5:.2f} %",
        (weights.license or "not stated")
        + (" (no commercial use)" if weights.non_commercial else ""),
    )


def stage_names(stages: tuple[str, ...]) -> str:
    """The stages from input to output, wrapped to the terminal's usual width."""
    return textwrap.fill(", ".join(stages), 80, subsequent_indent=" " * 14)


def numbers(values: tuple[float, ...]) -> str:
    """A short rendering of per-channel numbers."""
    return ", ".join(f"{value:.3g}" for value in values)
