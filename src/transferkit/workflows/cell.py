"""One cell of a comparison: a backbone, trained by a strategy, from a seed."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

from transferkit.data.dataset import Splits
from transferkit.errors import TransferkitError
from transferkit.metrics.evaluation import Evaluation
from transferkit.models.caching import Cache
from transferkit.models.classifier import Classifier, create_classifier
from transferkit.training.history import History
from transferkit.workflows.runners import Setting, run
from transferkit.workflows.strategy import Strategy, with_outputs


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

    def setting(self, cache: Cache | None) -> Setting:
        """What the workflow needs to know beside the strategy."""
        return Setting(batch_size=self.batch_size, device=self.device, seed=self.seed, cache=cache)


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
        result = run(model, parts, task.strategy, task.setting(cache))
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
