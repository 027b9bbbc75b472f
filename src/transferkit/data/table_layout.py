"""Images whose labels stand in a table: a CSV or TSV file, or a data frame."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Protocol, TypeAlias, cast

from transferkit.data.array_conversion import number_labels, to_group_name, to_group_names
from transferkit.data.folder_layout import SUFFIXES, Tree, join, nfc
from transferkit.data.listing import FileSource, LayoutOptions, Listing, Part
from transferkit.data.split_names import (
    assign_splits,
    search_path,
    split_of,
)
from transferkit.data.value_range import DatasetScale
from transferkit.errors import ConfigError, DataError

Columns: TypeAlias = Mapping[str, Sequence[str]]

ROLES = ("path", "label", "split", "group")

USUAL = {
    "label": (
        *("label", "labels", "class", "class name", "target", "diagnosis", "dx", "finding labels"),
        *("category", "finding", "species", "breed", "classid", "class id", "y"),
    ),
    "split": ("split", "set", "subset", "partition", "phase"),
    "group": ("patient id", "patientid", "patient", "subject", "subject id", "group", "lesion id"),
}
"""Names of columns by role, in lower case and with spaces, the surest first."""


def read_table(path: Path) -> Columns:
    """Read a CSV or TSV file as texts; a file without a header gets ``"column 1"``, ..."""
    if path.suffix.lower() in (".parquet", ".xls", ".xlsx", ".json"):
        raise DataError(
            f"{path.name} is no CSV or TSV. Read it with pandas and give the data frame."
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            delimiter = next((mark for mark in "\t;," if mark in head), " ")
            rows = [row for row in csv.reader(file, delimiter=delimiter) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name} is no readable table in UTF-8: {error}.") from error
    if not rows:
        raise DataError(f"{path.name} is an empty table.")
    header = [cell.strip() for cell in rows[0]]
    if any(Path(cell).suffix.lower() in SUFFIXES for cell in header):
        header = [f"column {number}" for number in range(1, len(header) + 1)]
    else:
        rows = rows[1:]
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise DataError(
                f"{path.name} has {len(header)} columns, but {len(row)} in row {number + 1}."
            )
    return {
        title: [nfc(row[place].strip()) for row in rows]
        for place, title in enumerate(header)
        if title
    }


class Frame(Protocol):
    """A data frame that offers the interchange protocol: pandas, polars, pyarrow and others."""

    def __dataframe__(self) -> object:
        """Return the frame in the form of the protocol."""


def is_frame(value: object) -> bool:
    """Whether a value is a data frame: of pandas, polars, pyarrow or another library."""
    return hasattr(value, "__dataframe__") or (
        hasattr(value, "columns") and hasattr(value, "shape") and hasattr(value, "__getitem__")
    )


def read_frame(frame: object) -> Columns:
    """Return the columns of a data frame as texts; a missing value is an empty text."""
    names = getattr(frame, "column_names", None) or getattr(frame, "columns", ())
    columns = {}
    for name in cast(Iterable[object], names):
        column = cast(Mapping[object, object], frame)[name]
        to_list = getattr(column, "to_pylist", None) or getattr(column, "to_list", None)
        values = cast(Iterable[object], column) if to_list is None else to_list()
        columns[str(name)] = [to_group_name(value) for value in values]
    return columns


def list_table(
    columns: Columns,
    title: str,
    tree: Tree | None,
    options: LayoutOptions,
    scale: DatasetScale,
    whole: str,
) -> Listing:
    """List the images that a table names, and note which columns were taken by their content.

    With a tree, paths are relative to its root, or names of files below it, with or without a
    suffix; without one they are relative to the working folder.
    """
    finder = Finder(tree)
    given = options.columns or {}
    chosen = choose_columns(columns, title, finder, given)
    paths = finder.paths(columns[chosen["path"]], title)
    labels = label_column(columns, chosen, title)
    groups = columns[chosen["group"]] if "group" in chosen else None
    splits, named = [whole] * len(paths), {whole: [whole]}
    top = [path.partition("/")[0] for path in paths]
    if "split" in chosen or len({split_of(name) for name in top} - {None}) > 1:
        splits = list(columns[chosen["split"]]) if "split" in chosen else top
        named = name_splits(splits, chosen.get("split"), title, options)
    rows = distinct_rows(paths, labels, splits, title)
    members = {s: [row for row in rows if splits[row] in own] for s, own in named.items()}
    texts = {split: split_labels(labels, own, split, title) for split, own in members.items()}
    numbers, classes = number_labels(title, texts)
    source = FileSource(Path() if tree is None else tree.root, scale)
    parts = {}
    for split, own in members.items():
        names = [paths[row] for row in own]
        grouping = None
        if groups is not None:
            grouping = to_group_names([groups[row] for row in own])
        parts[split] = Part(source, names, numbers[split], grouping)
    listed = set(paths)
    lost = {} if tree is None else {n: f"not in {title}" for n in tree.images if n not in listed}
    lost |= {} if tree is None else tree.left_out
    note = f"Of {title} the columns were read as columns={chosen!r}. Pass this, or name others."
    return Listing(parts, classes, lost, (note,) if {"path", "label"} - given.keys() else ())


def label_pattern(images: Sequence[str], pattern: str) -> Columns:
    """Return paths and labels, the match (or its first group) of a pattern in each path."""
    try:
        finder = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"labels is no regular expression: {pattern!r}: {error}.") from error
    hits = [search_path(finder, path) for path in images]
    missing = [path for path, hit in zip(images, hits, strict=True) if hit is None]
    if missing or not images:
        raise ConfigError(
            f"labels {pattern!r} is no file and matches no part of {len(missing)} of "
            f"{len(images)} paths, such as {(missing or ['(no image)'])[0]}."
        )
    return {"path": images, "label": [hit[min(1, finder.groups)] or "" for hit in hits if hit]}


class Finder:
    """Finds the files that a table names, below a folder, or from the working folder."""

    def __init__(self, tree: Tree | None) -> None:
        self.root = None if tree is None else tree.root.absolute()
        self.known: dict[str, list[str]] = {}  # by path and by name, with and without a suffix
        images = [] if tree is None else tree.images
        for path in images:
            folder, _, name = path.rpartition("/")
            stem = name.rpartition(".")[0] or name
            for key in {name, stem, join(folder, stem)}:
                self.known.setdefault(nfc(key), []).append(path)
        self.known |= {nfc(path): [path] for path in images}

    def files(self, value: str) -> list[str]:
        """Return the file of this path, or all files of this name."""
        whole = Path(value)
        if (self.root is None or whole.is_absolute()) and is_file(whole):
            if self.root is None or not whole.is_relative_to(self.root):
                return [value]
            return [whole.relative_to(self.root).as_posix()]
        path = nfc(value.replace("\\", "/"))
        while path not in self.known and "/" in path:  # the name of the dataset, or another root
            path = path.partition("/")[2]
            if "/" not in path and self.known.get(path) != [path]:
                return []  # a file of that name in another folder is another file
        return self.known.get(path, [])

    def paths(self, values: Sequence[str], title: str) -> list[str]:
        """Return the one file of each value, or the value if there is none, for reading to say."""
        found = list(map(self.files, values))
        for value, files in zip(values, found, strict=True):
            if len(files) > 1:
                folder = files[-1].rpartition("/")[0]
                raise DataError(
                    f"{value} of {title} may be any of {', '.join(files[:3])}. Give paths, or "
                    f"leave out the others, such as leave_out=[{folder!r}]."
                )
        return [files[0] if files else value for value, files in zip(values, found, strict=True)]


def is_file(path: Path) -> bool:
    """Whether a text of any length is the path of a file."""
    try:
        return path.is_file()
    except OSError:  # the name is too long
        return False


def choose_columns(
    columns: Columns,
    title: str,
    finder: Finder,
    roles: Mapping[str, str],
) -> dict[str, str]:
    """Return the column of each role: as named by the caller, else by content and usual names."""
    for role, name in roles.items():
        names = name.split(", ") if role == "label" and name not in columns else [name]
        if role not in ROLES or not set(names) <= columns.keys():
            raise ConfigError(
                f"columns must map {', '.join(ROLES)} to columns of {title}, which are "
                f"{', '.join(columns)}; got {role!r}: {name!r}."
            )
    chosen = dict(roles)
    if {"path", "label"} <= chosen.keys():
        return chosen
    if "path" not in chosen:
        some = slice(None, None, max(1, len(next(iter(columns.values()))) // 1000))
        files = {n: {*chain(*map(finder.files, own[some]))} for n, own in columns.items()}
        best = max(files, key=lambda name: len(files[name]))
        if not files[best]:
            raise DataError(
                f"No column of {title} names images that are there: {', '.join(columns)}. Give the "
                'folder of the images: tk.load_splits(folder, labels=table), or columns={"path": '
                "...}."
            )
        chosen["path"] = best
    for role, usual in USUAL.items():
        free = {
            re.sub(r"[\W_]+", " ", name.lower()).strip(): name
            for name in columns
            if name not in chosen.values()
        }
        found = next((free[name] for name in usual if name in free), None)
        if role == "split" and found is None:
            found = next((n for n in free.values() if all(map(split_of, set(columns[n])))), None)
        if role not in chosen and found is not None:
            chosen[role] = found
    return chosen


def paths_in_table(path: Path) -> list[Path]:
    """Return the image files that a table lists, in its order."""
    columns, tree = read_table(path), Tree(path.parent, ())
    finder = Finder(tree)
    listed = columns[choose_columns(columns, path.name, finder, {})["path"]]
    for value in listed:
        if not finder.files(value):
            raise DataError(f"There is no file {value}, which {path.name} lists.")
    return [tree.root / name for name in finder.paths(listed, path.name)]


def label_column(columns: Columns, chosen: dict[str, str], title: str) -> Sequence[str]:
    """Return the labels as texts; without a column of labels, from one column of 0 and 1 each."""
    label = chosen.get("label", "")
    if label not in columns:
        free = label.split(", ") if label else [n for n in columns if n not in chosen.values()]
        marks = [name for name in free if {"0", "1", "0.0", "1.0"} >= {*columns[name]}]
        rows = range(len(columns[chosen["path"]]))
        hot = [[name for name in marks if float(columns[name][row]) == 1] for row in rows]
        if len(marks) > 1 and all(len(names) == 1 for names in hot):
            chosen["label"] = ", ".join(marks)
            return [names[0] for names in hot]
        if len(free) != 1:
            raise DataError(
                f"No column of {title} is known to hold the labels: {', '.join(free) or 'none'}. "
                'Name it: columns={"label": ...}.'
            )
        chosen["label"] = label = free[0]
    labels = columns[label]
    several = [text for text in labels if "|" in text]
    if several and {part for text in several for part in text.split("|")} & {*labels}:
        raise DataError(
            f"{len(several)} of {len(labels)} labels of {title} name several classes, such as "
            f"{several[0]!r}. An image has one class here: leave these rows out of the table."
        )
    if len(labels) > 20 and len(set(labels)) > len(labels) / 2:
        raise DataError(
            f"The column {label} of {title} has {len(set(labels))} different values in "
            f"{len(labels)} rows, so it holds no classes. Measurements cannot be learnt here; name "
            'the column of classes: columns={"label": ...}.'
        )
    return labels


def name_splits(
    splits: Sequence[str], column: str | None, title: str, options: LayoutOptions
) -> dict[str, list[str]]:
    """Return the values, of a column or the names of folders, that make each split."""
    values = list(dict.fromkeys(splits))
    place = f"{'The folders' if column is None else f'The column {column}'} of {title}"
    named = assign_splits(place, values, options.split_folders)
    if not named:
        raise DataError(
            f"{place} names no splits: {', '.join(values[:9])}. "
            'Say which are which: split_folders={"train": ..., "test": ...}.'
        )
    return named


def distinct_rows(
    paths: Sequence[str], labels: Sequence[str], splits: Sequence[str], title: str
) -> list[int]:
    """Return the first row of each image; DataError if rows of one image contradict each other."""
    first: dict[str, int] = {}
    for row, path in enumerate(paths):
        other = first.setdefault(path, row)
        if (labels[row], splits[row]) != (labels[other], splits[other]):
            raise DataError(
                f"{title} has two rows for {path} that differ: {labels[other]!r} in "
                f"{splits[other]!r} and {labels[row]!r} in {splits[row]!r}."
            )
    return list(first.values())


def split_labels(
    labels: Sequence[str], rows: Sequence[int], split: str, title: str
) -> list[str] | None:
    """Return the labels of one split, or None where it has none at all."""
    own = [labels[row] for row in rows]
    empty = own.count("")
    if 0 < empty < len(own):
        raise DataError(
            f"{title}: {empty} of {len(own)} images of {split} have no label. Leave their rows "
            "out, or give them a split of their own."
        )
    return None if empty else own
