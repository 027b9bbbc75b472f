"""The folder of a comparison: one file for each cell, written whole or not at all."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import cast

import numpy as np

from transferkit._files import make_folder, replacing
from transferkit._format import plain, plain_fields
from transferkit._typing import JSON
from transferkit._version import __version__
from transferkit.data.splits import Splits
from transferkit.errors import ConfigError
from transferkit.metrics.evaluation import evaluate_probabilities
from transferkit.training.history import EpochRecord, History
from transferkit.training.options import TrainOptions, is_comparable
from transferkit.workflows.comparison_rows import Cell
from transferkit.workflows.strategy import Strategy

SPLITS = ("val", "test")
ARRAYS = ("probabilities", "labels")
NOT_IN_KEY = ("device", "progress", "cache")
"""Options of training that the scores do not depend on."""
UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True)
class Task:
    """A cell before it is trained; it can be pickled and sent to another process."""

    backbone: str
    strategy: Strategy
    seed: int
    weights: str | Path | None
    image_size: int | tuple[int, int] | None

    @property
    def name(self) -> str:
        """Backbone, strategy and seed."""
        return f"{self.backbone}, {self.strategy.name}, seed {self.seed}"


class CellStore:
    """Finished cells on disk; several runs may use one folder at a time.

    A cell's file is named after its task and the data, so that a run finds exactly those cells
    that it would compute, and two runs that compute the same one write the same file. Failed
    cells are stored too, for the user to read, and are run again.
    """

    def __init__(self, folder: Path, splits: Splits, strategies: Sequence[Strategy]) -> None:
        for strategy in strategies:
            _check_storable(strategy)
        self._folder = folder / "cells"
        self._fingerprints: dict[str, JSON] = {n: data.fingerprint() for n, data in splits.items()}
        self._groups = {name: data.groups for name, data in splits.items()}
        make_folder(self._folder)

    def load(self, task: Task) -> Cell | None:
        """The finished cell of a task; None if there is none, it failed, or it cannot be read."""
        try:
            with self._path(task).open("rb") as file, np.load(file, allow_pickle=False) as archive:
                about = json.loads(str(archive["about"]))
                cell, classes = about["cell"], about["classes"]
                for name in SPLITS:
                    if f"{name}_labels" in archive:
                        values = (archive[f"{name}_{part}"] for part in ARRAYS)
                        cell[name] = evaluate_probabilities(
                            *values, classes=classes, groups=self._groups[name]
                        )
            history = cell["history"]
            records = tuple(EpochRecord(**record) for record in history["records"])
            cell["history"] = History(records, history["monitor"], history.get("probe_epochs", 0))
            return Cell(**cell)
        except UNREADABLE:  # a cell that failed has no history
            return None

    def save(self, task: Task, cell: Cell) -> None:
        """Store a cell: its evaluations as arrays, everything else as JSON."""
        about = {
            "task": self._identity(task),
            "test": self._fingerprints.get("test") if cell.test else None,
            "classes": None if cell.val is None else list(cell.val.classes),
            "cell": plain_fields(cell, without=SPLITS),
        }
        evaluations = {name: getattr(cell, name) for name in SPLITS if getattr(cell, name)}
        arrays = {
            f"{n}_{part}": getattr(e, part) for n, e in evaluations.items() for part in ARRAYS
        }
        with replacing(self._path(task)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)

    def looks(self) -> int:
        """How many cells in the folder, of any grid, were evaluated on this test split."""
        test = self._fingerprints.get("test")
        if test is None:
            return 0
        return sum(_test_of(path) == test for path in self._folder.glob("*.npz"))

    def _path(self, task: Task) -> Path:
        text = json.dumps(self._identity(task), sort_keys=True)
        digest = blake2b(text.encode(), digest_size=8).hexdigest()
        readable = re.sub(r"[^\w.-]+", "_", task.name.replace(", ", "__"))[:100]
        return self._folder / f"{readable}__{digest}.npz"

    def _identity(self, task: Task) -> dict[str, JSON]:
        """Everything that the scores of a cell depend on."""
        return {
            "backbone": task.backbone,
            "strategy": _strategy_identity(task.strategy),
            "seed": task.seed,
            "weights": _weights_identity(task.weights),
            "image_size": plain(task.image_size),
            "version": __version__,
            "data": self._fingerprints,
        }


def _check_storable(strategy: Strategy) -> None:
    """Refuse an option whose text is no key: cells of two values of it would be mixed up."""
    for name, text in cast("dict[str, JSON]", _strategy_identity(strategy)["options"]).items():
        if not is_comparable(text):
            raise ConfigError(
                f"{name} of {strategy.name!r} must be a function of a module, or an object whose "
                f"repr shows its settings, where cells are stored, got {text}."
            )


def _strategy_identity(strategy: Strategy) -> dict[str, JSON]:
    options = {k: v for k, v in strategy.options.items() if k not in NOT_IN_KEY}
    return replace(strategy, options=cast(TrainOptions, options)).to_dict()


def _weights_identity(weights: str | Path | None) -> str | None:
    """A tag as it is, a file by its name and content."""
    if weights is None or not Path(weights).is_file():
        return None if weights is None else str(weights)
    with Path(weights).open("rb") as file:
        digest = file_digest(file, lambda: blake2b(digest_size=8))
    return f"{Path(weights).name}:{digest.hexdigest()}"


def _test_of(path: Path) -> JSON:
    """Fingerprint of the test split that a stored cell was evaluated on."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            about: dict[str, JSON] = json.loads(str(archive["about"]))
            return about["test"]
    except UNREADABLE:
        return None
