"""Results as figures: each function takes a result, draws it and returns the matplotlib axes.

``ax`` are the axes to draw on; by default new ones are made, and ``save`` writes their figure.
Every function raises :class:`~transferkit.DataError` where it gets something that it cannot draw,
and :class:`~transferkit.MissingDependencyError` where matplotlib is not installed. pyplot is never
imported: no window opens, no global state changes, and threads are safe.
"""

from transferkit.plots._comparisons import (
    accuracy_intervals,
    accuracy_vs_time,
    comparison,
    learning_curves,
    probe_curve,
    ranking,
)
from transferkit.plots._evaluation import confusion_matrix, reliability, roc
from transferkit.plots._style import save

__all__ = [
    "accuracy_intervals",
    "accuracy_vs_time",
    "comparison",
    "confusion_matrix",
    "learning_curves",
    "probe_curve",
    "ranking",
    "reliability",
    "roc",
    "save",
]
