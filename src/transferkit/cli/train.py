"""``transferkit train``: from a folder of images to a test score and a saved classifier."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from transferkit.cli.options import (
    batch_size_option,
    cache_option,
    data_argument,
    device_option,
    image_size_option,
    out_option,
    seed_option,
    weights_argument,
)

if TYPE_CHECKING:
    from transferkit.models.caching import Where

DEFAULTS = {"linear_probe": (30, 1e-2), "fine_tune": (10, 1e-4)}
"""Epochs and learning rate of each strategy."""


@click.command("train")
@data_argument
@click.option("--backbone", required=True, help="A name of 'transferkit list'.")
@click.option(
    "--weights", default="default", show_default=True, help="default, none, a tag, or a file."
)
@click.option(
    "--strategy",
    type=click.Choice(["linear_probe", "fine_tune"]),
    default="linear_probe",
    show_default=True,
)
@click.option("--unfreeze", help="fine_tune from this stage on.  [default: all stages]")
@click.option("--epochs", type=click.IntRange(1), help="[default: 30 to probe, 10 to fine-tune]")
@click.option(
    "--lr", type=float, help="Learning rate.  [default: 0.01 to probe, 0.0001 to fine-tune]"
)
@click.option(
    "--dropout", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True
)
@click.option("--augment", is_flag=True, help="Random flips, small rotations, crops and exposure.")
@click.option(
    "--skip-broken", is_flag=True, help="Skip images that cannot be read, and count them."
)
@batch_size_option
@image_size_option
@seed_option
@device_option
@cache_option
@out_option
def train_command(
    data: Path,
    backbone: str,
    weights: str,
    strategy: str,
    unfreeze: str | None,
    epochs: int | None,
    lr: float | None,
    dropout: float,
    augment: bool,
    skip_broken: bool,
    batch_size: int,
    image_size: int | None,
    seed: int,
    device: str | None,
    cache: Where | None,
    out: Path,
) -> None:
    """Train a classifier on DATA, a folder of images or an .npz file, and judge it.

    DATA holds train, val and test (val may be absent: a share of train is split off). Writes
    classifier.safetensors, history.csv, evaluation.json and figures into the folder --out.
    """
    if unfreeze is not None and strategy == "linear_probe":
        raise click.UsageError(
            "--unfreeze belongs to --strategy fine_tune; a linear probe trains the head only."
        )
    from transferkit.cli.output import prepare_folder, write_result
    from transferkit.data.augment import Augment
    from transferkit.data.load import load_splits
    from transferkit.models.classifier import create_classifier
    from transferkit.workflows.probe import linear_probe
    from transferkit.workflows.tune import fine_tune

    prepare_folder(out)
    splits = load_splits(data, seed=seed, on_error="skip" if skip_broken else "raise")
    click.echo(f"{splits}\n")
    model = create_classifier(
        backbone,
        splits.num_classes,
        weights=weights_argument(weights),
        dropout=dropout,
        image_size=image_size,
        seed=seed,
    )
    job = linear_probe if strategy == "linear_probe" else partial(fine_tune, upto=unfreeze)
    default_epochs, default_lr = DEFAULTS[strategy]
    result = job(
        model,
        splits,
        epochs=epochs or default_epochs,
        lr=lr or default_lr,
        batch_size=batch_size,
        augment=Augment() if augment else None,
        seed=seed,
        device=device,
        cache=cache,
    )
    click.echo(f"{result}\n")
    if result.test is not None:
        click.echo(f"test split\n{result.test}\n")
    for path in write_result(result, out):
        click.echo(f"wrote {path}")
