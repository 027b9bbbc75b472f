"""One table in the four forms that it is wanted in: text, CSV, Markdown, HTML."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from html import escape

from transferkit._text import table


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
