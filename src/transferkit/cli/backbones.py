"""``transferkit list``, ``info`` and ``cache``: the backbones, and the files kept between runs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from transferkit._format import table
from transferkit.cli.options import FOLDER

if TYPE_CHECKING:
    from transferkit.backbones.table import Order

MEGABYTE = 1e6


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
    from transferkit.backbones.table import backbone_table

    limit = None if max_params is None else round(max_params * 1e6)
    rows = backbone_table(
        pattern, source=source, pretrained=pretrained, max_params=limit, order=order
    )
    if len(rows):
        click.echo(rows if as_table else "\n".join(row.name for row in rows))
        return
    if not set("*?[") & set(pattern) and not list_backbones(f"*{pattern}*"):
        resolve(pattern)  # an unknown name: the error lists the nearest ones
    click.echo(f"no backbone matches{_wider_search(pattern)}", err=True)


def _wider_search(pattern: str) -> str:
    """The pattern, and how many a wider one, or the pattern without other options, would match."""
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
    """Show size, stages, weights and licences of the backbone NAME."""
    from transferkit.backbones.catalog import get_backbone_spec

    click.echo(get_backbone_spec(name))


@click.command("cache")
@click.option("--clear", is_flag=True, help="Remove everything in the cache.")
@click.option(
    "--folder", type=FOLDER, help="[default: $TRANSFERKIT_CACHE, else the user's cache folder]"
)
def cache_command(clear: bool, folder: Path | None) -> None:
    """Show the files kept between runs (decoded images, activations) and their size."""
    from transferkit.data.disk_cache import default_folder, stores_below

    place = folder or default_folder()
    rows, total = [], 0
    for kind, store in stores_below(place).items():
        for entry in store.entries():
            used = f"{datetime.fromtimestamp(entry.used):%Y-%m-%d %H:%M}"
            rows.append((kind, entry.key[:12], f"{entry.size / MEGABYTE:.1f} MB", used))
            total += entry.size
        if clear:
            store.clear()
    if rows:
        click.echo(table(("kind", "key", "size", "last used"), rows, left=2))
    verb = "removed from" if clear else "in"
    click.echo(f"{len(rows)} entries, {total / MEGABYTE:.1f} MB, {verb} {place}")
