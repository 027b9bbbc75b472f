"""H-score: how far apart the classes lie, in units of the features' own spread."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.covariance import ledoit_wolf

from transferkit.selection._checks import check_task, one_hot


def h_score(features: ArrayLike, labels: ArrayLike, *, shrinkage: bool = True) -> float:
    """Share of the features' variance that lies between the classes, summed over directions.

    ``H = tr(S^-1 B)`` with the covariance ``S`` of the features and the covariance ``B`` of
    their class means (each image counted once). With shrinkage,
    ``H = (1 - a) tr(S_a^-1 B)``, ``S_a = (1 - a) S + a tr(S)/D I``, and Ledoit and Wolf's
    ``a``: without it, S cannot be told from noise unless N is far above D, and at ``D >= N``
    every set of features scores ``K - 1``.

    Source: Y. Bao et al., "An information-theoretic approach to transferability in task
    transfer learning", ICIP 2019, definition 2; shrinkage: S. Ibrahim et al., "Newer is not
    always better: rethinking transferability metrics", ECML PKDD 2022 (arXiv 2110.06893).

    Args:
        features: ``(N, D)``.
        labels: ``(N,)``.
        shrinkage: Whether to shrink the covariance.

    Returns:
        Between 0 and ``min(D, K - 1)``; higher is better.

    Raises:
        DataError: Features that are not finite or all equal, or fewer than two classes.
    """
    matrix, truth = check_task(features, labels)
    centred = matrix - matrix.mean(axis=0)
    indicators = one_hot(truth)
    counts = indicators.sum(axis=0)
    means = (indicators.T @ centred) / counts[:, None]  # (K, D)
    roots = means * np.sqrt(counts / len(truth))[:, None]  # B = roots' roots
    if not shrinkage:
        covariance = centred.T @ centred / len(truth)
        return float(np.sum(roots.T * (np.linalg.pinv(covariance, hermitian=True) @ roots.T)))
    shrunk, share = ledoit_wolf(centred, assume_centered=True)
    return float((1 - share) * np.sum(roots.T * np.linalg.solve(shrunk, roots.T)))
