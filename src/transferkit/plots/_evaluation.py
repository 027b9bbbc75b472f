"""One evaluated split: the confusion matrix, ROC curves, and the reliability diagram."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

import transferkit.plots._style as style
from transferkit._format import percent
from transferkit._typing import Float64Array
from transferkit._validation import check_whole
from transferkit.metrics.classification import ReliabilityCurve, reliability_curve
from transferkit.metrics.evaluation import Evaluation
from transferkit.metrics.intervals import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EVALUATION = "an Evaluation, such as result.test or the result of tk.evaluate"
COUNTED_CLASSES = 12
"""Up to this many classes the counts are written into the cells of a confusion matrix."""
NAMED_CLASSES = 40
"""Up to this many classes each class is named beside a confusion matrix."""
CURVE_CLASSES = 8
"""Up to this many classes each has a ROC curve of its own; beyond, only their mean is drawn."""
MEAN = "mean of classes"


def titled(kind: str, name: str) -> str:
    return f"{kind}, {name}" if name else kind


def confusion_matrix(evaluation: Evaluation, *, name: str = "", ax: Axes | None = None) -> Axes:
    """Draw how each true class was predicted: counts, and shares of the row as colour.

    ``name`` says in the title what was evaluated, such as ``"test"``.
    """
    style.check_type(evaluation, Evaluation, EVALUATION)
    num_classes = len(evaluation.classes)
    side = float(np.clip(3.2 + 0.45 * num_classes, 4.2, 11))
    margin = 0.07 * max(map(len, style.shorten(evaluation.classes)))
    drawn = style.axes_or_new(ax, size=(side + 0.8 + margin, side))
    support = evaluation.confusion.sum(axis=1, keepdims=True)
    shares = evaluation.confusion / np.maximum(support, 1)
    picture = drawn.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    style.label_axes(
        drawn,
        titled("Confusion matrix", name),
        subtitle=f"{np.trace(evaluation.confusion)} of {evaluation.n} images right "
        f"({percent(evaluation.accuracy)})",
        x="predicted class",
        y="true class",
        grid=False,
    )
    _name_classes(drawn, evaluation.classes)
    if num_classes <= COUNTED_CLASSES:
        _write_counts(drawn, evaluation, shares)
    figure = drawn.get_figure()
    if figure is not None:
        bar = figure.colorbar(picture, ax=drawn, shrink=0.82, aspect=24)
        bar.set_label("share of the true class", fontsize=9, color=style.TEXT)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8, colors=style.TEXT)
        style.percent_axis(bar.ax, "y")
    return drawn


def _name_classes(drawn: Axes, classes: tuple[str, ...]) -> None:
    for spine in drawn.spines.values():
        spine.set_visible(False)
    if len(classes) > NAMED_CLASSES:
        return
    names, places = style.shorten(classes), range(len(classes))
    drawn.set_yticks(places, names)
    drawn.set_xticks(places, names)
    if max(map(len, names)) * len(names) > 50:
        for label in drawn.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")


def _write_counts(drawn: Axes, evaluation: Evaluation, shares: Float64Array) -> None:
    few = len(evaluation.classes) <= 4
    size = 11 if few else 8
    for (row, column), count in np.ndenumerate(evaluation.confusion):
        share = float(shares[row, column])
        text = f"{count}\n{percent(share)}" if few else str(count)
        colour = "white" if share > 0.55 else style.TEXT
        drawn.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def roc(
    evaluation: Evaluation | Mapping[str, Evaluation], *, name: str = "", ax: Axes | None = None
) -> Axes:
    """Draw the ROC curve, with the area under it in the legend.

    With two classes there is one curve, of the second; with more, each class against the rest,
    and their mean. Several evaluations by name (val and test, or models) have one curve each.
    ``name`` says in the title what was evaluated.
    """
    if isinstance(evaluation, Evaluation):
        curves = _class_curves(evaluation)
        two, positive = len(evaluation.classes) == 2, style.shorten(evaluation.classes, width=24)[1]
        kind = f"positive class: {positive}" if two else "one against rest"
        subtitle = f"{kind}; {evaluation.n:,} images"
    else:
        style.check_each_type(evaluation, Evaluation, EVALUATION)
        curves, subtitle = _named_curves(evaluation), ""
    drawn = style.axes_or_new(ax, size=(5.0, 5.0))
    style.label_axes(
        drawn,
        titled("ROC curve", name),
        subtitle=subtitle,
        x="false positive rate",
        y="true positive rate",
    )
    drawn.plot([0, 1], [0, 1], label="chance", **style.REFERENCE)
    for index, (of, (rates, area)) in enumerate(curves.items()):
        colour, dashes = (style.TEXT, "-") if of == MEAN and index else style.line_style(index)
        label = f"{of}, AUROC {area:.3f}" if of else f"AUROC {area:.3f}"
        drawn.plot(*rates, color=colour, linestyle=dashes, linewidth=1.8, label=label)
    drawn.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    style.percent_axis(drawn, "xy")
    if curves:
        drawn.legend(loc="best", **style.LEGEND)
    else:
        text = drawn.text(0.5, 0.5, "undefined:\nimages of one class only", color=style.MUTED)
        text.set(transform=drawn.transAxes, ha="center", va="center", backgroundcolor="white")
    return drawn


def reliability(
    evaluation: Evaluation, *, bins: int = 15, name: str = "", ax: Axes | None = None
) -> Axes:
    """Draw accuracy against confidence; a calibrated model lies on the diagonal.

    There are ``bins`` bins of equal width over [0, 1]. Points carry Wilson intervals; grey bars
    show the share of the images in each bin. ``name`` says in the title what was evaluated.
    """
    style.check_type(evaluation, Evaluation, EVALUATION)
    check_whole("bins", bins, least=1)
    curve = reliability_curve(evaluation.labels, evaluation.probabilities, bins=bins)
    drawn = style.axes_or_new(ax, size=(5.4, 4.9))
    style.label_axes(
        drawn,
        titled("Reliability", name),
        subtitle=f"expected calibration error {percent(curve.error)}; {evaluation.n:,} images",
        x="confidence in the predicted class",
        y="accuracy",
    )
    centres = (curve.edges[1:] + curve.edges[:-1]) / 2
    shares = curve.counts / evaluation.n
    drawn.bar(centres, shares, width=0.9 / bins, color=style.LIGHT, label="share of images")
    drawn.plot([0, 1], [0, 1], label="perfect", **style.REFERENCE)
    _draw_bins(drawn, curve)
    lowest = 1 / len(evaluation.classes)
    drawn.set(xlim=(lowest - 0.02 if lowest >= 0.2 else -0.02, 1.02), ylim=(0, 1.02))
    style.percent_axis(drawn, "xy")
    drawn.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, **style.LEGEND)
    return drawn


def _draw_bins(drawn: Axes, curve: ReliabilityCurve) -> None:
    filled = np.flatnonzero(curve.counts)
    x, y = curve.confidence[filled], curve.accuracy[filled]
    counts = curve.counts[filled].tolist()
    ends = [wilson_interval(round(a * n), n) for a, n in zip(y.tolist(), counts, strict=True)]
    drawn.errorbar(
        x,
        y,
        yerr=np.abs(np.transpose(ends) - y),
        color=style.PALETTE[0],
        marker="o",
        markersize=5,
        linewidth=1.6,
        elinewidth=1,
        label="observed, 95 % interval",
    )


def _named_curves(evaluations: Mapping[str, Evaluation]) -> dict[str, tuple[Float64Array, float]]:
    """One curve for each name: of the second of two classes, or the mean of more."""
    curves = {}
    names = style.shorten(list(evaluations), width=28)
    for name, evaluation in zip(names, evaluations.values(), strict=True):
        own = list(_class_curves(evaluation).values())
        if own:
            curves[name] = own[-1]
    return curves


def _class_curves(evaluation: Evaluation) -> dict[str, tuple[Float64Array, float]]:
    """Map each class to its rates (2, T) and area; the mean of several classes comes last."""
    labels, probabilities = evaluation.labels, evaluation.probabilities
    two = len(evaluation.classes) == 2
    names = ["", ""] if two else style.shorten(evaluation.classes)
    curves = {}
    for k in [1] if two else range(len(evaluation.classes)):
        positive = labels == k
        if 0 < positive.sum() < len(positive):
            rates = np.stack(roc_curve(positive, probabilities[:, k])[:2])
            curves[names[k]] = (rates, float(roc_auc_score(positive, probabilities[:, k])))
    if len(curves) < 2:
        return curves
    # vertical averaging: the mean true positive rate at equal false positive rates
    grid = np.linspace(0, 1, 501)
    heights = [np.interp(grid, *rates) for rates, _ in curves.values()]
    mean = {MEAN: (np.stack([grid, np.mean(heights, axis=0)]), evaluation.auroc)}
    return mean if len(curves) > CURVE_CLASSES else curves | mean
