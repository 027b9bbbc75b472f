"""Train a grid of backbones, strategies and seeds; an interrupted grid goes on where it stopped."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TypeAlias, Unpack, cast

import torch

from transferkit._format import percent
from transferkit._validation import check_whole, to_path
from transferkit.backbones.catalog import resolve
from transferkit.data.image_data import ImageData
from transferkit.data.splits import Splits
from transferkit.errors import ConfigError, TransferkitError, UnknownNameError
from transferkit.models.prefix_cache import cache_named
from transferkit.training.options import Options, TrainOptions, check_option_names
from transferkit.training.trainer import labelled_splits
from transferkit.workflows.comparison import Comparison
from transferkit.workflows.comparison_rows import Cell
from transferkit.workflows.comparison_store import CellStore, Task
from transferkit.workflows.strategies import new_classifier, run
from transferkit.workflows.strategy import Strategy, strategy_named

Weights: TypeAlias = str | Path | None
"""``"default"``, a tag, a file, or None for random ones."""


def weights_of(name: str, weights: Weights | Mapping[str, Weights]) -> Weights:
    """The weights of one backbone: the same for all, or by name with the default for the rest."""
    return weights.get(name, "default") if isinstance(weights, Mapping) else weights


def check_backbones(option: str, names: object, weights: Weights | Mapping[str, Weights]) -> None:
    """Refuse an option that is no list of names, and weights for a backbone not among them."""
    many = not isinstance(names, str) and isinstance(names, Sequence) and len(names) > 0
    if not many or not all(isinstance(name, str) for name in cast(Sequence[object], names)):
        raise ConfigError(
            f'{option} must be a list of names of backbones, such as ["resnet18"], got {names!r}.'
        )
    for name in weights if isinstance(weights, Mapping) else ():
        if name not in cast(Sequence[str], names):
            raise UnknownNameError.among("backbone in weights", name, cast(Sequence[str], names))


def compare(
    backbones: Sequence[str],
    strategies: Sequence[str | Strategy],
    splits: Mapping[str, ImageData],
    *,
    seeds: Sequence[int] = (0,),
    weights: Weights | Mapping[str, Weights] = "default",
    image_size: int | tuple[int, int] | None = None,
    epochs: int | None = None,
    out: str | Path | None = None,
    executor: Executor | None = None,
    **options: Unpack[TrainOptions],
) -> Comparison:
    """Train every backbone by every strategy from every seed, and compare the results.

    With ``out``, each cell is stored there as it ends, and a later call runs only the missing
    ones (failed cells are run again); the tables are written there too, also after Ctrl-C. A
    cell that fails is recorded with its error, and the others go on.

    Args:
        backbones: Names of backbones; a tag may follow a dot: ``"resnet50.IMAGENET1K_V1"``.
        strategies: :class:`~transferkit.Strategy` values, or names of their methods.
        splits: ``"train"`` and ``"val"``, and ``"test"`` if there is one.
        seeds: One cell for each.
        weights: As for ``create_classifier``; or a mapping from backbones, as named above, where
            those not in it take their default.
        image_size: Height and width of the networks' input; None takes the weights' own.
        epochs: Epochs of every strategy that does not set its own.
        out: Folder for cells and tables; made if absent. Several runs may share it.
        executor: Runs the cells: any of ``concurrent.futures``, or one with the same methods, such
            as ``dask.distributed.Client(...).get_executor()``. By default one after the other,
            here. Threads share torch's random numbers, so their results vary; processes' do not.
        **options: Options of all strategies, see :class:`~transferkit.Trainer`; those that a
            strategy sets itself come first. ``cache`` is shared by all cells (by processes, only
            on disk); ``progress`` prints one line for each cell on standard error.

    Returns:
        The finished cells; after Ctrl-C, those finished until then.

    Raises:
        UnknownNameError: No such strategy, backbone or option.
        ConfigError: No backbone, strategy or seed, two strategies of one name, or an option that
            cannot work.
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
    check_option_names(options, owner="compare", beside=("seeds", "epochs"))
    options["cache"] = cache_named(Options(**options).cache, shared=True)  # one for all cells
    parts = labelled_splits(splits)
    recipes = _recipes(strategies, epochs, options)
    check_backbones("backbones", backbones, weights)
    _check_filled("seeds", seeds)
    for seed in seeds:
        check_whole("Each of seeds", seed)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise ConfigError(f"executor must be one of concurrent.futures, got {executor!r}.")
    grid = product(dict.fromkeys(backbones), recipes, dict.fromkeys(seeds))
    tasks = [
        Task(_full_name(name), recipe, seed, weights_of(name, weights), image_size)
        for name, recipe, seed in grid
    ]
    store = None if out is None else CellStore(to_path("out", out), parts, recipes)
    cells = _collect(tasks, parts, store, executor, options.get("progress"))
    comparison = Comparison(
        cells=tuple(cells[task.name] for task in tasks if task.name in cells),
        pending=tuple(task.name for task in tasks if task.name not in cells),
        looks=sum(c.test is not None for c in cells.values()) if store is None else store.looks(),
    )
    if out is not None:
        comparison.save(out)
    return comparison


