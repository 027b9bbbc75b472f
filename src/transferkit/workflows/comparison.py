"""What a comparison found: rows with intervals, paired tests, and how often test was looked at."""

from __future__ import annotations

import csv
import io
import json
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from math import log, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal, TypeAlias

import numpy as np

from transferkit._files import replacing
from transferkit._format import percent, percent_interval, plain, table
from transferkit._typing import JSON, BoolArray
from transferkit.data.image_data import Splits
from transferkit.errors import ConfigError, DataError, TransferkitError, UnknownNameError
from transferkit.metrics.evaluation import Evaluation
from transferkit.metrics.intervals import wilson_interval
from transferkit.metrics.multiple_testing import holm
from transferkit.metrics.paired import PairedTest, mcnemar, paired_bootstrap
from transferkit.models.classifier import Classifier, create_classifier
from transferkit.models.prefix_cache import Cache
from transferkit.training.history import History
from transferkit.training.options import TrainOptions
from transferkit.workflows.strategies import Strategy, run, with_outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a cell is to do; everything in it can be sent to another process.

    Attributes:
        backbone: Full name.
        strategy: How to train, spelled out.
        seed: Of everything random.
        weights: ``"default"``, a tag, a file, or None.
        image_size: Height and width of the network's input; None takes the weights' own.
        batch_size: Images a batch.
        device: Where to train.
    """

    backbone: str
    strategy: Strategy
    seed: int
    weights: str | Path | None
    image_size: int | tuple[int, int] | None
    batch_size: int
    device: str | None

    @property
    def name(self) -> str:
        """What the cell is called in messages."""
        return f"{self.backbone}, {self.strategy.name}, seed {self.seed}"

    def recipe(self, cache: Cache | None) -> Strategy:
        """The strategy with the options that all cells of the comparison share."""
        shared = TrainOptions(
            batch_size=self.batch_size,
            device=self.device,
            seed=self.seed,
            cache=cache,
            progress=False,
        )
        return replace(self.strategy, options=shared | self.strategy.options)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Cell:
    """What came of a task: scores, or an error.

    Attributes:
        backbone: Full name.
        strategy: Name of the strategy.
        seed: Of everything random.
        history: The figures of every epoch.
        val: Score on val, which chose the epoch.
        test: Score on test; None where there is no test split.
        trained: Parameters that were trained.
        seconds: From the built model to its scores; what an earlier cell has left in the cache is
            not paid again.
        error: What went wrong, where something did; all figures are then None.
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


def run_task(task: Task, splits: Splits, cache: Cache | None = None) -> Cell:
    """Do what a task says; whatever goes wrong becomes the cell's error."""
    blank = Cell(backbone=task.backbone, strategy=task.strategy.name, seed=task.seed)
    try:
        parts = with_outputs(splits, task.strategy.outputs)
        model = build(task, parts)
        started = time.perf_counter()
        result = run(task.recipe(cache), model, parts)
        seconds = time.perf_counter() - started
    except Exception as error:
        return replace(blank, error=_said(error))
    return replace(
        blank,
        history=result.history,
        val=result.val,
        test=result.test,
        trained=sum(p.numel() for p in result.classifier.parameters() if p.requires_grad),
        seconds=seconds,
    )


def build(task: Task, splits: Splits) -> Classifier:
    """The untrained classifier of a task."""
    scratch = task.strategy.method == "from_scratch"
    return create_classifier(
        task.backbone,
        splits.num_classes,
        weights=None if scratch else task.weights,
        dropout=task.strategy.dropout,
        image_size=task.image_size,
        classes=splits.classes,
        seed=task.seed,
    )


def _said(error: Exception) -> str:
    """Kind and message; where it was raised too, unless the message was written for the user."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, TransferkitError):
        return said
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{said} ({Path(frame.filename).name}, line {frame.lineno})"


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


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of cells that are formatted already.

    Attributes:
        title: What it shows.
        header: K column titles.
        rows: Rows of K cells.
        left: How many leading columns are flush left.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1

    def text(self) -> str:
        """Aligned columns for a terminal."""
        return table(self.header, self.rows, left=self.left)

    def csv(self) -> str:
        """Comma-separated values, the header first."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows(self.rows)
        return file.getvalue()

    def markdown(self) -> str:
        """A pipe table, as GitHub and Sphinx read it."""
        marks = [":--" if i < self.left else "--:" for i in range(len(self.header))]
        lines = [self.header, tuple(marks), *self.rows]
        return "\n".join(f"| {' | '.join(map(_in_pipes, line))} |" for line in lines)

    def html(self) -> str:
        """A ``<table>`` with its title as the caption; every cell escaped."""
        head = _html_row(self.header, "th", self.left)
        body = "\n".join(_html_row(row, "td", self.left) for row in self.rows)
        caption = f"<caption>{escape(self.title)}</caption>"
        return f"<table>{caption}\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table>"


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem;"
    "color:#2b2b2b}table{border-collapse:collapse;margin:1.5rem 0;font-variant-numeric:"
    "tabular-nums}caption{text-align:left;font-weight:600;padding:.3rem 0}th,td{padding:.25rem "
    ".7rem;border-bottom:1px solid #e6e6e6;text-align:right;white-space:nowrap}"
    "th.l,td.l{text-align:left}"
)


