"""``transferkit demo``: the main job with no arguments, no network and no files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from transferkit._text import percent, percent_interval, table
from transferkit.cli.options import seed_option

if TYPE_CHECKING:
    from transferkit.workflows.result import Result

BACKBONE = "transferkit/formula_resnet18"
IMAGE_SIZE = 64


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("transferkit-demo"),
    show_default=True,
    help="Folder for the classifiers and figures.",
)
@seed_option
def demo_command(out: Path, seed: int) -> None:
    """Probe and fine-tune a backbone on synthetic chest radiographs, in under two minutes.

    The test images come from another site than the training images, by design: watch how far
    the test score falls below the validation score.
    """
    from transferkit.cli.output import prepare_folder, write_result
    from transferkit.data.phantom import phantom_splits
    from transferkit.models.classifier import create_classifier
    from transferkit.workflows.probe import linear_probe
    from transferkit.workflows.tune import fine_tune

    prepare_folder(out)
    splits = phantom_splits(sizes=(1200, 400, 400), image_size=IMAGE_SIZE, seed=seed)
    click.echo(f"Synthetic chest radiographs; the test split is from another site.\n{splits}\n")
    click.echo(f"Backbone: {BACKBONE}, which comes with the library.\n")

    jobs = {
        "linear probe": partial(linear_probe, epochs=20, lr=1e-2),
        "fine-tune": partial(fine_tune, epochs=5, lr=1e-3),
    }
    results = {}
    for name, job in jobs.items():
        model = create_classifier(BACKBONE, splits.num_classes, image_size=IMAGE_SIZE, seed=seed)
        results[name] = job(model, splits, seed=seed)

    click.echo(f"\n{comparison(results)}\n")
    for name, result in results.items():
        folder = out / name.replace(" ", "_").replace("-", "_")
        prepare_folder(folder)
        write_result(result, folder)
    click.echo(f"Classifiers, histories, evaluations and figures are in {out}/")


def comparison(results: dict[str, Result]) -> str:
    """The table of strategies: val and test accuracy with intervals, and the gap between them."""
    rows = []
    for name, result in results.items():
        assert result.test is not None  # phantom data always have a test split
        val, test = result.val, result.test
        rows.append(
            (
                name,
                percent_interval(val.accuracy, val.accuracy_interval),
                percent_interval(test.accuracy, test.accuracy_interval),
                percent(val.accuracy - test.accuracy),
                f"{result.history.summary().seconds:.0f} s",
            )
        )
    return table(("strategy", "val accuracy", "test accuracy", "gap", "time"), rows)
