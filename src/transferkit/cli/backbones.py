"""``transferkit list`` and ``transferkit info``: what there is to choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from transferkit.backbones.listing import Order


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
    from transferkit.backbones.catalog import list_backbones, resolve
    from transferkit.backbones.listing import backbone_table

    limit = None if max_params is None else round(max_params * 1e6)
    rows = backbone_table(
        pattern, source=source, pretrained=pretrained, max_params=limit, order=order
    )
    if len(rows):
        click.echo(rows if as_table else "\n".join(row.name for row in rows))
        return
    if not set("*?[") & set(pattern) and not list_backbones(f"*{pattern}*"):
        resolve(pattern)  # raises: no backbone goes by that name; gives the nearest
    click.echo(f"no backbone matches{_widened(pattern)}", err=True)


def _widened(pattern: str) -> str:
    """What a wider pattern, or the pattern without the other options, would find."""
    from transferkit.backbones.catalog import list_backbones

    for wider in (pattern, f"{pattern}*", f"*{pattern}*"):
        count = len(list_backbones(wider))
        if count and wider == pattern:
            return f" all the options; {wider!r} alone matches {count}"
        if count:
            return f" {pattern!r}; {wider!r} matches {count}"
    return f" {pattern!r}"


@click.command("info")
@click.argument("name")
def info_command(name: str) -> None:
    """Show what is known of the backbone NAME: size, stages, weights, licences."""
    from transferkit.backbones.catalog import get_backbone_spec

    click.echo(get_backbone_spec(name))
