"""k-NN: do the nearest images share the label?"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transferkit._typing import Int64Array
from transferkit.errors import ConfigError
from transferkit.selection._checks import check_task, one_hot

Metric: TypeAlias = Literal["cosine", "euclidean"]
BLOCK = 4_000_000
"""Distances held in memory at a time."""


def knn_accuracy(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    neighbours: int = 5,
    metric: Metric = "cosine",
    max_queries: int = 2000,
    seed: int = 0,
) -> float:
    """Leave-one-out accuracy of the k nearest neighbours.

    Each image is given the majority class of its k nearest others; between classes with equally
    many votes, the one with the nearer neighbours wins (by rank).

    Args:
        features: ``(N, D)``.
        labels: ``(N,)``.
        neighbours: k; at most ``N - 1`` are used.
        metric: ``"cosine"`` ignores the length of the features, ``"euclidean"`` does not.
        max_queries: Above this many images, so many are drawn and judged against all the
            others: the cost then grows linearly with N, not with its square.
        seed: Seed of that draw.

    Returns:
        Share of the judged images that are right.

    Raises:
        DataError: Features that are not finite or all equal, or fewer than two classes.
        ConfigError: An unknown metric, or fewer than one neighbour or query.
    """
    if neighbours < 1 or max_queries < 1:
        raise ConfigError("neighbours and max_queries must be at least 1.")
    if metric not in ("cosine", "euclidean"):
        raise ConfigError(f"metric must be 'cosine' or 'euclidean'; {metric!r} came.")
    matrix, truth = check_task(features, labels)
    points = matrix - matrix.mean(axis=0) if metric == "euclidean" else matrix
    if metric == "cosine":
        points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-300)
    n, k = len(truth), min(neighbours, len(truth) - 1)
    queries = np.arange(n)
    if n > max_queries:
        queries = np.sort(np.random.default_rng(seed).choice(n, max_queries, replace=False))
    single = points.astype(np.float32)
    step = max(1, BLOCK // n)
    blocks = [queries[start : start + step] for start in range(0, len(queries), step)]
    right = [_vote(_nearest(single, block, k), truth) == truth[block] for block in blocks]
    return float(np.concatenate(right).mean())


def _nearest(points: NDArray[np.float32], queries: Int64Array, k: int) -> Int64Array:
    """Return the k nearest others of each query ``(Q, k)``, nearest first."""
    lengths = np.square(points).sum(axis=1)
    distances = lengths - 2 * (points[queries] @ points.T)  # up to each query's own length
    distances[np.arange(len(queries)), queries] = np.inf
    some = np.argpartition(distances, k - 1, axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(distances, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1).astype(np.int64)


def _vote(nearest: Int64Array, labels: Int64Array) -> Int64Array:
    k = nearest.shape[1]
    weights = 1 + (k - np.arange(k)) / (k * (k + 1))  # the extras sum to one half: no vote's worth
    votes = (one_hot(labels)[nearest] * weights[:, None]).sum(axis=1)
    winners: Int64Array = votes.argmax(axis=1)
    return winners
