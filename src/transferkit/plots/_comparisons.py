"""Runs, comparisons and rankings: learning curves, accuracies with intervals, scores and time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np

import transferkit.plots._style as style
from transferkit._format import describe, percent
from transferkit.errors import DataError
from transferkit.selection.probe import ProbeCurve
from transferkit.selection.ranking import TITLES, Ranking
from transferkit.training.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from transferkit.workflows.comparison import Comparison

Quantity: TypeAlias = Literal["loss", "accuracy"]
FEW_EPOCHS = 20
"""Up to this many epochs each has a marker: a single epoch would draw no line at all."""
SEVERAL = "a mapping from names of models to evaluations"
TIMES = "a mapping from names of models to seconds beside the evaluations"


class Scored(Protocol):
    """An accuracy with its interval: an ``Evaluation``, or the ``Score`` of a comparison's row."""

    @property
    def accuracy(self) -> float:
        """Accuracy, in [0, 1]."""

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """Its 95 % interval."""


def learning_curves(history: History | Mapping[str, History], *, ax: Axes | None = None) -> Axes:
    """Draw loss (left) and accuracy (right) over the epochs, as ``child_axes`` of the axes.

    One run shows train and val, with the epoch marked whose weights were kept. Several runs by
    name have one colour each, val in full lines and train in thin ones.
    """
    if isinstance(history, History):
        runs: Mapping[str, History] = {"": history}
    else:
        style.check_each_type(history, History, "a History, such as result.history")
        runs = history
    if not runs or not all(len(run) for run in runs.values()):
        raise DataError("Learning curves need at least one finished epoch in every history.")
    frame = style.axes_or_new(ax, size=(9, 3.8))
    frame.set_axis_off()
    _draw_panel(frame.inset_axes((0.0, 0, 0.44, 1)), runs, "loss", unit="loss (nats)")
    _draw_panel(frame.inset_axes((0.56, 0, 0.44, 1)), runs, "accuracy", unit="accuracy")
    return frame


def _draw_panel(panel: Axes, runs: Mapping[str, History], quantity: Quantity, unit: str) -> None:
    thin = "val; train in thin lines" if len(runs) > 1 else ""
    style.label_axes(panel, quantity.capitalize(), subtitle=thin, x="epoch", y=unit)
    if quantity == "accuracy":
        style.percent_axis(panel, "y")
    names = style.shorten(list(runs), width=28)
    for index, (name, run) in enumerate(zip(names, runs.values(), strict=True)):
        if name or len(runs) > 1:
            colour, dashes = style.line_style(index)
            has_val = any(getattr(record, f"val_{quantity}") is not None for record in run.records)
            train_look = {"color": colour, "linestyle": dashes, "linewidth": 0.9, "alpha": 0.55}
            label = None if has_val else f"{name} (train)"
            _draw_line(panel, run, f"train_{quantity}", label=label, markersize=2.5, **train_look)
            _draw_line(panel, run, f"val_{quantity}", label=name, color=colour, linestyle=dashes)
            continue
        _draw_line(panel, run, f"train_{quantity}", color=style.PALETTE[0], label="train")
        _draw_line(panel, run, f"val_{quantity}", color=style.PALETTE[1], label="val")
        if run.best_epoch is not None and len(run) > 1:
            label = f"best {run.monitor.replace('_', ' ')}: epoch {run.best_epoch}"
            panel.axvline(run.best_epoch, label=label, **style.REFERENCE)
    # an axis that shows noise in the last digit, or half epochs, misleads
    low, high = panel.get_ylim()
    missing = max(0.0, 0.05 - (high - low)) / 2
    panel.set_ylim(low - missing, high + missing)
    first, last = panel.get_xlim()
    panel.set_xlim(min(first, 0.8), max(last, 1.2))
    locator = style.matplotlib_module("ticker").MaxNLocator(integer=True, min_n_ticks=1)
    panel.xaxis.set_major_locator(locator)
    panel.legend(loc="best", **style.LEGEND)


