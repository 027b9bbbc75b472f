"""Results as figures: each function takes a result and draws it on matplotlib axes.

Pass ``ax`` to draw into a figure of your own, or get new axes; ``save`` writes them. pyplot is
never imported, so that no window opens, no global state changes and threads do no harm.
"""

from transferkit.plots.evaluation import confusion_matrix, reliability, roc
from transferkit.plots.selection import probe_curve, ranking
from transferkit.plots.style import save
from transferkit.plots.training import accuracy_intervals, accuracy_vs_time, learning_curves

__all__ = [
    "accuracy_intervals",
    "accuracy_vs_time",
    "confusion_matrix",
    "learning_curves",
    "probe_curve",
    "ranking",
    "reliability",
    "roc",
    "save",
]
