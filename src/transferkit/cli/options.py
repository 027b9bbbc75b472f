"""Options and steps that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import click

from transferkit.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
OnError: TypeAlias = Literal["raise", "skip"]
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)

data = click.argument("data", type=click.Path(path_type=Path))
seed = click.option("--seed", type=int, default=0, show_default=True)
device = click.option(
    "--device", help="cpu, cuda, cuda:1, mps.  [default: the GPU if there is one]"
)
batch_size = click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
image_size = click.option(
    "--image-size",
    type=click.IntRange(1),
    help="Side of the network's input, in pixels.  [default: the weights' own]",
)
skip_broken = click.option(
    "--skip-broken",
    "on_error",
    is_flag=True,
    callback=lambda _context, _option, skip: "skip" if skip else "raise",
    help="Skip images that cannot be read, and count them.",
)
cache = click.option(
    "--cache",
    type=click.Choice(["auto", "memory", "disk", "none"]),
    callback=lambda _context, _option, place: none_or(place),
    default="auto",
    show_default=True,
    help="Where to keep the activations of frozen layers; later commands reuse those on disk.",
)


def none_or(text: str) -> str | None:
    """The text, or None where it says ``none``: no cache, random weights."""
    return None if text.lower() == "none" else text


def save_figures(draw: Callable[[], Mapping[str, Axes]], folder: Path) -> list[Path]:
    """Draw and save figures as PNG; without matplotlib print why there are none."""
    try:
        from transferkit import plots

        return [plots.save(figure, folder / f"{name}.png") for name, figure in draw().items()]
    except MissingDependencyError as error:
        click.echo(f"no figures: {error}")
        return []
