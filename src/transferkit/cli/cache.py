"""``transferkit cache``: see and clear what was computed before."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from transferkit._text import table

MEGABYTE = 1e6


@click.command("cache")
@click.option("--clear", is_flag=True, help="Remove everything in the cache.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="[default: $TRANSFERKIT_CACHE, else the user's cache folder]",
)
def cache_command(clear: bool, folder: Path | None) -> None:
    """Show the activations that are kept between runs, and their sizes."""
    from transferkit.data.arraystore import ArrayStore, default_folder

    store = ArrayStore(folder or default_folder(), limit=0)
    entries = store.entries()
    if clear:
        store.clear()
    rows = [
        (
            e.key[:12],
            f"{e.size / MEGABYTE:.1f} MB",
            f"{datetime.fromtimestamp(e.used):%Y-%m-%d %H:%M}",
        )
        for e in entries
    ]
    if rows:
        click.echo(table(("key", "size", "last used"), rows))
    total = sum(entry.size for entry in entries) / MEGABYTE
    verb = "removed from" if clear else "in"
    click.echo(f"{len(entries)} entries, {total:.1f} MB, {verb} {store.folder}")
