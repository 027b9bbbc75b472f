"""The confusion matrix, coloured by the share of each true class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from transferkit._format import percent
from transferkit._typing import Float64Array
from transferkit.metrics.classification import ReliabilityCurve, auroc, reliability_curve, roc_curve
from transferkit.metrics.evaluation import Evaluation
from transferkit.metrics.intervals import wilson_interval
from transferkit.plots.style import (
    EVALUATION,
    FAINT,
    INK,
    PALE,
    PALETTE,
    axes_or_new,
    dress,
    legend,
    legend_below,
    line_look,
    note,
    percent_axis,
    require,
    require_each,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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


MEAN = "mean of classes"
DRAWN_CLASSES = 8
"""Up to this many classes each gets a ROC curve of its own; beyond, only their mean is drawn."""


def roc(evaluation: Evaluation | Mapping[str, Evaluation], *, ax: Axes | None = None) -> Axes:
    """Draw the ROC curve, with the area under it in the legend.

    Args:
        evaluation: A judged split: with two classes one curve, of the second; with more, one
            against the rest, and their mean. Or several by name (val and test, or models):
            one curve each.
        ax: Axes to draw on; new ones by default.

    Raises:
        DataError: Something else came.
        MissingDependencyError: matplotlib is not installed.
    """
    if not isinstance(evaluation, Evaluation):
        require_each(evaluation, Evaluation, EVALUATION)
    drawn = axes_or_new(ax, size=(5.0, 5.0))
    if isinstance(evaluation, Evaluation):
        curves = _class_curves(evaluation)
        positive = shorten(evaluation.classes, width=40)[1]
        below = (
            f"positive class: {positive}" if len(evaluation.classes) == 2 else "one against rest"
        )
    else:
        curves, below = _split_curves(evaluation), ""
    dress(drawn, title="ROC curve", below=below, x="false positive rate", y="true positive rate")
    drawn.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":", label="chance")
    for index, (name, (rates, area)) in enumerate(curves.items()):
        colour, style = (INK, "-") if name == MEAN and index else line_look(index)
        label = f"{name}, AUROC {area:.3f}" if name else f"AUROC {area:.3f}"
        drawn.plot(*rates, color=colour, linestyle=style, linewidth=1.8, label=label)
    drawn.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    percent_axis(drawn, "xy")
    if curves:
        legend(drawn)
    else:
        note(drawn, "undefined:\nimages of one class only")
    return drawn


def reliability(evaluation: Evaluation, *, bins: int = 15, ax: Axes | None = None) -> Axes:
    """Draw accuracy against confidence: on the diagonal, a confidence means what it says.

    Points carry Wilson intervals; grey bars show which share of the images lies in each bin.

    Args:
        evaluation: A judged split.
        bins: Bins of equal width over [0, 1].
        ax: Axes to draw on; new ones by default.

    Raises:
        ConfigError: Fewer than one bin.
        DataError: Something else came.
        MissingDependencyError: matplotlib is not installed.
    """
    require(evaluation, Evaluation, EVALUATION)
    curve = reliability_curve(evaluation.labels, evaluation.probabilities, bins=bins)
    drawn = axes_or_new(ax, size=(5.4, 4.9))
    dress(
        drawn,
        title="Reliability",
        below=f"expected calibration error {percent(curve.error)}",
        x="confidence in the predicted class",
        y="accuracy",
    )
    centres, width = (curve.edges[1:] + curve.edges[:-1]) / 2, 1 / bins
    shares = curve.counts / evaluation.n
    drawn.bar(centres, shares, width=0.9 * width, color=PALE, label="share of images")
    drawn.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":", label="perfect")
    _draw_bins(drawn, curve)
    lowest = 1 / len(evaluation.classes)
    drawn.set(xlim=(lowest - 0.02 if lowest >= 0.2 else -0.02, 1.02), ylim=(0, 1.02))
    percent_axis(drawn, "xy")
    legend_below(drawn, columns=3)
    return drawn


def _draw_bins(drawn: Axes, curve: ReliabilityCurve) -> None:
    filled = np.flatnonzero(curve.counts)
    x, y = curve.confidence[filled], curve.accuracy[filled]
    counts = curve.counts[filled].tolist()
    ends = [
        wilson_interval(round(share * n), n) for share, n in zip(y.tolist(), counts, strict=True)
    ]
    spread = np.abs(np.transpose(ends) - y)
    drawn.errorbar(
        x,
        y,
        yerr=spread,
        color=PALETTE[0],
        marker="o",
        markersize=5,
        linewidth=1.6,
        elinewidth=1,
        label="observed, 95 % interval",
    )


def _split_curves(evaluations: Mapping[str, Evaluation]) -> dict[str, tuple[Float64Array, float]]:
    names = dict(zip(evaluations, shorten(list(evaluations), width=28), strict=True))
    found = {}
    for name, evaluation in evaluations.items():
        curves = _class_curves(evaluation)
        if curves:
            rates, area = list(curves.values())[-1]
            found[names[name]] = (rates, area)
    return found


def _class_curves(evaluation: Evaluation) -> dict[str, tuple[Float64Array, float]]:
    """Return name -> (rates (2, T), area); the last is the one that stands for all."""
    labels, probabilities = evaluation.labels, evaluation.probabilities
    ranks = [1] if len(evaluation.classes) == 2 else range(len(evaluation.classes))
    curves = {}
    for k in ranks:
        own = (labels == k).astype(np.int64)
        if 0 < own.sum() < len(own):
            curve = roc_curve(own, probabilities[:, k])
            rates = np.stack([curve.false_positive_rate, curve.true_positive_rate])
            name = "" if len(ranks) == 1 else shorten(evaluation.classes)[k]
            curves[name] = (rates, auroc(own, probabilities[:, k]))
    if len(curves) < 2:
        return curves
    mean = {MEAN: (_mean_rates([c[0] for c in curves.values()]), evaluation.auroc)}
    return mean if len(curves) > DRAWN_CLASSES else curves | mean


def _mean_rates(curves: list[Float64Array]) -> Float64Array:
    """Average ROC curves at equal false positive rates."""
    grid = np.linspace(0, 1, 501)
    heights = [np.interp(grid, false, true) for false, true in curves]
    return np.stack([grid, np.mean(heights, axis=0)])
