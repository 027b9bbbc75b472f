"""Ours with its cache on disk: how long, and how large the cache becomes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import transferkit as tk
from speed.serve import Round, serve
from speed.sides.ours import data, trainer
from speed.task import Task


def prepare(task: Task) -> Round:
    train = data(task.pixels, task.images, 0)
    val = data(task.pixels, task.held_out, 1)

    def run() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            cache = tk.Cache(where="disk", folder=folder)
            trainer(task, cache).fit(train, val, epochs=task.epochs)
            files = [path for path in Path(folder).rglob("*") if path.is_file()]
            return {"cache MB": sum(path.stat().st_size for path in files) / 1e6}

    return run


if __name__ == "__main__":
    serve(prepare, "transferkit", "timm")
