"""LEEP: how well the source classes, softly, predict the labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from transferkit.selection._checks import check_source, one_hot


def leep(source_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Log expected empirical prediction.

    With ``theta(x)_z`` the probability of source class z,
    ``P(y, z) = 1/N sum_{i: y_i = y} theta(x_i)_z``, ``P(y | z) = P(y, z) / P(z)``, and
    ``LEEP = 1/N sum_i log sum_z P(y_i | z) theta(x_i)_z``.

    Source: C. Nguyen et al., "LEEP: a new measure to evaluate transferability of learned
    representations", ICML 2020, equations 1 and 2.

    Args:
        source_probabilities: ``(N, S)`` over the classes that the backbone was trained on.
        labels: ``(N,)``.

    Returns:
        At most 0, in nats; higher is better.

    Raises:
        DataError: Rows that do not sum to one, or fewer than two classes.
    """
    matrix, truth = check_source(source_probabilities, labels)
    joint = one_hot(truth).T @ matrix / len(truth)  # (K, S)
    given = joint / np.maximum(joint.sum(axis=0), 1e-300)
    expected = (matrix * given[truth]).sum(axis=1)
    return float(np.log(np.maximum(expected, 1e-300)).mean())
