"""The confusion matrix, coloured by the share of each true class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from transferkit._text import percent
from transferkit._typing import Float64Array
from transferkit.metrics.evaluation import Evaluation
from transferkit.plots.canvas import (
    EVALUATION,
    INK,
    axes_or_new,
    dress,
    percent_axis,
    require,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WRITTEN = 12
"""Up to this many classes the counts are written into the cells."""
NAMED = 40
"""Up to this many classes every class is named beside the matrix."""


def confusion_matrix(evaluation: Evaluation, *, ax: Axes | None = None) -> Axes:
    """Draw how each true class was predicted: counts, and shares of the row as colour.

    Args:
        evaluation: A judged split.
        ax: Axes to draw on; new ones by default.

    Raises:
        DataError: Something else came.
        MissingDependencyError: matplotlib is not installed.
    """
    require(evaluation, Evaluation, EVALUATION)
    num_classes = len(evaluation.classes)
    side = float(np.clip(3.2 + 0.45 * num_classes, 4.2, 11))
    margin = 0.07 * max(map(len, shorten(evaluation.classes)))
    drawn = axes_or_new(ax, size=(side + 0.8 + margin, side))
    support = evaluation.confusion.sum(axis=1, keepdims=True)
    shares = evaluation.confusion / np.maximum(support, 1)
    picture = drawn.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    dress(
        drawn,
        title="Confusion matrix",
        below=f"{np.trace(evaluation.confusion)} of {evaluation.n} images right "
        f"({percent(evaluation.accuracy)})",
        x="predicted class",
        y="true class",
        grid=False,
    )
    _name_classes(drawn, evaluation.classes)
    if num_classes <= WRITTEN:
        _write_cells(drawn, evaluation, shares)
    figure = drawn.get_figure()
    if figure is not None:
        bar = figure.colorbar(picture, ax=drawn, shrink=0.82, aspect=24)
        bar.set_label("share of the true class", fontsize=9, color=INK)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8, colors=INK)
        percent_axis(bar.ax, "y")
    return drawn


def _name_classes(drawn: Axes, classes: tuple[str, ...]) -> None:
    for spine in drawn.spines.values():
        spine.set_visible(False)
    if len(classes) > NAMED:
        return
    names, places = shorten(classes), range(len(classes))
    drawn.set_yticks(places, names)
    drawn.set_xticks(places, names)
    if max(map(len, names)) * len(names) > 50:
        for label in drawn.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")


def _write_cells(drawn: Axes, evaluation: Evaluation, shares: Float64Array) -> None:
    large = len(evaluation.classes) <= 4
    for (row, column), count in np.ndenumerate(evaluation.confusion):
        share = float(shares[row, column])
        text = f"{count}\n{percent(share)}" if large else str(count)
        colour = "white" if share > 0.55 else INK
        drawn.text(
            column, row, text, ha="center", va="center", color=colour, fontsize=11 if large else 8
        )
