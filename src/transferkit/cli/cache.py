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
    """Show what is kept between runs (decoded images, activations), and its size."""
    from transferkit.data.arraystore import default_folder, stores_below

    place = folder or default_folder()
    rows, total = [], 0
    for said, store in stores_below(place).items():
        for entry in store.entries():
            used = f"{datetime.fromtimestamp(entry.used):%Y-%m-%d %H:%M}"
            rows.append((said, entry.key[:12], f"{entry.size / MEGABYTE:.1f} MB", used))
            total += entry.size
        if clear:
            store.clear()
    if rows:
        click.echo(table(("what", "key", "size", "last used"), rows, left=2))
    verb = "removed from" if clear else "in"
    click.echo(f"{len(rows)} entries, {total / MEGABYTE:.1f} MB, {verb} {place}")
