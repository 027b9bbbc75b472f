"""The result of ``tk.compare``: rows with intervals, paired tests, and looks at the test split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log, sqrt
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from transferkit._files import write_text
from transferkit._format import Table, csv_text
from transferkit._sampling import shared_groups
from transferkit._typing import JSON, BoolArray, Int64Array
from transferkit.errors import DataError, UnknownNameError
from transferkit.metrics.intervals import (
    Claim,
    PairedTest,
    holm,
    judge_claim,
    mcnemar,
    sign_flip_test,
)
from transferkit.training.history import History
from transferkit.workflows.comparison_rows import (
    HEADER,
    Cell,
    Row,
    Score,
    csv_row,
    row_cells,
    row_of,
)

SplitName: TypeAlias = Literal["val", "test"]

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem;"
    "color:#2b2b2b}table{border-collapse:collapse;margin:1.5rem 0;font-variant-numeric:"
    "tabular-nums}caption{text-align:left;font-weight:600;padding:.3rem 0}th,td{padding:.25rem "
    ".7rem;border-bottom:1px solid #e6e6e6;text-align:right;white-space:nowrap}"
    "th.l,td.l{text-align:left}"
)


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Backbones and strategies side by side.

    Attributes:
        cells: One for each backbone, strategy and seed, in the order of the grid.
        pending: Names of the cells that were not run, because the run was interrupted.
        looks: How many models were evaluated on this test split, in this run and, where the
            results have a folder, in all runs on that folder.
    """

    cells: tuple[Cell, ...]
    pending: tuple[str, ...] = ()
    looks: int = 0

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
        """The row with the highest accuracy on val; the test split has no influence.

        Raises:
            DataError: No cell has scores.
        """
        done = [row for row in self.rows if row.val is not None]
        if not done:
            raise DataError(f"No cell has scores. {' '.join(self._failures())}".strip())
        return max(done, key=lambda row: row.val.accuracy if row.val else 0.0)

    @property
    def optimism(self) -> float | None:
        """Upper bound on the bias of the accuracy of the row that is best on test.

        The expected maximum of k standard normal errors is at most ``sqrt(2 ln k)``, here times
        the largest standard error of an accuracy (of whole groups, where the data have them), with
        k the number of looks at the test split. None without a test split.
        """
        tested = [row.test for row in self.rows if row.test is not None]
        if not tested:
            return None
        error = max(sqrt(s.accuracy * (1 - s.accuracy) / s.effective_n) for s in tested)
        return error * sqrt(2 * log(max(self.looks, 1)))

    def scores(self, split: SplitName = "test") -> dict[str, Score]:
        """Mean accuracy with its interval of each row that has one, for ``tk.plots``."""
        found = {row.name: row.test if split == "test" else row.val for row in self.rows}
        return {name: score for name, score in found.items() if score is not None}

    def seconds(self) -> dict[str, float]:
        """Mean time of each row that was evaluated on test, for ``tk.plots``."""
        return {r.name: r.seconds for r in self.rows if r.test and r.seconds is not None}

    def histories(self) -> dict[str, History]:
        """The history of each row's first seed, for ``tk.plots``."""
        firsts = {name: self._done(name)[:1] for name in self._by_row()}
        return {n: cells[0].history for n, cells in firsts.items() if cells and cells[0].history}

    def paired_test(
        self, first: str, second: str, *, split: SplitName = "test", seed: int = 0
    ) -> PairedTest:
        """Compare the accuracies of two rows on the same images.

        McNemar's exact test where each row has one seed; else, and where images have groups, a
        permutation test of each image's mean hits over seeds, which flips the signs of whole
        groups. The trained models are fixed: the variation over seeds is the ``deviation`` of a
        row's score.

        Args:
            first: Name of a row: ``"torchvision/resnet50, fine_tune"``.
            second: Name of another.
            split: The images.
            seed: Seed of the permutations.

        Returns:
            The difference first minus second, with its interval and p-value.

        Raises:
            UnknownNameError: No such row.
            DataError: A row has no scores on the split.
        """
        (a, groups), (b, _) = (self._hits(name, split) for name in (first, second))
        if len(a) == len(b) == 1 and groups is None:
            return mcnemar(a[0], b[0])
        return sign_flip_test(a.mean(axis=0), b.mean(axis=0), groups=groups, seed=seed)

    def claim(self, better: str, than: str, *, split: SplitName = "test") -> Claim:
        """The probability that "``better`` is better than ``than``" is false, from their hits.

        It is that of a claim made before looking: the best of k rows is ahead by chance more often
        (see ``paired_table`` for p-values corrected for that).

        Args:
            better: Name of the row that is claimed to be more accurate.
            than: Name of the other.
            split: The images.

        Returns:
            That probability, and how many such images would bring it to 5 %.

        Raises:
            UnknownNameError: No such row.
            DataError: A row has no scores on the split.
        """
        (first, groups), (second, _) = (self._hits(name, split) for name in (better, than))
        return judge_claim(first.mean(axis=0), second.mean(axis=0), groups, names=(better, than))

    def table(self) -> Table:
        """The course's columns, one row for each backbone and strategy."""
        return Table("Comparison", HEADER, tuple(map(row_cells, self.rows)), left=2)

    def paired_table(self) -> Table | None:
        """Every other row against the best on val, on the test images; None without two rows."""
        names = [row.name for row in self.rows if row.test is not None]
        if len(names) < 2 or self.best.name not in names:
            return None
        best = self.best.name
        others = [name for name in names if name != best]
        tests = [self.paired_test(best, name) for name in others]
        adjusted = holm([test.p_value for test in tests]).tolist()
        lines = tuple(map(_paired_cells, others, tests, adjusted))
        title = f"{best} (best on val) minus each other row, on the same test images"
        return Table(title, ("minus", "difference", "95 %", "p", "p, Holm", "test"), lines)

    def notes(self) -> tuple[str, ...]:
        """Failed and pending cells, and the bias of choosing a row on the test split."""
        notes = self._failures()
        if self.pending:
            notes.append(f"Interrupted: {len(self.pending)} cells were not run; run it again.")
        bias = self.optimism
        if bias is not None and self.looks > 1:
            notes.append(
                f"The test split was looked at {self.looks} times. Choose by val: picking the row "
                f"that is best on test would flatter it by up to {100 * bias:.1f} points."
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
        """One line for each row, as plain numbers."""
        rows = [csv_row(row) for row in self.rows]
        return csv_text(rows[0] if rows else (), (row.values() for row in rows))

    def to_markdown(self) -> str:
        """The tables and notes as Markdown."""
        paired = self.paired_table()
        second = [] if paired is None else [f"{paired.title}:", paired.markdown()]
        return "\n\n".join([self.table().markdown(), *second, *self.notes()]) + "\n"

    def to_html(self) -> str:
        """The tables and notes as a page that needs no other file."""
        tables = [table.html() for table in (self.table(), self.paired_table()) if table]
        body = "\n".join([*tables, *(f"<p>{escape(note)}</p>" for note in self.notes())])
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>Comparison</title><style>{STYLE}</style></head>\n"
            f"<body><h1>Comparison</h1>\n{body}\n</body></html>\n"
        )

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``comparison.txt``, ``.csv``, ``.md``, ``.html`` and ``.json`` into ``folder``.

        Raises:
            OutputError: They cannot be written.
        """
        texts = {
            Path(folder) / "comparison.txt": f"{self}\n",
            Path(folder) / "comparison.csv": self.to_csv(),
            Path(folder) / "comparison.md": self.to_markdown(),
            Path(folder) / "comparison.html": self.to_html(),
            Path(folder) / "comparison.json": json.dumps(self.to_dict(), indent=2) + "\n",
        }
        for path, text in texts.items():
            write_text(path, text)
        return list(texts)

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

    def _hits(self, row: str, split: SplitName) -> tuple[BoolArray, Int64Array | None]:
        """Whether each model of a row is right on each image ``(seeds, N)``, and their groups."""
        scores = [cell.test if split == "test" else cell.val for cell in self._done(row)]
        known = [evaluation for evaluation in scores if evaluation is not None]
        if not known:
            raise DataError(f"The row {row!r} has no scores on {split}.")
        hits = np.stack([evaluation.correct for evaluation in known])
        return hits, shared_groups(known[0].groups, hits.shape[1])

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
