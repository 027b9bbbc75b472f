"""What a comparison found: rows with intervals, paired tests, and how often test was looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from transferkit._typing import JSON, BoolArray
from transferkit.audit.multiple import holm
from transferkit.data.files import replacing
from transferkit.errors import ConfigError, DataError, UnknownNameError
from transferkit.metrics.evaluation import Evaluation
from transferkit.metrics.paired import PairedTest, mcnemar, paired_bootstrap
from transferkit.training.history import History
from transferkit.workflows.cell import Cell
from transferkit.workflows.rows import HEADER, Row, Score, row_cells, row_of
from transferkit.workflows.sheet import Sheet, html_page

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
