"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from transferkit.models.prefix_cache import Where

data_argument = click.argument("data", type=click.Path(path_type=Path))
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for the results; made if absent.",
)
seed_option = click.option("--seed", type=int, default=0, show_default=True)
device_option = click.option(
    "--device", help="cpu, cuda, cuda:1, mps.  [default: the GPU if there is one]"
)
batch_size_option = click.option(
    "--batch-size", type=click.IntRange(1), default=32, show_default=True
)
image_size_option = click.option(
    "--image-size",
    type=click.IntRange(1),
    help="Side of the network's input, in pixels.  [default: the weights' own]",
)


_PLACES: dict[str, Where | None] = {
    "auto": "auto",
    "memory": "memory",
    "disk": "disk",
    "none": None,
}

cache_option = click.option(
    "--cache",
    type=click.Choice(list(_PLACES)),
    callback=lambda _, __, name: _PLACES[name],
    default="auto",
    show_default=True,
    help="Where to keep what frozen parts make of the images; later commands find what is on disk.",
)


def weights_argument(text: str) -> str | None:
    """The value of ``--weights``: ``none`` is random initialisation, all else goes through."""
    return None if text.lower() == "none" else text
