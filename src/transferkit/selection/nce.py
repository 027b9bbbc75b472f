"""NCE: how much the source classes say about the labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from transferkit._typing import Float64Array
from transferkit.selection._checks import check_source, one_hot


def nce(source_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Negative conditional entropy of the labels, given the most probable source class.

    ``-H(Y | Z) = sum_{y,z} p(y, z) log p(y | z)`` with empirical shares, z the source class
    (of ImageNet, say) that the backbone's own classifier finds most probable.

    Source: A. Tran, C. Nguyen and T. Hassner, "Transferability and hardness of supervised
    classification tasks", ICCV 2019, equations 5 to 7.

    Args:
        source_probabilities: ``(N, S)`` over the classes that the backbone was trained on.
        labels: ``(N,)``.

    Returns:
        At most 0, in nats; higher is better.

    Raises:
        DataError: Rows that do not sum to one, or fewer than two classes.
    """
    matrix, truth = check_source(source_probabilities, labels)
    source = np.unique(matrix.argmax(axis=1), return_inverse=True)[1]
    joint: Float64Array = one_hot(truth).T @ one_hot(source.astype(np.int64)) / len(truth)
    given = joint / joint.sum(axis=0)
    seen = joint > 0
    return float(np.sum(joint[seen] * np.log(given[seen])))