def _draw_line(panel: Axes, run: History, field: str, **look: Any) -> None:
    points = [(r.epoch, getattr(r, field)) for r in run.records if getattr(r, field) is not None]
    if points:
        marker = "o" if len(points) <= FEW_EPOCHS else None
        look = {"linewidth": 1.8, "marker": marker, "markersize": 4} | look
        panel.plot(*zip(*points, strict=True), **look)


def comparison(comparison: Comparison, *, ax: Axes | None = None) -> Axes:
    """Draw the accuracies of a comparison: each row on val and on test, with intervals."""
    if not hasattr(comparison, "scores"):
        raise DataError(
            f"This figure draws a Comparison of tk.compare, got {describe(comparison)}."
        )
    tested = comparison.scores("test")
    return accuracy_intervals(
        {
            name: {"val": score} | ({"test": tested[name]} if name in tested else {})
            for name, score in comparison.scores("val").items()
        },
        ax=ax,
    )


def accuracy_intervals(
    evaluations: Mapping[str, Scored] | Mapping[str, Mapping[str, Scored]],
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw the accuracy of each model as a point with its interval, the first at the top.

    ``evaluations`` maps models to evaluations (anything with ``accuracy`` and
    ``accuracy_interval``), or models to splits to evaluations, with one colour for each split.
    """
    style.check_type(evaluations, Mapping, SEVERAL)
    rows = {m: dict(e) if isinstance(e, Mapping) else {"": e} for m, e in evaluations.items()}
    splits = list(dict.fromkeys(split for row in rows.values() for split in row))
    if not splits:
        raise DataError("There is nothing to draw: the mapping holds no evaluation.")
    drawn = style.axes_or_new(ax, size=(7.2, 1.5 + 0.2 * (1 + len(splits)) * len(rows)))
    for index, split in enumerate(splits):
        shift = 0.32 * (index - (len(splits) - 1) / 2)
        points = {
            place + shift: row[split] for place, row in enumerate(rows.values()) if split in row
        }
        _draw_intervals(
            drawn, points, label=split, colour=style.PALETTE[index % len(style.PALETTE)]
        )
    style.label_axes(drawn, "Accuracy", subtitle="with 95 % intervals", x="accuracy", y="")
    drawn.set_yticks(range(len(rows)), style.shorten(list(rows), width=36))
    drawn.set_ylim(len(rows) - 0.4, -0.6)
    drawn.margins(x=0.18)
    style.percent_axis(drawn, "x")
    if len(splits) > 1:
        drawn.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(splits), **style.LEGEND)
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
    for place, result in points.items():
        text, end = percent(result.accuracy), (result.accuracy_interval[1], place)
        drawn.annotate(text, end, xytext=(5, 0), va="center", color=colour, **style.ANNOTATION)


def accuracy_vs_time(
    evaluations: Mapping[str, Scored], seconds: Mapping[str, float], *, ax: Axes | None = None
) -> Axes:
    """Draw accuracy against training time, in seconds, of models by name.

    A line joins the models that no other beats on both.
    """
    style.check_type(evaluations, Mapping, SEVERAL)
    style.check_type(seconds, Mapping, TIMES)
    if not evaluations or evaluations.keys() != seconds.keys():
        raise DataError(
            f"Expected an evaluation and a time for each model, got evaluations of "
            f"{list(evaluations)} and times of {list(seconds)}."
        )
    drawn = style.axes_or_new(ax, size=(6.4, 4.4))
    scores = {name: result.accuracy for name, result in evaluations.items()}
    front = _pareto_front(scores, seconds)
    times, heights = [seconds[name] for name in front], [scores[name] for name in front]
    drawn.plot(
        times, heights, "--", color=style.GREY, linewidth=1, label="best for its time", zorder=1
    )
    for name, shown in zip(scores, style.shorten(list(scores), width=26), strict=True):
        low, high = evaluations[name].accuracy_interval
        spread = [[scores[name] - low], [high - scores[name]]]
        colour = style.PALETTE[0] if name in front else style.GREY
        drawn.errorbar(seconds[name], scores[name], yerr=spread, fmt="o", color=colour)
        point = (seconds[name], scores[name])
        drawn.annotate(shown, point, xytext=(6, 4), color=style.TEXT, **style.ANNOTATION)
    style.label_axes(
        drawn,
        "Accuracy against training time",
        subtitle="with 95 % intervals",
        x="training time (s), logarithmic",
        y="accuracy",
    )
    ticker = style.matplotlib_module("ticker")
    drawn.set_xscale("log")
    drawn.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    drawn.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    drawn.xaxis.set_minor_locator(ticker.NullLocator())
    drawn.margins(x=0.25)
    style.percent_axis(drawn, "y")
    drawn.legend(loc="lower right", bbox_to_anchor=(1, 1), **style.LEGEND)
    return drawn


def _pareto_front(scores: Mapping[str, float], seconds: Mapping[str, float]) -> list[str]:
    """Names of the models that are better than every faster one, fastest first."""
    best, front = -1.0, []
    for name in sorted(scores, key=lambda name: (seconds[name], -scores[name])):
        if scores[name] > best:
            best = scores[name]
            front.append(name)
    return front


def ranking(ranking: Ranking, *, ax: Axes | None = None) -> Axes:
    """Draw the score of each backbone, the best at the top, with its interval and its speed."""
    style.check_type(ranking, Ranking, "a Ranking of tk.rank_backbones")
    rows = [(row, row.score) for row in ranking.rows if row.score is not None]
    if not rows:
        raise DataError("There is nothing to draw: no backbone has a score.")
    drawn = style.axes_or_new(ax, size=(7.2, 1.5 + 0.4 * len(rows)))
    for place, (row, score) in enumerate(rows):
        low, high = row.interval or (score, score)
        colour = style.PALETTE[0] if row.interval else style.GREY
        spread = [[max(score - low, 0)], [max(high - score, 0)]]
        drawn.errorbar(score, place, xerr=spread, fmt="o", color=colour, markersize=5)
        speed = "" if row.images_per_second is None else f"{row.images_per_second:.0f} images/s"
        end = (max(high, score), place)
        drawn.annotate(speed, end, xytext=(6, 0), va="center", color=style.TEXT, **style.ANNOTATION)
    style.label_axes(
        drawn,
        "Backbones by their features",
        subtitle="with 95 % intervals; grey: left before the last round",
        x=f"score: {TITLES[ranking.by]}",
        y="",
    )
    drawn.set_yticks(range(len(rows)), style.shorten([row.name for row, _ in rows], width=36))
    drawn.set_ylim(len(rows) - 0.4, -0.6)
    drawn.margins(x=0.22)
    return drawn


def probe_curve(curve: ProbeCurve, *, ax: Axes | None = None) -> Axes:
    """Draw the accuracy of a linear probe against the training images; see ``Advice.curve``."""
    style.check_type(curve, ProbeCurve, "the learning curve of a probe, such as Advice.curve")
    drawn = style.axes_or_new(ax, size=(6.4, 4.0))
    lows, highs = curve.accuracies.min(axis=1), curve.accuracies.max(axis=1)
    drawn.fill_between(
        curve.sizes, lows, highs, color=style.PALETTE[0], alpha=0.15, label="all repeats"
    )
    drawn.plot(curve.sizes, curve.means, "o-", color=style.PALETTE[0], label="mean")
    style.label_axes(
        drawn,
        "Learning curve of the linear probe",
        subtitle=f"the last doubling brought {100 * curve.gain_per_doubling:+.1f} points",
        x="training images, logarithmic",
        y="accuracy on images held out",
    )
    drawn.set_xscale("log", base=2)
    drawn.set_xticks(curve.sizes.tolist(), [str(size) for size in curve.sizes.tolist()])
    drawn.xaxis.set_minor_locator(style.matplotlib_module("ticker").NullLocator())
    style.percent_axis(drawn, "y")
    drawn.legend(loc="best", **style.LEGEND)
    return drawn
