"""``transferkit train``: from a folder of images to a test score and a saved classifier."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

import transferkit.cli.options as options
from transferkit._files import make_folder, write_text
from transferkit._format import percent_interval, table
from transferkit.cli.recipe import STRATEGY, help_text, metavar, recipe_options, typed_strategy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from transferkit.workflows.result import Result


@click.command("train")
@options.data
@click.option(
    "--backbone",
    required=True,
    callback=options.known_backbone,
    help="A name of 'transferkit list'.",
)
@options.weights
@click.option(
    "--strategy",
    "method",
    default="linear_probe",
    show_default=True,
    metavar=metavar("method", STRATEGY["method"]),
    help=help_text(STRATEGY["method"]),
)
@click.option(
    "--resume",
    is_flag=True,
    help="Keep the state after each epoch in --out until the run is done. A run that was broken "
    "off and is started again with --resume goes on, and ends as if it had never stopped.",
)
@click.option("--augment", is_flag=True, help="Random flips, small rotations, crops and exposure.")
@recipe_options
@options.loading
@options.image_size
@click.option(
    "--out", type=options.FOLDER, required=True, help="Folder for the results; made if absent."
)
@click.pass_context
def train_command(
    context: click.Context,
    data: Path,
    backbone: str,
    weights: str | None,
    method: str,
    resume: bool,
    augment: bool,
    image_size: int | None,
    out: Path,
) -> None:
    """Train a classifier on DATA, a folder of images or an .npz file, and evaluate it.

    DATA holds train, val and test (val may be absent: a share of train is split off). Writes
    classifier.safetensors, history.csv, evaluation.json and figures into the folder --out.
    """
    from transferkit.workflows.strategies import new_classifier, run

    if method == "from_scratch" and weights not in ("default", None):
        raise click.UsageError("from_scratch starts from random weights; leave --weights out.")
    states = out / "checkpoint" if resume else None
    strategy = typed_strategy(context, method, augment=augment, checkpoint=states)
    if resume:  # ends as Ctrl-C does
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with options.results_in(out):
        splits = options.load(data, seed=strategy.options.get("seed", 0))
        click.echo(f"{splits}\n")
        model = new_classifier(strategy, backbone, splits, weights=weights, image_size=image_size)
        result = run(strategy, model, splits)
        click.echo(f"{result}\n")
        if result.test is not None:
            click.echo(f"test split\n{result.test}\n")
        for path in write_result(result, out):
            click.echo(f"wrote {path}")
        if states is not None:
            shutil.rmtree(states, ignore_errors=True)


BACKBONE = "transferkit/formula_resnet18"
IMAGE_SIZE = 64


@click.command("demo")
@click.option(
    "--out",
    type=options.FOLDER,
    default=Path("transferkit-demo"),
    show_default=True,
    help="Folder for the classifiers and figures.",
)
@options.seed
def demo_command(out: Path, seed: int) -> None:
    """Probe and fine-tune a backbone on synthetic chest radiographs, in under two minutes.

    The test images come from another site than the training images, by design: watch how far
    the test score falls below the validation score.
    """
    from transferkit.data.phantom import phantom_splits
    from transferkit.models.classifier import create_classifier
    from transferkit.workflows.strategies import fine_tune, linear_probe

    make_folder(out)
    splits = phantom_splits(sizes=(1200, 400, 400), image_size=IMAGE_SIZE, seed=seed)
    click.echo(f"Synthetic chest radiographs; the test split is from another site.\n{splits}\n")
    click.echo(f"Backbone: {BACKBONE}, which comes with the library.\n")

    jobs = {
        "linear probe": partial(linear_probe, epochs=20, lr=1e-2),
        "fine-tune": partial(fine_tune, epochs=5, lr=1e-3),
    }
    results = {}
    for name, job in jobs.items():
        click.echo(f"{name}:")
        model = create_classifier(BACKBONE, splits.num_classes, image_size=IMAGE_SIZE, seed=seed)
        results[name] = job(model, splits, seed=seed)

    click.echo(f"\n{comparison(results)}\n")
    click.echo(
        "The gap is there by design: the test images are from a site that the classifier never "
        "saw.\ntk.explain_gap and 'transferkit audit' say what such a gap is made of.\n"
    )
    for name, result in results.items():
        folder = out / name.replace(" ", "_").replace("-", "_")
        make_folder(folder)
        written = write_result(result, folder)
    drawn = any(path.suffix == ".png" for path in written)
    kinds = "histories, evaluations and figures" if drawn else "histories and evaluations"
    click.echo(f"Classifiers, {kinds} are in {out}/")


def comparison(results: dict[str, Result]) -> str:
    """The table of strategies: val and test accuracy with intervals, and the gap between them."""
    rows = [
        (
            name,
            percent_interval(result.val.accuracy, result.val.accuracy_interval),
            percent_interval(result.test.accuracy, result.test.accuracy_interval),
            f"{100 * (result.val.accuracy - result.test.accuracy):.1f} points",
            f"{result.history.summary().seconds:.0f} s",
        )
        for name, result in results.items()
        if result.test is not None  # phantom data always have a test split
    ]
    return table(("strategy", "val accuracy", "test accuracy", "gap", "time"), rows)


def write_result(result: Result, folder: Path) -> list[Path]:
    """Write the classifier, the history, the evaluations and the figures; return the paths."""
    from transferkit.models.save_load import save_classifier

    paths = [folder / name for name in ("classifier.safetensors", "history.csv", "evaluation.json")]
    save_classifier(result.classifier, paths[0])
    result.history.to_csv(paths[1])
    scores = {"val": result.val.to_dict(), "test": result.test and result.test.to_dict()}
    write_text(paths[2], json.dumps(scores, indent=2) + "\n")
    return paths + options.save_figures(lambda: figures(result), folder)


def figures(result: Result) -> dict[str, Axes]:
    """The learning curves; confusion matrix, ROC and reliability of each evaluated split."""
    from transferkit import plots

    drawn = {"learning_curves": plots.learning_curves(result.history)}
    for name, evaluation in (("val", result.val), ("test", result.test)):
        if evaluation is not None:
            drawn[f"{name}_confusion_matrix"] = plots.confusion_matrix(evaluation, name=name)
            drawn[f"{name}_roc"] = plots.roc(evaluation, name=name)
            drawn[f"{name}_reliability"] = plots.reliability(evaluation, name=name)
    return drawn


@click.command("predict")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True)
@click.option("--out", type=options.FILE, help="Write the CSV into this file, not to the terminal.")
@click.option("--bits", type=int, help="Bit depth of 16-bit images.  [default: as in training]")
@options.batch_size
@options.device
def predict_command(
    model: Path,
    images: tuple[str, ...],
    out: Path | None,
    bits: int | None,
    batch_size: int,
    device: str | None,
) -> None:
    """Predict the class of IMAGES with MODEL, a classifier.safetensors.

    IMAGES are files, folders, patterns such as 'scans/*.png', or .csv files with a column of paths.
    Prints CSV: the file, the predicted class, and the probability of each class.
    """
    from transferkit.models.save_load import load_classifier
    from transferkit.training.evaluate import predict

    if out is not None:
        make_folder(out.parent)
    classifier = load_classifier(model, device=device)
    predictions = predict(classifier, images, bits=bits, batch_size=batch_size, device=device)
    if out is None:
        click.echo(predictions.to_csv(), nl=False)
        return
    write_text(out, predictions.to_csv())
    click.echo(f"wrote {out}")
