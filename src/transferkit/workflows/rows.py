"""One row of a comparison: the course's columns, over the seeds of a backbone and strategy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev

from transferkit._text import percent, percent_interval
from transferkit._typing import JSON
from transferkit.metrics._json import plain
from transferkit.metrics.evaluation import Evaluation
from transferkit.metrics.intervals import wilson_interval
from transferkit.workflows.cell import Cell

HEADER = (
    "backbone",
    "strategy",
    "seeds",
    "final train loss",
    "best train acc",
    "final val loss",
    "best val acc",
    "best val loss (epoch)",
    "test acc [95 %]",
    "sd",
    "time",
    "trained",
)


@dataclass(frozen=True, slots=True)
class Score:
    """Mean accuracy over seeds on one split.

    Attributes:
        accuracy: Mean over seeds.
        accuracy_interval: Wilson interval of that mean on n images, 95 %: what another draw of
            images would change. The seeds share the images, so they do not narrow it.
        deviation: Standard deviation over seeds, what another seed would change; None for one.
        n: Images.
    """

    accuracy: float
    accuracy_interval: tuple[float, float]
    deviation: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Row:
    """A backbone and a strategy: means over the seeds that have scores.

    Attributes:
        backbone: Full name.
        strategy: Name of the strategy.
        seeds: The seeds that have scores.
        failed: The seeds that failed.
        final_train_loss: At the last epoch.
        best_train_accuracy: Over the epochs.
        final_val_loss: At the last epoch.
        best_val_accuracy: Over the epochs.
        best_val_loss: Over the epochs.
        best_val_loss_epochs: The epoch of it, for each seed.
        val: Accuracy on val of the chosen epoch.
        test: Accuracy on test, where there is such a split.
        seconds: From the built model to its scores.
        trained: Parameters that were trained.
    """

    backbone: str
    strategy: str
    seeds: tuple[int, ...]
    failed: tuple[int, ...]
    final_train_loss: float | None
    best_train_accuracy: float | None
    final_val_loss: float | None
    best_val_accuracy: float | None
    best_val_loss: float | None
    best_val_loss_epochs: tuple[int, ...]
    val: Score | None
    test: Score | None
    seconds: float | None
    trained: int | None

    @property
    def name(self) -> str:
        """Backbone and strategy."""
        return f"{self.backbone}, {self.strategy}"

    def to_dict(self) -> dict[str, JSON]:
        """The fields as plain data."""
        return {key: plain(value) for key, value in asdict(self).items()}

    def flat(self) -> dict[str, object]:
        """The fields as one line of a spreadsheet."""
        values: dict[str, object] = {
            key: " ".join(map(str, value)) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if key not in ("val", "test")
        }
        for name, score in (("val", self.val), ("test", self.test)):
            low, high = (None, None) if score is None else score.accuracy_interval
            values |= {
                f"{name}_accuracy": None if score is None else score.accuracy,
                f"{name}_low": low,
                f"{name}_high": high,
                f"{name}_deviation": None if score is None else score.deviation,
                f"{name}_images": None if score is None else score.n,
            }
        return values


def row_of(cells: Sequence[Cell]) -> Row:
    """Sum up the cells of one backbone and strategy."""
    done = [cell for cell in cells if cell.error is None]
    summaries = [cell.history.summary() for cell in done if cell.history is not None]
    epochs = (summary.best_val_loss_epoch for summary in summaries)
    return Row(
        backbone=cells[0].backbone,
        strategy=cells[0].strategy,
        seeds=tuple(cell.seed for cell in done),
        failed=tuple(cell.seed for cell in cells if cell.error is not None),
        final_train_loss=_mean(s.final_train_loss for s in summaries),
        best_train_accuracy=_mean(s.best_train_accuracy for s in summaries),
        final_val_loss=_mean(s.final_val_loss for s in summaries),
        best_val_accuracy=_mean(s.best_val_accuracy for s in summaries),
        best_val_loss=_mean(s.best_val_loss for s in summaries),
        best_val_loss_epochs=tuple(epoch for epoch in epochs if epoch is not None),
        val=_score(cell.val for cell in done),
        test=_score(cell.test for cell in done),
        seconds=_mean(cell.seconds for cell in done),
        trained=next((cell.trained for cell in done), None),
    )


def row_cells(row: Row) -> tuple[str, ...]:
    """A row as text, under ``HEADER``."""
    if not row.seeds:
        return (row.backbone, row.strategy, "failed", *("-" for _ in HEADER[3:]))
    epochs = ", ".join(map(str, row.best_val_loss_epochs))
    deviation = None if row.test is None else row.test.deviation
    return (
        row.backbone,
        row.strategy,
        f"{len(row.seeds)}" + (f" of {len(row.seeds) + len(row.failed)}" if row.failed else ""),
        _number(row.final_train_loss),
        _share(row.best_train_accuracy),
        _number(row.final_val_loss),
        _share(row.best_val_accuracy),
        f"{_number(row.best_val_loss)} ({epochs})",
        "-"
        if row.test is None
        else percent_interval(row.test.accuracy, row.test.accuracy_interval),
        "-" if deviation is None else f"{100 * deviation:.1f}",
        "-" if row.seconds is None else f"{row.seconds:.1f} s",
        "-" if row.trained is None else f"{row.trained:,}",
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _score(evaluations: Iterable[Evaluation | None]) -> Score | None:
    known = [scores for scores in evaluations if scores is not None]
    if not known:
        return None
    accuracies = [scores.accuracy for scores in known]
    mean, n = fmean(accuracies), known[0].n
    return Score(
        accuracy=mean,
        accuracy_interval=wilson_interval(round(mean * n), n),
        deviation=stdev(accuracies) if len(accuracies) > 1 else None,
        n=n,
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "-" if value is None else percent(value)
