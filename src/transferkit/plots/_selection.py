"""Before training: backbones ranked by their features, and the learning curve of a probe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transferkit.errors import DataError
from transferkit.plots._style import (
    ANNOTATION,
    GREY,
    LEGEND,
    PALETTE,
    TEXT,
    axes_or_new,
    check_type,
    label_axes,
    matplotlib_module,
    percent_axis,
    shorten,
)
from transferkit.selection.probe import ProbeCurve
from transferkit.selection.ranking import Ranking

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def ranking(ranking: Ranking, *, ax: Axes | None = None) -> Axes:
    """Draw the score of each backbone, the best at the top, with its interval and its speed."""
    check_type(ranking, Ranking, "a Ranking of tk.rank_backbones")
    rows = [(row, row.score) for row in ranking.rows if row.score is not None]
    if not rows:
        raise DataError("There is nothing to draw: no backbone has a score.")
    drawn = axes_or_new(ax, size=(7.2, 1.5 + 0.4 * len(rows)))
    for place, (row, score) in enumerate(rows):
        low, high = row.interval or (score, score)
        colour = PALETTE[0] if row.interval else GREY
        spread = [[max(score - low, 0)], [max(high - score, 0)]]
        drawn.errorbar(score, place, xerr=spread, fmt="o", color=colour, markersize=5)
        speed = "" if row.images_per_second is None else f"{row.images_per_second:.0f} images/s"
        end = (max(high, score), place)
        drawn.annotate(speed, end, xytext=(6, 0), va="center", color=TEXT, **ANNOTATION)
    label_axes(
        drawn,
        "Backbones by their features",
        subtitle="with 95 % intervals; grey: left before the last round",
        x=ranking.by,
        y="",
    )
    drawn.set_yticks(range(len(rows)), shorten([row.name for row, _ in rows], width=36))
    drawn.set_ylim(len(rows) - 0.4, -0.6)
    drawn.margins(x=0.22)
    return drawn


def probe_curve(curve: ProbeCurve, *, ax: Axes | None = None) -> Axes:
    """Draw the accuracy of a linear probe against the training images; see ``Advice.curve``."""
    check_type(curve, ProbeCurve, "the learning curve of a probe, such as Advice.curve")
    drawn = axes_or_new(ax, size=(6.4, 4.0))
    lows, highs = curve.accuracies.min(axis=1), curve.accuracies.max(axis=1)
    drawn.fill_between(curve.sizes, lows, highs, color=PALETTE[0], alpha=0.15, label="all repeats")
    drawn.plot(curve.sizes, curve.means, "o-", color=PALETTE[0], label="mean")
    label_axes(
        drawn,
        "Learning curve of the linear probe",
        subtitle=f"the last doubling brought {100 * curve.gain_per_doubling:+.1f} points",
        x="training images, logarithmic",
        y="accuracy on images held out",
    )
    drawn.set_xscale("log", base=2)
    drawn.set_xticks(curve.sizes.tolist(), [str(size) for size in curve.sizes.tolist()])
    drawn.xaxis.set_minor_locator(matplotlib_module("ticker").NullLocator())
    percent_axis(drawn, "y")
    drawn.legend(loc="best", **LEGEND)
    return drawn
