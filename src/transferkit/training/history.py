"""The figures of a run, epoch by epoch, and their summary."""

from __future__ import annotations

import csv
import math
import os
from dataclasses import asdict, dataclass, fields
from typing import Literal, TypeAlias, TypedDict

from transferkit._files import replacing
from transferkit._format import PlainResult, number, percent, table
from transferkit._typing import JSON
from transferkit.errors import DataError

Monitor: TypeAlias = Literal[
    "val_accuracy", "val_loss", "val_balanced_accuracy", "val_auroc", "val_macro_f1"
]


class ValFigures(TypedDict, total=False):
    """The figures of val in a record."""

    val_loss: float
    val_accuracy: float
    val_balanced_accuracy: float
    val_auroc: float | None
    val_macro_f1: float


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """The figures of one epoch.

    Attributes:
        epoch: The epoch, counted from 1.
        step: Optimizer steps taken since the start of the run.
        lr: The head's learning rate at the last step of the epoch.
        train_loss: Mean training loss over the epoch, each batch before its optimizer step (label
            smoothing, class weights and auxiliary heads included).
        train_accuracy: Accuracy over the same batches.
        val_loss: Mean cross-entropy on val after the epoch, without label smoothing, class weights
            and auxiliary heads.
        val_accuracy: Accuracy on val after the epoch.
        seconds: Wall time of the epoch, validation included.
        val_balanced_accuracy: Mean recall over the classes of val. Measured, as are the next two,
            where one of the three is monitored.
        val_auroc: Area under the ROC curve on val, as in :class:`~transferkit.Evaluation`.
        val_macro_f1: Mean F1 over the classes that val has or that are predicted.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    seconds: float
    val_balanced_accuracy: float | None = None
    val_auroc: float | None = None
    val_macro_f1: float | None = None


@dataclass(frozen=True, slots=True)
class HistorySummary(PlainResult):
    """The summary row of a run; None where a figure was not measured."""

    final_train_loss: float | None
    best_train_accuracy: float | None
    final_val_loss: float | None
    best_val_accuracy: float | None
    best_val_loss: float | None
    best_val_loss_epoch: int | None
    seconds: float

    def __str__(self) -> str:
        header = ("final train loss", "best train acc", "final val loss", "best val acc",
                  "best val loss (epoch)", "seconds")  # fmt: skip
        best = number(self.best_val_loss)
        if self.best_val_loss_epoch is not None:
            best += f" ({self.best_val_loss_epoch})"
        cells = (
            number(self.final_train_loss),
            percent(self.best_train_accuracy, digits=2),
            number(self.final_val_loss),
            percent(self.best_val_accuracy, digits=2),
            best,
            f"{self.seconds:.1f}",
        )
        return table(header, [cells], left=0)


@dataclass(frozen=True, slots=True)
class History:
    """The figures of a run, epoch by epoch.

    Attributes:
        records: One record per epoch.
        monitor: The val figure that the best epoch is chosen on.
        probe_epochs: How many of the first records are those of the linear probe, in a strategy
            that fine-tunes from one.

    Example:
        >>> import transferkit as tk
        >>> records = (
        ...     tk.EpochRecord(1, 50, 1e-3, 0.70, 0.50, 0.69, 0.55, 2.0),
        ...     tk.EpochRecord(2, 100, 5e-4, 0.40, 0.80, 0.35, 0.90, 2.0),
        ...     tk.EpochRecord(3, 150, 1e-4, 0.30, 0.90, 0.37, 0.85, 2.0),
        ... )
        >>> history = tk.History(records)  # as Trainer.fit returns it
        >>> print(history)
        epoch        lr  train loss  train acc  val loss  val acc  seconds
        -----  --------  ----------  ---------  --------  -------  -------  ----
            1  1.00e-03      0.7000    50.00 %    0.6900  55.00 %      2.0
            2  5.00e-04      0.4000    80.00 %    0.3500  90.00 %      2.0  best
            3  1.00e-04      0.3000    90.00 %    0.3700  85.00 %      2.0
        >>> history.best_epoch
        2
    """

    records: tuple[EpochRecord, ...] = ()
    monitor: Monitor = "val_accuracy"
    probe_epochs: int = 0

    def __len__(self) -> int:
        return len(self.records)

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the best monitored figure (the earliest of equals); None without val."""
        figures = [(getattr(r, self.monitor), r.epoch) for r in self.records]
        known = [(figure, epoch) for figure, epoch in figures if figure is not None]
        if not known:
            return None
        sign = 1 if self.monitor == "val_loss" else -1
        return min(known, key=lambda pair: (sign * pair[0], pair[1]))[1]

    def summary(self) -> HistorySummary:
        """The summary row.

        Raises:
            DataError: No epoch was finished.
        """
        if not self.records:
            raise DataError("This history is empty: no epoch was finished.")
        last = self.records[-1]
        losses = [(r.val_loss, r.epoch) for r in self.records if r.val_loss is not None]
        best_loss, best_loss_epoch = min(losses) if losses else (None, None)
        accuracies = [r.val_accuracy for r in self.records if r.val_accuracy is not None]
        return HistorySummary(
            final_train_loss=last.train_loss,
            best_train_accuracy=max(r.train_accuracy for r in self.records),
            final_val_loss=last.val_loss,
            best_val_accuracy=max(accuracies, default=None),
            best_val_loss=best_loss,
            best_val_loss_epoch=best_loss_epoch,
            seconds=math.fsum(r.seconds for r in self.records),
        )

    def to_dict(self) -> dict[str, JSON]:
        """The records, the best epoch and the summary as plain data."""
        return {
            "monitor": self.monitor,
            "best_epoch": self.best_epoch,
            "probe_epochs": self.probe_epochs,
            "records": [asdict(record) for record in self.records],
            "summary": self.summary().to_dict() if self.records else None,
        }

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row per epoch; the file appears whole or not at all.

        Raises:
            OutputError: The file cannot be written.
        """
        names = [field.name for field in fields(EpochRecord)]
        with (
            replacing(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(record) for record in self.records)

    def __str__(self) -> str:
        header = ["epoch", "lr", "train loss", "train acc", "val loss", "val acc", "seconds", ""]
        rows = [
            [
                str(r.epoch),
                f"{r.lr:.2e}",
                number(r.train_loss),
                percent(r.train_accuracy, digits=2),
                number(r.val_loss),
                percent(r.val_accuracy, digits=2),
                f"{r.seconds:.1f}",
                "best" if r.epoch == self.best_epoch else "",
            ]
            for r in self.records
        ]
        if self.monitor not in ("val_accuracy", "val_loss"):
            for row, cell in zip(rows, self.records, strict=True):
                row.insert(-2, number(getattr(cell, self.monitor)))
            header.insert(-2, self.monitor.replace("_", " "))
        return table(header, rows, left=0)


def progress_line(record: EpochRecord, epochs: int) -> str:
    """One line: the epoch, its losses and accuracies, and how long it took."""
    parts = [
        f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}",
        f"train loss {record.train_loss:.4f} acc {percent(record.train_accuracy)}",
    ]
    if record.val_loss is not None and record.val_accuracy is not None:
        parts.append(f"val loss {record.val_loss:.4f} acc {percent(record.val_accuracy)}")
    return "  ".join([*parts, f"{record.seconds:.1f} s"])
