"""Progress: a bar on a terminal, one plain line per epoch in a log file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn, Self

from tqdm import tqdm

from transferkit._format import percent
from transferkit.training.history import EpochRecord


class Progress:
    """Shows on standard error how far a run is: ``done`` of so many ``steps`` at the start.

    ``show`` True is a bar, False nothing; None a bar on a terminal, and lines elsewhere.
    """

    def __init__(self, show: bool | None, *, epochs: int, steps: int, done: int) -> None:
        self._epochs = epochs
        self._lines = show is None and not sys.stderr.isatty()
        self._bar: tqdm[NoReturn] | None = None
        if show is not False and not self._lines:
            self._bar = tqdm(total=steps, initial=done, unit="step", leave=False)

    def step(self) -> None:
        """Count one optimizer step."""
        if self._bar is not None:
            self._bar.update()

    @contextmanager
    def encoding(self, images: int) -> Iterator[Callable[[int], object]]:
        """Show how many images have gone through the frozen layers, beside the bar of the run."""
        if self._bar is None:
            yield lambda count: None
            return
        with tqdm(total=images, desc="encoding", unit="image", leave=False) as bar:
            yield bar.update

    def epoch(self, record: EpochRecord) -> None:
        """Show the figures of an epoch."""
        if self._bar is not None:
            self._bar.set_postfix_str(describe(record, self._epochs), refresh=False)
        if self._lines:
            print(describe(record, self._epochs), file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def describe(record: EpochRecord, epochs: int) -> str:
    """One line: the epoch, its losses and accuracies, and how long it took."""
    parts = [
        f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}",
        f"train loss {record.train_loss:.4f} acc {percent(record.train_accuracy)}",
    ]
    if record.val_loss is not None and record.val_accuracy is not None:
        parts.append(f"val loss {record.val_loss:.4f} acc {percent(record.val_accuracy)}")
    return "  ".join([*parts, f"{record.seconds:.1f} s"])
