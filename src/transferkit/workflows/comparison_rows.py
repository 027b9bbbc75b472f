"""Cells of a comparison, and its rows: the means over the seeds of a backbone and a strategy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev

import numpy as np

from transferkit._format import number, percent, percent_interval, plain
from transferkit._typing import JSON
from transferkit.metrics.evaluation import Evaluation
from transferkit.metrics.intervals import effective_size, wilson_interval
from transferkit.training.history import History

HEADER = ("backbone", "strategy", "seeds", "final train loss", "best train acc", "final val loss",
          "best val acc", "best val loss (epoch)", "test acc [95 %]", "sd", "time",
          "trained")  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Cell:
    """One backbone trained by one strategy from one seed: its scores, or an error.

    Attributes:
        backbone: Full name.
        strategy: Name of the strategy.
        seed: Seed of everything random.
        history: The figures of every epoch.
        val: Evaluation on val, which chose the epoch.
        test: Evaluation on test; None where there is no test split.
        trained: Number of trainable parameters.
        seconds: Time from the built model to its scores; activations that an earlier cell left
            in the cache cost nothing again.
        error: The error's type and message, where the cell failed; all figures are then None.
    """

    backbone: str
    strategy: str
    seed: int
    history: History | None = None
    val: Evaluation | None = None
    test: Evaluation | None = None
    trained: int | None = None
    seconds: float | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """Backbone, strategy and seed."""
        return f"{self.backbone}, {self.strategy}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Score:
    """Mean accuracy over seeds on one split.

    Attributes:
        accuracy: Mean over seeds.
        accuracy_interval: 95 % interval of that mean: the variation over images, by whole groups
            where the data have them. All seeds share the images, so more seeds do not narrow it.
        deviation: Standard deviation over seeds; None for one seed.
        n: Number of images.
        effective_n: Number of independent images that would be as certain; n without groups.
    """

    accuracy: float
    accuracy_interval: tuple[float, float]
    deviation: float | None
    n: int
    effective_n: float

    @classmethod
    def of(cls, evaluations: Iterable[Evaluation | None]) -> Score | None:
        """The mean of those evaluations that there are; None of none."""
        known = [evaluation for evaluation in evaluations if evaluation is not None]
        if not known:
            return None
        accuracies = [evaluation.accuracy for evaluation in known]
        deviation = stdev(accuracies) if len(accuracies) > 1 else None
        hits = (e.correct.astype(np.float64) for e in known)
        size = fmean(effective_size(right, known[0].groups) for right in hits)
        mean = fmean(accuracies)
        return cls(mean, wilson_interval(mean * size, size), deviation, known[0].n, size)


@dataclass(frozen=True, slots=True)
class Row:
    """A backbone and a strategy: means over the seeds that have scores.

    Attributes:
        backbone: Full name.
        strategy: Name of the strategy.
        seeds: The seeds that have scores.
        failed: The seeds that failed.
        final_train_loss: Training loss of the last epoch.
        best_train_accuracy: Highest training accuracy of all epochs.
        final_val_loss: Loss on val of the last epoch.
        best_val_accuracy: Highest accuracy on val of all epochs.
        best_val_loss: Lowest loss on val of all epochs.
        best_val_loss_epochs: The epoch of that loss, for each seed.
        val: Accuracy on val of the chosen epoch.
        test: Accuracy on test, where there is a test split.
        seconds: Time from the built model to its scores.
        trained: Number of trainable parameters.
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


def row_of(cells: Sequence[Cell]) -> Row:
    """The means over the cells of one backbone and strategy."""
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
        val=Score.of(cell.val for cell in done),
        test=Score.of(cell.test for cell in done),
        seconds=_mean(cell.seconds for cell in done),
        trained=next((cell.trained for cell in done), None),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def row_cells(row: Row) -> tuple[str, ...]:
    """The formatted cells of a row, under ``HEADER``."""
    if not row.seeds:
        return (row.backbone, row.strategy, "failed", *("-" for _ in HEADER[3:]))
    test, seeds = row.test, len(row.seeds)
    epochs = ", ".join(map(str, row.best_val_loss_epochs))
    return (
        row.backbone,
        row.strategy,
        f"{seeds} of {seeds + len(row.failed)}" if row.failed else f"{seeds}",
        number(row.final_train_loss),
        percent(row.best_train_accuracy),
        number(row.final_val_loss),
        percent(row.best_val_accuracy),
        f"{number(row.best_val_loss)} ({epochs})",
        "-" if test is None else percent_interval(test.accuracy, test.accuracy_interval),
        "-" if test is None or test.deviation is None else f"{100 * test.deviation:.1f}",
        "-" if row.seconds is None else f"{row.seconds:.1f} s",
        "-" if row.trained is None else f"{row.trained:,}",
    )


def csv_row(row: Row) -> dict[str, object]:
    """The fields of a row as one line of a spreadsheet: tuples joined, scores spread out."""
    values: dict[str, object] = {
        key: " ".join(map(str, value)) if isinstance(value, tuple) else value
        for key, value in asdict(row).items()
        if key not in ("val", "test")
    }
    parts = ("accuracy", "low", "high", "deviation", "images")
    for name, score in (("val", row.val), ("test", row.test)):
        figures: Sequence[object] = [None] * len(parts)
        if score is not None:
            figures = (score.accuracy, *score.accuracy_interval, score.deviation, score.n)
        values |= {f"{name}_{part}": figure for part, figure in zip(parts, figures, strict=True)}
    return values
