"""Transferability scores: features (N, D) and labels (N,) in, a number out; higher is better."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.covariance import ledoit_wolf

from transferkit._sampling import group_codes
from transferkit._typing import Float64Array, Int64Array
from transferkit.errors import DataError

GRID = np.logspace(-10, 10, 41)
"""Where the search for alpha / beta starts, relative to the largest eigenvalue.

Its ends bound the search: the evidence of labels that few features fit without any error has no
maximum, and ends at the lower one.
"""

BLOCK = 4_000_000
"""Similarities held in memory at a time."""


def logme(features: Float64Array, labels: Int64Array) -> float:
    r"""Logarithm of the maximum evidence per image, averaged over the classes.

    Each class's indicator ``y`` (N,) is modelled as ``y = F w + noise`` with prior
    ``w ~ N(0, 1/alpha)`` and noise ``N(0, 1/beta)``. The log evidence, with
    ``A = alpha I + beta F'F`` and ``m = beta A^-1 F'y``, is

        L = N/2 log beta + D/2 log alpha - N/2 log 2 pi
            - beta/2 |F m - y|^2 - alpha/2 m'm - 1/2 log |A|,

    and the score is ``max L / N``, searched over alpha / beta.

    Source: K. You et al., "LogME: practical assessment of pre-trained models for transfer
    learning", ICML 2021, equations 2 to 4. The authors iterate a fixed number of steps from
    alpha = beta = 1, so that their value depends on the scale of the features.
    """
    targets, n = _one_hot(labels), len(labels)
    eigenvalues, powers = _spectrum(features, targets)
    rest = np.maximum(targets.sum(axis=0) - powers.sum(axis=0), 0)
    grid = np.log(GRID * eigenvalues.max())
    coarse = np.stack([_evidence(np.exp(log), eigenvalues, powers, rest, n) for log in grid])
    best = []
    for k, place in enumerate(coarse.argmax(axis=0)):
        own = eigenvalues, powers[:, [k]], rest[[k]], n
        ends = grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)]
        found = minimize_scalar(lambda log, own=own: -_evidence(np.exp(log), *own)[0], bounds=ends)
        best.append(max(-found.fun, coarse[place, k]))
    return float(np.mean(best) / n)


def _one_hot(labels: Int64Array) -> Float64Array:
    indicators: Float64Array = np.eye(int(labels.max()) + 1)[labels]
    return indicators


def _spectrum(features: Float64Array, targets: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return eigenvalues of F'F ``(R, 1)`` and squared projections ``(u_r' y_k)^2`` ``(R, K)``."""
    wide = features.shape[1] > features.shape[0]
    gram = features @ features.T if wide else features.T @ features
    values, vectors = np.linalg.eigh(gram)
    kept = values > values[-1] * max(features.shape) * np.finfo(np.float64).eps
    values, vectors = values[kept], vectors[:, kept]
    sides = vectors.T @ (targets if wide else features.T @ targets)
    powers = np.square(sides) / (1 if wide else values[:, None])
    return values[:, None], powers


def _evidence(
    ratio: float,
    eigenvalues: Float64Array,
    powers: Float64Array,
    rest: Float64Array,
    n: int,
) -> Float64Array:
    """Log evidence ``(K,)`` at ``ratio = alpha / beta``, with the best beta for it."""
    # At a fixed ratio, L is N/2 log beta - beta Q / 2 plus terms without beta, with
    # Q = |F m - y|^2 + ratio m'm: the best beta is N / Q.
    misfit = rest + (powers * ratio / (ratio + eigenvalues)).sum(axis=0)
    beta = n / np.maximum(misfit, 1e-300)
    volume = np.log1p(eigenvalues / ratio).sum(axis=0)
    heights: Float64Array = 0.5 * (n * np.log(beta / (2 * np.pi)) - n - volume)
    return heights


def h_score(features: Float64Array, labels: Int64Array) -> float:
    """Share of the features' variance that lies between the classes, summed over directions.

    ``H = (1 - a) tr(S_a^-1 B)``, in [0, min(D, K - 1)], with the covariance ``B`` of the class
    means and the covariance of the features, shrunk to ``S_a`` by Ledoit and Wolf's ``a``: without
    it, every set of features scores ``K - 1`` where ``D >= N``.

    Source: Y. Bao et al., "An information-theoretic approach to transferability in task
    transfer learning", ICIP 2019, definition 2; shrinkage: S. Ibrahim et al., "Newer is not
    always better: rethinking transferability metrics", ECML PKDD 2022 (arXiv 2110.06893).
    """
    centred = features - features.mean(axis=0)
    indicators = _one_hot(labels)
    counts = indicators.sum(axis=0)
    means = (indicators.T @ centred) / counts[:, None]  # (K, D)
    roots = means * np.sqrt(counts / len(labels))[:, None]  # B = roots' roots
    shrunk, share = ledoit_wolf(centred, assume_centered=True)
    return float((1 - share) * np.sum(roots.T * np.linalg.solve(shrunk, roots.T)))


def knn_accuracy(
    features: Float64Array,
    labels: Int64Array,
    *,
    neighbours: int = 5,
    max_queries: int = 2000,
    groups: Int64Array | None = None,
) -> float:
    """Leave-one-out accuracy of the nearest neighbours, of other groups, by cosine similarity.

    Of more than ``max_queries`` images so many are drawn and compared with all others.
    """
    n, group = len(labels), group_codes(groups, len(labels))
    others = n - int(np.bincount(group).max())
    if others < 1:
        raise DataError("Nearest neighbours need images of at least two groups, got one group.")
    k = min(neighbours, others)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    points = (features / np.maximum(lengths, 1e-300)).astype(np.float32)
    queries = np.random.default_rng(0).permutation(n)[:max_queries]
    right = []
    for block in np.array_split(queries, 1 + len(queries) * n // BLOCK):
        alike = points[block] @ points.T
        alike[group[block][:, None] == group] = -np.inf
        nearest = np.argpartition(-alike, k - 1, axis=1)[:, :k]
        # The similarities, in [-1, 1], count less than any vote: they decide between equal votes.
        weights = 1 + np.take_along_axis(alike, nearest, axis=1) / (2 * k + 1)
        votes = (_one_hot(labels)[nearest] * weights[:, :, None]).sum(axis=1)
        right.append(votes.argmax(axis=1) == labels[block])
    return float(np.concatenate(right).mean())
