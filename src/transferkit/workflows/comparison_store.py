"""The folder of a comparison: one file a cell, whole or not at all."""

from __future__ import annotations

import json
import re
import zipfile
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from transferkit._files import make_folder, replacing
from transferkit._format import plain
from transferkit._typing import JSON
from transferkit._version import __version__
from transferkit.data.image_data import Splits
from transferkit.metrics.evaluation import Evaluation, evaluate_probabilities
from transferkit.training.history import EpochRecord, History
from transferkit.workflows.comparison import Cell, Task

SPLITS = ("val", "test")
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile)


class CellStore:
    """Finished cells on disk; several runs may use one folder at a time.

    A cell's file is named after its task and the data, so that a run finds exactly those cells
    that it would compute, and two runs that compute the same one write the same file. Cells that
    failed are stored too, so that they can be read, and tried again.
    """

    def __init__(self, folder: Path, splits: Splits) -> None:
        """Make the folder and see that it can be written."""
        self._folder = folder / "cells"
        self._prints = {name: data.fingerprint() for name, data in splits.items()}
        make_folder(self._folder)

    def load(self, task: Task) -> Cell | None:
        """The finished cell of a task; None if there is none, it failed, or it cannot be read."""
        stored = _read(self._path(task))
        return None if stored is None or stored.error is not None else stored

    def save(self, task: Task, cell: Cell) -> None:
        """Store a cell.

        Raises:
            OutputError: It cannot be written.
        """
        said = {
            "task": self._identity(task),
            "test": self._prints.get("test") if cell.test else None,
            "cell": _described(cell),
        }
        arrays = {
            f"{name}_{part}": getattr(scores, part)
            for name, scores in (("val", cell.val), ("test", cell.test))
            if scores is not None
            for part in ("probabilities", "labels")
        }
        with replacing(self._path(task)) as draft, draft.open("wb") as file:
            np.savez(file, allow_pickle=False, about=np.array(json.dumps(said)), **arrays)

    def looks(self) -> int:
        """How many cells in the folder, of whatever grid, were judged on this test split."""
        if "test" not in self._prints:
            return 0
        about = filter(None, map(_about, self._folder.glob("*.npz")))
        return sum(said.get("test") == self._prints["test"] for said in about)

    def _path(self, task: Task) -> Path:
        text = json.dumps(self._identity(task), sort_keys=True)
        digest = blake2b(text.encode(), digest_size=8).hexdigest()
        plain_name = re.sub(r"[^\w.-]+", "_", task.name.replace(", ", "__"))[:100]
        return self._folder / f"{plain_name}__{digest}.npz"

    def _identity(self, task: Task) -> dict[str, JSON]:
        """All that the scores depend on."""
        return {
            "backbone": task.backbone,
            "strategy": task.strategy.to_dict(),
            "seed": task.seed,
            "weights": _weights_identity(task.weights),
            "image_size": plain(task.image_size),
            "batch_size": task.batch_size,
            "data": {name: self._prints[name] for name in self._prints},
            "version": __version__,
        }


def _weights_identity(weights: str | Path | None) -> str | None:
    """A tag as it is, a file by its content."""
    if weights is None or not Path(weights).is_file():
        return None if weights is None else str(weights)
    with Path(weights).open("rb") as file:
        digest = blake2b(digest_size=8)
        while block := file.read(1 << 20):
            digest.update(block)
    return f"{Path(weights).name}:{digest.hexdigest()}"


def _described(cell: Cell) -> dict[str, JSON]:
    """A cell without its probabilities."""
    history = None if cell.history is None else cell.history.to_dict()
    return {
        "backbone": cell.backbone,
        "strategy": cell.strategy,
        "seed": cell.seed,
        "history": history,
        "classes": None if cell.val is None else list(cell.val.classes),
        "trained": cell.trained,
        "seconds": cell.seconds,
        "error": cell.error,
    }


def _about(path: Path) -> dict[str, JSON] | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            said: dict[str, JSON] = json.loads(str(archive["about"]))
            return said
    except _UNREADABLE:
        return None


def _read(path: Path) -> Cell | None:
    """A stored cell; None where there is none or the file is not a cell."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            said = json.loads(str(archive["about"]))["cell"]
            arrays = {name: archive[name] for name in archive.files if name != "about"}
        val, test = (_scores(arrays, name, said["classes"]) for name in SPLITS)
        return Cell(
            backbone=said["backbone"],
            strategy=said["strategy"],
            seed=said["seed"],
            history=None if said["history"] is None else _history(said["history"]),
            val=val,
            test=test,
            trained=said["trained"],
            seconds=said["seconds"],
            error=said["error"],
        )
    except _UNREADABLE:
        return None


def _scores(
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]],
    name: str,
    classes: list[str],
) -> Evaluation | None:
    if f"{name}_labels" not in arrays:
        return None
    probabilities, labels = arrays[f"{name}_probabilities"], arrays[f"{name}_labels"]
    return evaluate_probabilities(probabilities, labels, classes=classes)


def _history(said: dict[str, Any]) -> History:
    records = tuple(EpochRecord(**record) for record in said["records"])
    return History(records, said["monitor"])
