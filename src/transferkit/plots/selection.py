"""Choosing before training: backbones ranked by score, and what more images would bring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from transferkit._format import describe
from transferkit.errors import DataError
from transferkit.plots.style import (
    FAINT,
    INK,
    PALETTE,
    axes_or_new,
    dress,
    legend,
    module,
    percent_axis,
    require,
    shorten,
)
from transferkit.selection.probe import ProbeCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class RankedRow(Protocol):
    """What is drawn of a backbone: a row of a ``Ranking``."""

    @property
    def name(self) -> str:
        """The backbone's name."""

    @property
    def score(self) -> float | None:
        """Its score; None where it failed."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Interval of the score; None where it left early."""

    @property
    def images_per_second(self) -> float | None:
        """Measured speed."""


class Ranked(Protocol):
    """A ranking of backbones."""

    @property
    def by(self) -> str:
        """The score's name."""

    @property
    def rows(self) -> Sequence[RankedRow]:
        """Best first."""


def ranking(ranked: Ranked, *, ax: Axes | None = None) -> Axes:
    """Draw the score of each backbone, the best at the top, with its interval and its speed.

    Args:
        ranked: What ``rank_backbones`` returned.
        ax: Axes to draw on; new ones by default.

    Raises:
        DataError: No backbone has a score.
        MissingDependencyError: matplotlib is not installed.
    """
    if not hasattr(ranked, "rows"):
        raise DataError(
            f"This figure draws a Ranking of tk.rank_backbones, got {describe(ranked)}."
        )
    rows = [(row, row.score) for row in ranked.rows if row.score is not None]
    if not rows:
        raise DataError("There is nothing to draw: no backbone has a score.")
    drawn = axes_or_new(ax, size=(7.2, 1.5 + 0.4 * len(rows)))
    for place, (row, score) in enumerate(rows):
        low, high = row.interval or (score, score)
        colour = PALETTE[0] if row.interval else FAINT
        spread = [[max(score - low, 0)], [max(high - score, 0)]]
        drawn.errorbar(score, place, xerr=spread, fmt="o", color=colour, markersize=5)
        drawn.annotate(
            "" if row.images_per_second is None else f"{row.images_per_second:.0f} images/s",
            (max(high, score), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
        )
    dress(
        drawn,
        title="Backbones by their features",
        below="with 95 % intervals; grey: left before the last round",
        x=ranked.by,
        y="",
    )
    drawn.set_yticks(range(len(rows)), shorten([row.name for row, _ in rows], width=36))
    drawn.set_ylim(len(rows) - 0.4, -0.6)
    drawn.margins(x=0.22)
    return drawn


def probe_curve(curve: ProbeCurve, *, ax: Axes | None = None) -> Axes:
    """Draw the accuracy of a linear probe against the images that it learns from.

    Args:
        curve: What ``Advice.curve`` holds.
        ax: Axes to draw on; new ones by default.

    Raises:
        DataError: Something else came.
        MissingDependencyError: matplotlib is not installed.
    """
    require(curve, ProbeCurve, "the learning curve of a probe, such as Advice.curve")
    drawn = axes_or_new(ax, size=(6.4, 4.0))
    lows, highs = curve.accuracies.min(axis=1), curve.accuracies.max(axis=1)
    drawn.fill_between(curve.sizes, lows, highs, color=PALETTE[0], alpha=0.15, label="all repeats")
    drawn.plot(curve.sizes, curve.means, "o-", color=PALETTE[0], label="mean")
    dress(
        drawn,
        title="Learning curve of the linear probe",
        below=f"the last doubling brought {100 * curve.gain_per_doubling:+.1f} points",
        x="training images, logarithmic",
        y="accuracy on images held out",
    )
    ticker = module("ticker")
    drawn.set_xscale("log", base=2)
    drawn.set_xticks(curve.sizes.tolist(), [str(size) for size in curve.sizes.tolist()])
    drawn.xaxis.set_minor_locator(ticker.NullLocator())
    percent_axis(drawn, "y")
    legend(drawn)
    return drawn
