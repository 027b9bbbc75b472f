"""Learning curves: loss and accuracy, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from transferkit.errors import DataError
from transferkit.plots.canvas import (
    FAINT,
    PALETTE,
    axes_or_new,
    dress,
    legend,
    line_look,
    module,
    percent_axis,
    require_each,
    shorten,
)
from transferkit.training.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Figure: TypeAlias = Literal["loss", "accuracy"]
FEW_EPOCHS = 20
"""Up to here each epoch gets a marker: a single epoch would draw no line at all."""


def learning_curves(history: History | Mapping[str, History], *, ax: Axes | None = None) -> Axes:
    """Draw loss (left) and accuracy (right) over the epochs.

    Args:
        history: One run: train and val, with the best epoch marked. Or several runs by name,
            side by side: one colour each, val in full lines and train in thin ones.
        ax: Axes whose place the two panels share; new ones by default.

    Returns:
        The axes; the panels are its ``child_axes``.

    Raises:
        DataError: A history without epochs, or something else.
        MissingDependencyError: matplotlib is not installed.
    """
    if not isinstance(history, History):
        require_each(history, History, "a History, such as result.history")
    runs = {"": history} if isinstance(history, History) else dict(history)
    if not runs or not all(len(run) for run in runs.values()):
        raise DataError("Learning curves need at least one finished epoch in every history.")
    frame = axes_or_new(ax, size=(9, 3.8))
    frame.set_axis_off()
    for left, figure in ((0.0, "loss"), (0.56, "accuracy")):
        panel = frame.inset_axes((left, 0, 0.44, 1))
        _draw_panel(panel, runs, "loss" if figure == "loss" else "accuracy")
    return frame


def _draw_panel(panel: Axes, runs: Mapping[str, History], figure: Figure) -> None:
    unit = "loss (nats)" if figure == "loss" else "accuracy"
    dress(panel, title=figure.capitalize(), x="epoch", y=unit)
    if figure == "accuracy":
        percent_axis(panel, "y")
    names = dict(zip(runs, shorten(list(runs), width=28), strict=True))
    for index, (name, run) in enumerate(runs.items()):
        if name or len(runs) > 1:
            _draw_one_of_many(panel, run, figure, name=names[name], index=index)
        else:
            _draw_single(panel, run, figure)
    _widen(panel)
    legend(panel)


def _widen(panel: Axes) -> None:
    """Keep whole epochs on one axis, and noise in the last digit off the other."""
    low, high = panel.get_ylim()
    lacking = max(0.0, 0.05 - (high - low)) / 2
    panel.set_ylim(low - lacking, high + lacking)
    first, last = panel.get_xlim()
    panel.set_xlim(min(first, 0.8), max(last, 1.2))
    panel.xaxis.set_major_locator(module("ticker").MaxNLocator(integer=True, min_n_ticks=1))


def _draw_single(panel: Axes, run: History, figure: Figure) -> None:
    _draw_line(panel, run, f"train_{figure}", colour=PALETTE[0], label="train")
    _draw_line(panel, run, f"val_{figure}", colour=PALETTE[1], label="val")
    if run.best_epoch is not None and len(run) > 1:
        said = f"best epoch ({run.best_epoch})"
        panel.axvline(run.best_epoch, color=FAINT, linewidth=1, linestyle=":", label=said)


def _draw_one_of_many(panel: Axes, run: History, figure: Figure, *, name: str, index: int) -> None:
    colour, style = line_look(index)
    has_val = any(getattr(record, f"val_{figure}") is not None for record in run.records)
    train_label = None if has_val else f"{name} (train)"
    _draw_line(
        panel, run, f"train_{figure}", colour=colour, label=train_label, style=style, thin=True
    )
    _draw_line(panel, run, f"val_{figure}", colour=colour, label=name, style=style)


def _draw_line(
    panel: Axes,
    run: History,
    field: str,
    *,
    colour: str,
    label: str | None,
    style: str = "-",
    thin: bool = False,
) -> None:
    points = [(r.epoch, getattr(r, field)) for r in run.records if getattr(r, field) is not None]
    if points:
        panel.plot(
            *zip(*points, strict=True),
            color=colour,
            label=label,
            linestyle=style,
            linewidth=0.9 if thin else 1.8,
            alpha=0.55 if thin else 1.0,
            marker="o" if len(points) <= FEW_EPOCHS else None,
            markersize=2.5 if thin else 4,
        )