def run_task(task: Task, splits: Splits) -> Cell:
    """Train and evaluate one cell; an exception becomes the cell's error."""
    options = task.strategy.options | TrainOptions(seed=task.seed, progress=False)
    strategy = replace(task.strategy, options=options)
    try:
        model = new_classifier(
            strategy, task.backbone, splits, weights=task.weights, image_size=task.image_size
        )
        started = time.perf_counter()
        result = run(strategy, model, splits)
        seconds = time.perf_counter() - started
    except Exception as error:
        return _failed(task, error)
    return Cell(
        backbone=task.backbone,
        strategy=strategy.name,
        seed=task.seed,
        history=result.history,
        val=result.val,
        test=result.test,
        trained=sum(p.numel() for p in result.classifier.parameters() if p.requires_grad),
        seconds=seconds,
    )


def _failed(task: Task, error: BaseException) -> Cell:
    """A cell with the error, and its line of code unless the message is written for users."""
    text = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    if frames and not isinstance(error, TransferkitError):
        text += f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    return Cell(backbone=task.backbone, strategy=task.strategy.name, seed=task.seed, error=text)


def _collect(
    tasks: Sequence[Task],
    splits: Splits,
    store: CellStore | None,
    executor: Executor | None,
    progress: bool | None,
) -> dict[str, Cell]:
    """The cells by name: those in the store, then the others as they end, until Ctrl-C."""
    stored = {} if store is None else {task.name: store.load(task) for task in tasks}
    cells = {name: cell for name, cell in stored.items() if cell is not None}
    missing = [task for task in tasks if task.name not in cells]
    if executor is None:
        running = _run_here(missing, splits, store)
    else:
        running = _run_in(executor, missing, splits)
    try:
        with torch.random.fork_rng(devices=[]), closing(running):
            for task, cell in running:
                cells[task.name] = cell
                if store is not None:
                    store.save(task, cell)
                if progress is not False:
                    print(f"{len(cells)}/{len(tasks)}  {_line(cell)}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        if progress is not False:
            print("interrupted: the table shows the finished cells", file=sys.stderr, flush=True)
    return cells


def _run_here(
    tasks: Sequence[Task], splits: Splits, store: CellStore | None
) -> Generator[tuple[Task, Cell], None, None]:
    for task in tasks:
        # another run on the same folder may have been faster
        found = None if store is None else store.load(task)
        yield task, found or run_task(task, splits)


def _run_in(
    executor: Executor, tasks: Sequence[Task], splits: Splits
) -> Generator[tuple[Task, Cell], None, None]:
    futures = {executor.submit(run_task, task, splits): task for task in tasks}
    try:
        for future in as_completed(futures):
            task, error = futures[future], future.exception()
            if isinstance(error, KeyboardInterrupt):  # Ctrl-C reaches the other processes too
                raise error
            yield task, future.result() if error is None else _failed(task, error)
    finally:
        for future in futures:
            future.cancel()


def _line(cell: Cell) -> str:
    """One line on a finished cell."""
    if cell.error is not None:
        return f"{cell.name}: failed: {cell.error}"
    scores = {"val": cell.val, "test": cell.test}
    parts = [f"{name} {percent(one.accuracy)}" for name, one in scores.items() if one is not None]
    return f"{cell.name}: {', '.join(parts)}, {cell.seconds or 0:.1f} s"


def _recipes(
    strategies: Sequence[str | Strategy], epochs: int | None, options: TrainOptions
) -> tuple[Strategy, ...]:
    """The strategies with the epochs and options that all share, except those of their own."""
    _check_filled("strategies", strategies)
    recipes = []
    for strategy in map(strategy_named, strategies):
        merged = options | strategy.options
        if "seed" in merged:
            raise ConfigError(f"seed is no option here, use compare(seeds=[{merged['seed']!r}]).")
        if "checkpoint" in merged:
            raise ConfigError("checkpoint is no option here: compare(out=...) keeps whole cells.")
        length = epochs if strategy.epochs is None else strategy.epochs
        recipes.append(replace(strategy, epochs=length, options=merged))
    names = [recipe.name for recipe in recipes]
    if len(set(names)) < len(names):
        raise ConfigError(f"Every strategy must have a name of its own, got {', '.join(names)}.")
    return tuple(recipes)


def _check_filled(option: str, values: object) -> None:
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) == 0:
        raise ConfigError(f"{option} must be a list of one or more, got {values!r}.")


def _full_name(name: str) -> str:
    """The name with its source, and with the tag of its weights if it has one."""
    entry = resolve(name)
    return entry.full_name if entry.tag is None else f"{entry.full_name}.{entry.tag}"
