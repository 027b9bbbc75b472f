"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

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


def weights_argument(text: str) -> str | None:
    """The value of ``--weights``: ``none`` is random initialisation, all else goes through."""
    return None if text.lower() == "none" else text
