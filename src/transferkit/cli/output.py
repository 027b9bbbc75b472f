"""What a training leaves on disk."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from transferkit.errors import MissingDependencyError, OutputError

if TYPE_CHECKING:
    from transferkit.workflows.result import Result


def prepare_folder(folder: Path) -> None:
    """Make ``folder`` and see that it can be written, before any work is done.

    Raises:
        OutputError: The folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"Cannot write into the output folder {folder}: {error.strerror}. "
            "Choose another --out, or make the folder writable."
        ) from error


def write_result(result: Result, folder: Path) -> list[Path]:
    """Write the classifier, the history, the evaluations and the figures; return the paths."""
    from transferkit.models.persistence import save_classifier

    paths = [folder / name for name in ("classifier.safetensors", "history.csv", "evaluation.json")]
    save_classifier(result.classifier, paths[0])
    result.history.to_csv(paths[1])
    scores = {"val": result.val.to_dict(), "test": result.test and result.test.to_dict()}
    paths[2].write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    try:
        return paths + write_figures(result, folder)
    except MissingDependencyError as error:
        click.echo(f"no figures: {error}")
        return paths


def write_figures(result: Result, folder: Path) -> list[Path]:
    """Draw the learning curves, and how each judged split came out."""
    from transferkit import plots

    figures = {"learning_curves": plots.learning_curves(result.history)}
    for name, evaluation in (("val", result.val), ("test", result.test)):
        if evaluation is not None:
            figures[f"{name}_confusion_matrix"] = plots.confusion_matrix(evaluation)
            figures[f"{name}_roc"] = plots.roc(evaluation)
            figures[f"{name}_reliability"] = plots.reliability(evaluation)
    return [plots.save(figure, folder / f"{name}.png") for name, figure in figures.items()]
