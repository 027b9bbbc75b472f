"""A grid of backbones, strategies and seeds that can be stopped and goes on where it was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TypeAlias, cast

import torch

from transferkit._format import percent
from transferkit._validation import check_whole, to_path
from transferkit.backbones.catalog import resolve
from transferkit.data.image_data import ImageData, Splits
from transferkit.errors import ConfigError, UnknownNameError
from transferkit.models.prefix_cache import Cache, Where, shared
from transferkit.workflows.comparison import Cell, Comparison, Task, run_task
from transferkit.workflows.comparison_store import CellStore
from transferkit.workflows.result import checked_splits
from transferkit.workflows.strategies import Strategy, strategy_named

Weights: TypeAlias = str | Path | None
"""``"default"``, a tag, a file, or None for random ones."""


def weights_of(name: str, weights: Weights | Mapping[str, Weights]) -> Weights:
    """The weights of one backbone: the same for all, or by name with the default for the rest."""
    return weights.get(name, "default") if isinstance(weights, Mapping) else weights


def check_names(option: str, names: object) -> None:
    """See that an option is a list of names of backbones.

    Raises:
        ConfigError: It is not.
    """
    many = not isinstance(names, str) and isinstance(names, Sequence) and len(names) > 0
    if not many or not all(isinstance(name, str) for name in cast(Sequence[object], names)):
        raise ConfigError(
            f'{option} must be a list of names of backbones, such as ["resnet18"], got {names!r}.'
        )


def check_weights(names: Sequence[str], weights: Weights | Mapping[str, Weights]) -> None:
    """See that a mapping gives weights only to backbones that are at work.

    Raises:
        UnknownNameError: It names another.
    """
    for name in weights if isinstance(weights, Mapping) else ():
        if name not in names:
            raise UnknownNameError.among("backbone in weights", name, names)


def compare(
    backbones: Sequence[str],
    strategies: Sequence[str | Strategy],
    splits: Mapping[str, ImageData],
    *,
    seeds: Sequence[int] = (0,),
    weights: Weights | Mapping[str, Weights] = "default",
    image_size: int | tuple[int, int] | None = None,
    epochs: int | None = None,
    batch_size: int = 32,
    device: str | None = None,
    out: str | Path | None = None,
    executor: Executor | None = None,
    progress: bool = True,
    cache: Cache | Where | None = "auto",
) -> Comparison:
    """Train every backbone by every strategy from every seed, and set the results side by side.

    With ``out``, each cell is stored there as it ends, and a later call runs only what is missing
    (cells that failed are tried again); the tables are written there too, also after Ctrl-C. A
    cell that fails is recorded with its error, and the others go on.

    Args:
        backbones: Names of backbones; a tag may follow a dot: ``"resnet50.IMAGENET1K_V1"``.
        strategies: Names (``"linear_probe"``, ``"fine_tune"``, ``"lp_ft"``,
            ``"gradual_unfreeze"``, ``"interpolate"``, ``"from_scratch"``) or
            :class:`~transferkit.Strategy` values with options of their own.
        splits: ``"train"`` and ``"val"``, and ``"test"`` if there is one.
        seeds: One cell for each.
        weights: As for ``create_classifier``; or a mapping from backbones, as named above, where
            those not in it take their default.
        image_size: Height and width of the networks' input; None takes the weights' own.
        epochs: Length of every run that does not say its own.
        batch_size: Images a batch.
        device: Where to train; by default a GPU if there is one.
        out: Folder for cells and tables; made if absent. Several runs may share it.
        executor: Runs the cells: any of ``concurrent.futures``, or one of its kind, such as
            ``dask.distributed.Client(...).get_executor()``. By default one after the other, here.
            Threads share torch's random numbers, so their results vary; processes' do not.
        progress: Say on standard error what each cell came to.
        cache: Where to keep what the frozen part of a backbone makes of each image, for all cells
            that share it: see :class:`~transferkit.Cache`. Processes share what is on disk only.

    Returns:
        All that was done; after Ctrl-C, all that was done until then.

    Raises:
        UnknownNameError: No such strategy or backbone.
        ConfigError: No backbone, strategy or seed, or two strategies of one name.
        DataError: Train or val is absent or unlabelled.
        OutputError: ``out`` cannot be written.

    Example:
        >>> import transferkit as tk
        >>> splits = tk.phantom_splits(sizes=(60, 30, 30), image_size=32, seed=0)
        >>> top = tk.Strategy("fine_tune", name="top", upto="layer3", epochs=2)
        >>> comparison = tk.compare(
        ...     ["transferkit/formula_resnet18"],
        ...     ["linear_probe", top],
        ...     splits,
        ...     image_size=32,
        ...     progress=False,
        ... )
        >>> [(cell.strategy, cell.seed, cell.test.n) for cell in comparison.cells]
        [('linear_probe', 0, 30), ('top', 0, 30)]
    """
    parts = checked_splits(splits)
    chosen = _check_strategies(strategies, epochs)
    check_names("backbones", backbones)
    _check_some(seeds=seeds)
    for seed in seeds:
        check_whole("Each of seeds", seed)
    _check_executor(executor)
    check_weights(backbones, weights)
    tasks = [
        Task(
            backbone=resolve(name).full_name + _tag(name),
            strategy=strategy,
            seed=seed,
            weights=weights_of(name, weights),
            image_size=image_size,
            batch_size=batch_size,
            device=device,
        )
        for name, strategy, seed in product(dict.fromkeys(backbones), chosen, dict.fromkeys(seeds))
    ]
    store = None if out is None else CellStore(to_path("out", out), parts)
    cells = _collect(tasks, parts, store, executor, shared(cache), progress=progress)
    comparison = Comparison(
        cells=tuple(cells[task.name] for task in tasks if task.name in cells),
        pending=tuple(task.name for task in tasks if task.name not in cells),
        looks=sum(c.test is not None for c in cells.values()) if store is None else store.looks(),
        groups=_shared_groups(parts),
    )
    if out is not None:
        comparison.save(out)
    return comparison


def _collect(
    tasks: Sequence[Task],
    splits: Splits,
    store: CellStore | None,
    executor: Executor | None,
    cache: Cache | None,
    *,
    progress: bool,
) -> dict[str, Cell]:
    """The cells by name, those in the store first; until all are there, or Ctrl-C."""
    look = _nowhere if store is None else store.load
    stored = {task.name: look(task) for task in tasks}
    cells = {name: cell for name, cell in stored.items() if cell is not None}
    missing = [task for task in tasks if task.name not in cells]
    running = _run(missing, splits, executor, cache, look=look)
    try:
        with torch.random.fork_rng(devices=[]), closing(running) as run:
            for task, cell in run:
                cells[task.name] = cell
                if store is not None:
                    store.save(task, cell)
                if progress:
                    print(f"{len(cells)}/{len(tasks)}  {_said(cell)}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        if progress:
            print("interrupted: the table shows what is done", file=sys.stderr, flush=True)
    return cells


def _run(
    tasks: Sequence[Task],
    splits: Splits,
    executor: Executor | None,
    cache: Cache | None,
    *,
    look: Callable[[Task], Cell | None],
) -> Generator[tuple[Task, Cell], None, None]:
    """Each task with its cell, as it ends."""
    if executor is None:
        for task in tasks:  # another run on the same folder may have been faster
            yield task, look(task) or run_task(task, splits, cache)
        return
    futures = {executor.submit(run_task, task, splits, cache): task for task in tasks}
    try:
        for future in as_completed(futures):
            yield futures[future], _result(future, futures[future])
    finally:
        for future in futures:
            future.cancel()


def _nowhere(_task: Task) -> None:
    """Without a folder nothing is stored."""


def _result(future: Future[Cell], task: Task) -> Cell:
    """The cell, or the error of the process that should have made it."""
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, KeyboardInterrupt):  # Ctrl-C reaches the other processes too
        raise error
    said = f"{type(error).__name__}: {error}"
    return Cell(backbone=task.backbone, strategy=task.strategy.name, seed=task.seed, error=said)


def _said(cell: Cell) -> str:
    if cell.error is not None:
        return f"{cell.name}: failed: {cell.error}"
    scores = {"val": cell.val, "test": cell.test}
    parts = [f"{name} {percent(one.accuracy)}" for name, one in scores.items() if one is not None]
    return f"{cell.name}: {', '.join(parts)}, {cell.seconds or 0:.1f} s"


def _check_strategies(
    strategies: Sequence[str | Strategy], epochs: int | None
) -> tuple[Strategy, ...]:
    _check_some(strategies=strategies)
    chosen = tuple(_with_epochs(strategy_named(one), epochs) for one in strategies)
    for strategy in chosen:
        if "seed" in strategy.options:
            raise ConfigError(
                f"The strategy {strategy.name!r} has seed={strategy.options['seed']!r} among its "
                "options; leave it out, and give compare(seeds=...)."
            )
    names = [strategy.name for strategy in chosen]
    if len(set(names)) < len(names):
        raise ConfigError(f"Every strategy needs a name of its own, got {', '.join(names)}.")
    return chosen


def _with_epochs(strategy: Strategy, epochs: int | None) -> Strategy:
    """The strategy with the length of the comparison, where it has none of its own."""
    return strategy if strategy.epochs is not None else replace(strategy, epochs=epochs)


def _check_some(**given: object) -> None:
    for what, values in given.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or len(values) == 0:
            raise ConfigError(f"{what} must be a list with something in it, got {values!r}.")


def _check_executor(executor: object) -> None:
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise ConfigError(
            f"executor must be one of concurrent.futures or of its kind, got {executor!r}."
        )


def _shared_groups(splits: Splits) -> tuple[str, ...] | None:
    """The groups of the test images, where some images share one."""
    groups = splits["test"].groups if "test" in splits else None
    return None if groups is None or len(set(groups)) == len(groups) else groups


def _tag(name: str) -> str:
    """The weights' tag in a name, with its dot."""
    tag = resolve(name).tag
    return "" if tag is None else f".{tag}"
