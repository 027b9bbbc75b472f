"""Learning curves: loss and accuracy, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np

from transferkit._format import percent
from transferkit.errors import DataError
from transferkit.plots.style import (
    FAINT,
    INK,
    PALETTE,
    axes_or_new,
    dress,
    legend,
    legend_above,
    line_look,
    module,
    percent_axis,
    require,
    require_each,
    shorten,
)
from transferkit.training.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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


SEVERAL = "a mapping from names of models to evaluations"


class Scored(Protocol):
    """An accuracy with its interval: an ``Evaluation``, or a row of a ``Comparison``."""

    @property
    def accuracy(self) -> float:
        """Share of images that are right."""

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """Its Wilson interval, 95 %."""


def accuracy_intervals(
    evaluations: Mapping[str, Scored] | Mapping[str, Mapping[str, Scored]],
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw the accuracy of each model as a point with its Wilson interval.

    Args:
        evaluations: Model -> evaluation (anything with ``accuracy`` and ``accuracy_interval``),
            or model -> split -> evaluation (val and test in different colours). The first model
            stands at the top.
        ax: Axes to draw on; new ones by default.

    Raises:
        DataError: No evaluation, or something else.
        MissingDependencyError: matplotlib is not installed.
    """
    require(evaluations, Mapping, SEVERAL)
    rows = {m: dict(e) if isinstance(e, Mapping) else {"": e} for m, e in evaluations.items()}
    splits = list(dict.fromkeys(split for row in rows.values() for split in row))
    if not splits:
        raise DataError("There is nothing to draw: no evaluation came.")
    drawn = axes_or_new(ax, size=(7.2, 1.5 + 0.2 * (1 + len(splits)) * len(rows)))
    for index, split in enumerate(splits):
        shift = 0.32 * (index - (len(splits) - 1) / 2)
        points = {
            place + shift: row[split] for place, row in enumerate(rows.values()) if split in row
        }
        _draw_intervals(drawn, points, label=split, colour=PALETTE[index % len(PALETTE)])
    dress(drawn, title="Accuracy", below="with 95 % Wilson intervals", x="accuracy", y="")
    drawn.set_yticks(range(len(rows)), shorten(list(rows), width=36))
    drawn.set_ylim(len(rows) - 0.4, -0.6)
    drawn.margins(x=0.18)
    percent_axis(drawn, "x")
    if len(splits) > 1:
        legend_above(drawn, columns=len(splits))
    return drawn


def accuracy_vs_time(
    evaluations: Mapping[str, Scored], seconds: Mapping[str, float], *, ax: Axes | None = None
) -> Axes:
    """Draw accuracy against training time; the models that no other beats on both are joined.

    Args:
        evaluations: Model -> evaluation.
        seconds: Model -> seconds of training.
        ax: Axes to draw on; new ones by default.

    Raises:
        DataError: No model, or different models in the two mappings.
        MissingDependencyError: matplotlib is not installed.
    """
    require(evaluations, Mapping, SEVERAL)
    require(seconds, Mapping, "a mapping from names of models to seconds beside the evaluations")
    if not evaluations or evaluations.keys() != seconds.keys():
        raise DataError("accuracy_vs_time needs an evaluation and a time for each model.")
    drawn = axes_or_new(ax, size=(6.4, 4.4))
    scores = {name: result.accuracy for name, result in evaluations.items()}
    front = _pareto(scores, seconds)
    drawn.plot(
        [seconds[name] for name in front],
        [scores[name] for name in front],
        color=FAINT,
        linewidth=1,
        linestyle="--",
        label="best for its time",
        zorder=1,
    )
    for name, shown in zip(scores, shorten(list(scores), width=26), strict=True):
        low, high = evaluations[name].accuracy_interval
        spread = [[scores[name] - low], [high - scores[name]]]
        colour = PALETTE[0] if name in front else FAINT
        drawn.errorbar(seconds[name], scores[name], yerr=spread, fmt="o", color=colour)
        drawn.annotate(
            shown,
            (seconds[name], scores[name]),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=8,
            color=INK,
        )
    dress(
        drawn,
        title="Accuracy against training time",
        below="with 95 % Wilson intervals",
        x="training time (s), logarithmic",
        y="accuracy",
    )
    _log_seconds(drawn)
    percent_axis(drawn, "y")
    legend_above(drawn)
    return drawn


def _draw_intervals(
    drawn: Axes, points: Mapping[float, Scored], *, label: str, colour: str
) -> None:
    scores = np.array([result.accuracy for result in points.values()])
    ends = np.array([result.accuracy_interval for result in points.values()])
    spread = np.abs(ends.T - scores)
    places = list(points)
    drawn.errorbar(
        scores, places, xerr=spread, fmt="o", color=colour, markersize=5, label=label or None
    )
    for place, score, end in zip(places, scores, ends[:, 1], strict=True):
        drawn.annotate(
            percent(float(score)),
            (float(end), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour,
        )


def _log_seconds(drawn: Axes) -> None:
    ticker = module("ticker")
    drawn.set_xscale("log")
    drawn.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    drawn.xaxis.set_major_formatter(ticker.FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    drawn.xaxis.set_minor_locator(ticker.NullLocator())
    drawn.margins(x=0.25)


def _pareto(scores: Mapping[str, float], seconds: Mapping[str, float]) -> list[str]:
    """Return the models that no faster one equals, fastest first."""
    best, front = -1.0, []
    for name in sorted(scores, key=lambda name: (seconds[name], -scores[name])):
        if scores[name] > best:
            best = scores[name]
            front.append(name)
    return front
