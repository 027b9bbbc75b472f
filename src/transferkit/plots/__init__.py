"""Results as figures: each function takes a result and draws it on matplotlib axes.

Pass ``ax`` to draw into a figure of your own, or get new axes; ``save`` writes them. pyplot is
never imported, so that no window opens, no global state changes and threads do no harm.
"""

from transferkit.plots.canvas import save
from transferkit.plots.comparison import accuracy_intervals, accuracy_vs_time
from transferkit.plots.confusion import confusion_matrix
from transferkit.plots.learning import learning_curves
from transferkit.plots.probabilities import reliability, roc
from transferkit.plots.selection import probe_curve, ranking

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