def html_page(title: str, sheets: tuple[Sheet, ...], notes: tuple[str, ...]) -> str:
    """A page that needs no other file: the tables, then the notes."""
    tables = "\n".join(sheet.html() for sheet in sheets)
    said = "\n".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{tables}\n{said}\n</body></html>\n"
    )


def _in_pipes(cell: str) -> str:
    return cell.replace("|", r"\|").replace("\n", " ")


def _html_row(cells: tuple[str, ...], tag: str, left: int) -> str:
    parts = (
        f"<{tag}{' class=l' if i < left else ''}>{escape(cell)}</{tag}>"
        for i, cell in enumerate(cells)
    )
    return f"<tr>{''.join(parts)}</tr>"


PairedMethod: TypeAlias = Literal["auto", "mcnemar", "bootstrap"]
SplitName: TypeAlias = Literal["val", "test"]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Backbones and strategies side by side.

    Attributes:
        cells: What came of each backbone, strategy and seed, in the order of the grid.
        pending: Names of the cells that were not run, because the run was interrupted.
        looks: How many models were judged on this test split, in this run and, where the results
            have a folder, in all runs on that folder.
        groups: Group of each test image, where the data have groups.
    """

    cells: tuple[Cell, ...]
    pending: tuple[str, ...] = ()
    looks: int = 0
    groups: tuple[str, ...] | None = None

    @property
    def interrupted(self) -> bool:
        """Whether some cells were not run."""
        return bool(self.pending)

    @property
    def rows(self) -> tuple[Row, ...]:
        """One row for each backbone and strategy: means over its seeds."""
        return tuple(row_of(cells) for cells in self._by_row().values())

    @property
    def best(self) -> Row:
        """The row with the highest accuracy on val; the test split has no say.

        Raises:
            DataError: No cell has scores.
        """
        done = [row for row in self.rows if row.val is not None]
        if not done:
            raise DataError(f"No cell has scores. {' '.join(self._failures())}".strip())
        return max(done, key=lambda row: row.val.accuracy if row.val else 0.0)

    @property
    def optimism(self) -> float | None:
        """By how much picking the row that is best on test would flatter it, at most, on average.

        The expected largest of k standard normal errors is at most ``sqrt(2 ln k)``, here times
        the largest standard error of an accuracy; k counts every look. None without a test split.
        """
        tested = [row.test for row in self.rows if row.test is not None]
        if not tested:
            return None
        error = max(sqrt(s.accuracy * (1 - s.accuracy) / s.n) for s in tested)
        return error * sqrt(2 * log(max(self.looks, 1)))

    def scores(self, split: SplitName = "test") -> dict[str, Score]:
        """Mean accuracy with its interval of each row that has one, for ``tk.plots``."""
        found = {row.name: row.test if split == "test" else row.val for row in self.rows}
        return {name: score for name, score in found.items() if score is not None}

    def seconds(self) -> dict[str, float]:
        """Mean time of each row that was judged on test, for ``tk.plots``."""
        return {r.name: r.seconds for r in self.rows if r.test and r.seconds is not None}

    def histories(self) -> dict[str, History]:
        """The history of each row's first seed, for ``tk.plots``."""
        firsts = {name: self._done(name)[:1] for name in self._by_row()}
        return {n: cells[0].history for n, cells in firsts.items() if cells and cells[0].history}

    def paired_test(
        self,
        first: str,
        second: str,
        *,
        split: SplitName = "test",
        method: PairedMethod = "auto",
        seed: int = 0,
    ) -> PairedTest:
        """Compare the accuracies of two rows on the same images.

        The trained models are taken as they are: images are drawn anew, seeds are not. What
        another seed would change is the ``deviation`` of a row's score.

        Args:
            first: Name of a row: ``"torchvision/resnet50, fine_tune"``.
            second: Name of another.
            split: The images.
            method: ``"mcnemar"`` compares one model with one; ``"bootstrap"`` compares the mean
                over seeds of each image's hits, by groups where the data have them. ``"auto"``
                takes McNemar's test where each row has one seed and there are no groups.
            seed: Of the bootstrap.

        Returns:
            The difference first minus second, with its interval and p-value.

        Raises:
            UnknownNameError: No such row.
            DataError: A row has no scores on the split.
            ConfigError: McNemar's test was asked for with several seeds, or no such method.
        """
        a, b = (self._hits(name, split) for name in (first, second))
        groups = self.groups if split == "test" else None
        single = len(a) == len(b) == 1
        if method == "mcnemar" or (method == "auto" and single and groups is None):
            if not single:
                raise ConfigError(
                    f"McNemar's test compares two models; {first!r} has {len(a)} seeds and "
                    f"{second!r} {len(b)}. Use method='bootstrap'."
                )
            return mcnemar(a[0], b[0])
        if method not in ("auto", "bootstrap"):
            raise ConfigError(f"method must be 'auto', 'mcnemar' or 'bootstrap', got {method!r}.")
        return paired_bootstrap(a.mean(axis=0), b.mean(axis=0), groups=groups, seed=seed)

    def table(self) -> Sheet:
        """The course's columns, one row for each backbone and strategy."""
        cells = tuple(row_cells(row) for row in self.rows)
        return Sheet("Comparison", HEADER, cells, left=2)

    def paired_table(self) -> Sheet | None:
        """Every other row against the best on val, on the test images; None without two rows."""
        rows = [row.name for row in self.rows if row.test is not None]
        if len(rows) < 2 or self.best.name not in rows:
            return None
        best = self.best.name
        others = [name for name in rows if name != best]
        tests = [self.paired_test(best, name) for name in others]
        adjusted = holm([test.p_value for test in tests]).tolist()
        lines = [_paired_cells(n, t, p) for n, t, p in zip(others, tests, adjusted, strict=True)]
        title = f"{best} (best on val) minus each other row, on the same test images"
        return Sheet(title, ("minus", "difference", "95 %", "p", "p, Holm", "test"), tuple(lines))

    def notes(self) -> tuple[str, ...]:
        """What must be said beside the table."""
        notes = self._failures()
        if self.pending:
            notes.append(f"Interrupted: {len(self.pending)} cells were not run; run it again.")
        flattery = self.optimism
        if flattery is not None and self.looks > 1:
            notes.append(
                f"The test split was looked at {self.looks} times. Choose by val: picking the row "
                f"that is best on test would flatter it by up to {100 * flattery:.1f} points."
            )
        return tuple(notes)

    def __str__(self) -> str:
        paired = self.paired_table()
        second = [] if paired is None else [f"{paired.title}:\n{paired.text()}"]
        return "\n\n".join([self.table().text(), *second, *self.notes()])

    def to_dict(self) -> dict[str, JSON]:
        """Rows, failures and looks as plain data."""
        rows: list[JSON] = [row.to_dict() for row in self.rows]
        return {
            "rows": rows,
            "errors": {cell.name: cell.error for cell in self.cells if cell.error is not None},
            "pending": list(self.pending),
            "test_looks": self.looks,
            "optimism": self.optimism,
        }

    def to_csv(self) -> str:
        """One line a row, plain numbers."""
        rows = [row.flat() for row in self.rows]
        cells = tuple(tuple("" if v is None else str(v) for v in row.values()) for row in rows)
        header = tuple(rows[0]) if rows else ()
        return Sheet("", header, cells).csv()

    def to_markdown(self) -> str:
        """The tables and notes as Markdown."""
        paired = self.paired_table()
        second = [] if paired is None else [f"{paired.title}:", paired.markdown()]
        return "\n\n".join([self.table().markdown(), *second, *self.notes()]) + "\n"

    def to_html(self) -> str:
        """The tables and notes as a page that needs no other file."""
        paired = self.paired_table()
        sheets = (self.table(),) if paired is None else (self.table(), paired)
        return html_page("Comparison", sheets, self.notes())

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``comparison.txt``, ``.csv``, ``.md``, ``.html`` and ``.json`` into ``folder``.

        Raises:
            OutputError: They cannot be written.
        """
        forms = {
            "txt": f"{self}\n",
            "csv": self.to_csv(),
            "md": self.to_markdown(),
            "html": self.to_html(),
            "json": json.dumps(self.to_dict(), indent=2) + "\n",
        }
        paths = {form: Path(folder) / f"comparison.{form}" for form in forms}
        for form, text in forms.items():
            with replacing(paths[form]) as draft:
                draft.write_text(text, encoding="utf-8")
        return list(paths.values())

    def _by_row(self) -> Mapping[str, Sequence[Cell]]:
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(f"{cell.backbone}, {cell.strategy}", []).append(cell)
        return found

    def _done(self, row: str) -> list[Cell]:
        by_row = self._by_row()
        if row not in by_row:
            raise UnknownNameError.among("row", row, by_row)
        return [cell for cell in by_row[row] if cell.error is None]

    def _hits(self, row: str, split: SplitName) -> BoolArray:
        """Whether each model of a row is right on each image ``(seeds, N)``."""
        scores = [cell.test if split == "test" else cell.val for cell in self._done(row)]
        judged: list[Evaluation] = [one for one in scores if one is not None]
        if not judged:
            raise DataError(f"The row {row!r} has no scores on {split}.")
        return np.stack([one.correct for one in judged])

    def _failures(self) -> list[str]:
        return [f"Failed: {cell.name}: {cell.error}" for cell in self.cells if cell.error]


def _paired_cells(name: str, test: PairedTest, adjusted: float) -> tuple[str, ...]:
    low, high = test.interval
    return (
        name,
        f"{100 * test.difference:+.1f}",
        f"[{100 * low:+.1f}, {100 * high:+.1f}]",
        f"{test.p_value:.3g}",
        f"{adjusted:.3g}",
        test.method,
    )
