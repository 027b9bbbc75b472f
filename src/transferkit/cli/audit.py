"""``transferkit audit``: faults of a dataset and its splits, as text, JSON, HTML and a gate."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

import transferkit.cli.options as options
from transferkit._files import make_folder

if TYPE_CHECKING:
    from transferkit.models.prefix_cache import Where
    from transferkit.workflows.audit import Embedder

GATE_STATUS = 1


@click.command("audit")
@options.data
@click.option("--html", type=options.FILE, help="Write the report as one HTML file.")
@click.option("--json", "json_file", type=options.FILE, help="Write the findings as JSON.")
@click.option("--model", type=options.FILE, help="A trained classifier.safetensors to audit with.")
@click.option(
    "--backbone",
    callback=options.known_backbone,
    help="Backbone for the embeddings.  [default: the embedded one]",
)
@options.weights
@click.option(
    "--fail-on",
    type=click.Choice(["warning", "error"]),
    help="End with status 1 if there is a finding of this severity or a higher one.",
)
@options.loading
@options.batch_size
@options.cache
@options.seed
@click.pass_context
def audit_command(
    ctx: click.Context,
    data: Path,
    html: Path | None,
    json_file: Path | None,
    model: Path | None,
    backbone: str | None,
    weights: str | None,
    fail_on: Literal["warning", "error"] | None,
    batch_size: int,
    cache: Where | None,
    seed: int,
) -> None:
    """Audit DATA, a folder of images or an .npz file: leaks, shift, labels, images, the gap.

    Exit status: 0 fine, 1 --fail-on found something, 2 an error.
    """
    if model is not None and backbone is not None:
        raise click.UsageError("Give --model or --backbone, not both.")
    from transferkit.models.save_load import load_classifier
    from transferkit.workflows.audit import audit_splits

    for file in filter(None, (html, json_file)):
        make_folder(file.parent)
    splits = options.load(data, seed=seed)
    embedder: Embedder = backbone if model is None else load_classifier(model)
    if backbone is not None and weights != "default":
        embedder = features_of(backbone, weights, batch_size, cache)
    report = audit_splits(splits, model=embedder, seed=seed, batch_size=batch_size, cache=cache)
    click.echo(str(report))
    if html is not None:
        click.echo(f"wrote {report.to_html(html)}")
    if json_file is not None:
        report.to_json(json_file)
        click.echo(f"wrote {json_file}")
    if fail_on is not None and report.at_least(fail_on):
        ctx.exit(GATE_STATUS)


def features_of(
    backbone: str, weights: str | None, batch_size: int, cache: Where | None
) -> Embedder:
    """A function of images to the features of a backbone with the weights of the user's choice."""
    from transferkit.data.image_data import ImageData
    from transferkit.models.classifier import create_classifier
    from transferkit.models.features import extract_features

    classifier = create_classifier(backbone, 2, weights=weights, seed=0)
    extract = partial(extract_features, classifier, batch_size=batch_size, cache=cache)
    return lambda images: extract(ImageData(images)).features
