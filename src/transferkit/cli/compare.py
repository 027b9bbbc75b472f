"""``transferkit compare`` and ``transferkit rank``: several backbones on one dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from transferkit.cli.options import (
    batch_size_option,
    cache_option,
    data_argument,
    device_option,
    image_size_option,
    seed_option,
    weights_argument,
)
from transferkit.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from transferkit.models.prefix_cache import Where
    from transferkit.workflows.comparison import Comparison
    from transferkit.workflows.rank import Ranking

INTERRUPTED_STATUS = 130

backbones_option = click.option(
    "--backbones", required=True, help="Names of 'transferkit list', with commas between."
)
weights_option = click.option(
    "--weights",
    "weights",
    multiple=True,
    help="default, none, a tag or a file, for all backbones; or NAME=... for one. May be repeated.",
)


@click.command("compare")
@data_argument
@backbones_option
@click.option(
    "--strategies",
    default="linear_probe,fine_tune",
    show_default=True,
    help="Of linear_probe, fine_tune, lp_ft, gradual_unfreeze, interpolate, from_scratch.",
)
@click.option("--seeds", default="0", show_default=True, help="Numbers, with commas between.")
@weights_option
@click.option("--epochs", type=click.IntRange(1), help="[default: what suits the strategy]")
@batch_size_option
@image_size_option
@device_option
@cache_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for cells, tables and figures; the same folder again goes on where it was.",
)
def compare_command(
    data: Path,
    backbones: str,
    strategies: str,
    seeds: str,
    weights: tuple[str, ...],
    epochs: int | None,
    batch_size: int,
    image_size: int | None,
    device: str | None,
    cache: Where | None,
    out: Path,
) -> None:
    """Train every backbone by every strategy on DATA, and set the results side by side.

    Writes comparison.txt, .csv, .md, .html, .json and figures into the folder --out, where each
    cell is stored as it ends. Ctrl-C leaves the tables of what is done.
    """
    from transferkit.cli.train import prepare_folder
    from transferkit.data.load import load_splits
    from transferkit.workflows.compare import compare
    from transferkit.workflows.strategies import strategy_named

    chosen = [strategy_named(name) for name in listed(strategies)]
    numbers = seed_numbers(seeds)
    prepare_folder(out)
    splits = load_splits(data)
    click.echo(f"{splits}\n")
    comparison = compare(
        listed(backbones),
        chosen,
        splits,
        seeds=numbers,
        weights=weights_by_name(weights),
        image_size=image_size,
        epochs=epochs,
        batch_size=batch_size,
        device=device,
        out=out,
        cache=cache,
    )
    click.echo(f"{comparison}\n")
    for path in write_figures(comparison, out):
        click.echo(f"wrote {path}")
    if comparison.interrupted:
        click.get_current_context().exit(INTERRUPTED_STATUS)


@click.command("rank")
@data_argument
@backbones_option
@weights_option
@click.option(
    "--by",
    type=click.Choice(["probe", "logme", "knn", "h_score"]),
    default="probe",
    show_default=True,
    help="The score that orders them.",
)
@batch_size_option
@image_size_option
@seed_option
@device_option
@cache_option
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False))
def rank_command(
    data: Path,
    backbones: str,
    weights: tuple[str, ...],
    by: str,
    batch_size: int,
    image_size: int | None,
    seed: int,
    device: str | None,
    cache: Where | None,
    json_file: Path | None,
) -> None:
    """Order backbones by their features on the train split of DATA; nothing is trained."""
    from transferkit._files import replacing
    from transferkit.data.load import load_splits
    from transferkit.workflows.rank import rank_backbones, score_named

    ranking: Ranking = rank_backbones(
        listed(backbones),
        load_splits(data, seed=seed),
        by=score_named(by),
        weights=weights_by_name(weights),
        image_size=image_size,
        batch_size=batch_size,
        device=device,
        seed=seed,
        cache=cache,
    )
    click.echo(str(ranking))
    if json_file is not None:
        with replacing(json_file) as draft:
            draft.write_text(json.dumps(ranking.to_dict(), indent=2) + "\n", encoding="utf-8")


def listed(text: str) -> list[str]:
    """The names in a text with commas between."""
    return [name.strip() for name in text.split(",") if name.strip()]


def seed_numbers(text: str) -> list[int]:
    """The numbers in a text with commas between.

    Raises:
        ConfigError: Something else is in it.
    """
    try:
        return [int(name) for name in listed(text)]
    except ValueError:
        raise ConfigError(
            f"--seeds takes whole numbers with commas between, got {text!r}."
        ) from None


def weights_by_name(given: tuple[str, ...]) -> str | dict[str, str | Path | None] | None:
    """One value for all backbones, or a mapping from names.

    Raises:
        ConfigError: Both at once, or several values for all.
    """
    named = dict(text.split("=", 1) for text in given if "=" in text)
    if named and len(named) == len(given):
        return {name: weights_argument(value) for name, value in named.items()}
    if len(given) > 1:
        raise ConfigError(
            f"--weights takes one value for all backbones, or NAME=... for each, got {given}."
        )
    return weights_argument(given[0]) if given else "default"


def write_figures(comparison: Comparison, folder: Path) -> list[Path]:
    """Draw accuracies with intervals, accuracy against time, and learning curves."""
    from transferkit import plots

    tested = comparison.scores("test")
    if not comparison.scores("val"):
        return []
    both = {name: {"val": score} for name, score in comparison.scores("val").items()}
    for name, score in tested.items():
        both[name]["test"] = score
    try:
        figures = {
            "accuracy": plots.accuracy_intervals(both),
            "learning_curves": plots.learning_curves(comparison.histories()),
        }
        if tested:
            figures["accuracy_vs_time"] = plots.accuracy_vs_time(tested, comparison.seconds())
        return [plots.save(figure, folder / f"{name}.png") for name, figure in figures.items()]
    except MissingDependencyError as error:
        click.echo(f"no figures: {error}")
        return []
