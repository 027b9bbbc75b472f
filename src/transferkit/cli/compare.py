"""``transferkit compare`` and ``transferkit rank``: several backbones on one dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

import transferkit.cli.options as options
from transferkit._files import write_text
from transferkit.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from transferkit.models.prefix_cache import Where
    from transferkit.selection.ranking import RankBy
    from transferkit.workflows.comparison import Comparison

INTERRUPTED_STATUS = 130


class Settings(TypedDict):
    """Options of both commands that go to the library as they are."""

    weights: str | dict[str, str | Path | None] | None
    image_size: int | None
    batch_size: int
    device: str | None
    cache: Where | None


def comma_list(text: str) -> list[str]:
    """The names in a comma-separated text."""
    return [name.strip() for name in text.split(",") if name.strip()]


def seed_list(text: str) -> list[int]:
    """The whole numbers in a comma-separated text; others are a ConfigError."""
    try:
        return [int(name) for name in comma_list(text)]
    except ValueError:
        raise ConfigError(
            f"--seeds must be whole numbers with commas between, got {text!r}."
        ) from None


def weights_by_name(values: tuple[str, ...]) -> str | dict[str, str | Path | None] | None:
    """One value for all backbones, or a mapping from names; a mixture is a ConfigError."""
    named = dict(text.split("=", 1) for text in values if "=" in text)
    if named and len(named) == len(values):
        return {name: options.none_or(value) for name, value in named.items()}
    if len(values) > 1:
        raise ConfigError(
            f"--weights must be one value for all backbones, or NAME=... for each, got {values}."
        )
    return options.none_or(values[0]) if values else "default"


backbones_option = click.option(
    "--backbones",
    required=True,
    callback=lambda context, option, text: [
        options.known_backbone(context, option, name) for name in comma_list(text)
    ],
    help="Names of 'transferkit list', with commas between.",
)
weights_option = click.option(
    "--weights",
    multiple=True,
    callback=lambda _context, _option, values: weights_by_name(values),
    help="default, none, a tag or a file, for all backbones; or NAME=... for one. May be repeated.",
)


@click.command("compare")
@options.data
@backbones_option
@click.option(
    "--strategies",
    default="linear_probe,fine_tune",
    show_default=True,
    help="Of linear_probe, fine_tune, lp_ft, gradual_unfreeze, interpolate, from_scratch.",
)
@click.option("--seeds", default="0", show_default=True, help="Numbers, with commas between.")
@weights_option
@click.option("--epochs", type=click.IntRange(1), help="[default: that of each strategy]")
@options.loading
@options.batch_size
@options.image_size
@options.device
@options.cache
@click.option(
    "--out",
    type=options.FOLDER,
    required=True,
    help="Folder for cells, tables and figures; the same folder again continues the run.",
)
def compare_command(
    data: Path,
    backbones: list[str],
    strategies: str,
    seeds: str,
    epochs: int | None,
    out: Path,
    **settings: Unpack[Settings],
) -> None:
    """Train every backbone by every strategy on DATA, and compare the results.

    Writes comparison.txt, .csv, .md, .html, .json and figures into the folder --out, where each
    cell is stored as it ends. Ctrl-C leaves the tables of the finished cells.
    """
    from transferkit.workflows.compare import compare
    from transferkit.workflows.strategy import strategy_named

    chosen, numbers = [strategy_named(name) for name in comma_list(strategies)], seed_list(seeds)
    with options.results_in(out):
        splits = options.load(data)
        click.echo(f"{splits}\n")
        comparison = compare(
            backbones, chosen, splits, seeds=numbers, epochs=epochs, out=out, **settings
        )
        click.echo(f"{comparison}\n")
        for path in options.save_figures(lambda: figures(comparison), out):
            click.echo(f"wrote {path}")
    if comparison.interrupted:
        click.get_current_context().exit(INTERRUPTED_STATUS)


def figures(comparison: Comparison) -> dict[str, Axes]:
    """Accuracies with intervals, learning curves, and accuracy against time, of finished cells."""
    from transferkit import plots

    if not comparison.scores("val"):
        return {}
    drawn = {
        "accuracy": plots.comparison(comparison),
        "learning_curves": plots.learning_curves(comparison.histories()),
    }
    if tested := comparison.scores("test"):
        drawn["accuracy_vs_time"] = plots.accuracy_vs_time(tested, comparison.seconds())
    return drawn


@click.command("rank")
@options.data
@backbones_option
@weights_option
@click.option(
    "--by",
    type=click.Choice(["probe", "logme", "knn", "h_score"]),
    default="probe",
    show_default=True,
    help="The score that orders them.",
)
@options.loading
@options.batch_size
@options.image_size
@options.seed
@options.device
@options.cache
@click.option("--json", "json_file", type=options.FILE, help="Write the ranking as JSON.")
def rank_command(
    data: Path,
    backbones: list[str],
    by: RankBy,
    seed: int,
    json_file: Path | None,
    **settings: Unpack[Settings],
) -> None:
    """Order backbones by their features on the train split of DATA; nothing is trained."""
    from transferkit.workflows.rank import rank_backbones

    splits = options.load(data, seed=seed)
    ranking = rank_backbones(backbones, splits, by=by, seed=seed, **settings)
    click.echo(str(ranking))
    if json_file is not None:
        write_text(json_file, json.dumps(ranking.to_dict(), indent=2) + "\n")
