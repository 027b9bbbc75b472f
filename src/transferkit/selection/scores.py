"""LogME: how well a Bayesian linear model explains the labels."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.covariance import ledoit_wolf

from transferkit._typing import Float64Array, Int64Array
from transferkit._validation import check_source, check_task, one_hot
from transferkit.errors import ConfigError

GRID = np.logspace(-10, 10, 41)
"""Where the search for alpha / beta starts, relative to the largest eigenvalue.

Its ends bound the search: the evidence of labels that few features fit without any error has no
maximum, and ends at the lower one.
"""


def logme(features: ArrayLike, labels: ArrayLike) -> float:
    r"""Logarithm of the maximum evidence per image, averaged over the classes.

    Each class's indicator ``y`` (N,) is modelled as ``y = F w + noise`` with prior
    ``w ~ N(0, 1/alpha)`` and noise ``N(0, 1/beta)``. The log evidence, with
    ``A = alpha I + beta F'F`` and ``m = beta A^-1 F'y``, is

        L = N/2 log beta + D/2 log alpha - N/2 log 2 pi
            - beta/2 |F m - y|^2 - alpha/2 m'm - 1/2 log |A|,

    and the score is ``max L / N``. With ``gamma = sum_i s_i / (s_i + alpha/beta)`` over the
    eigenvalues s of ``F'F``, the maximum satisfies ``alpha = gamma / m'm`` and
    ``beta = (N - gamma) / |F m - y|^2``, which is iterated to its fixed point.

    Source: K. You et al., "LogME: practical assessment of pre-trained models for transfer
    learning", ICML 2021, equations 2 to 4 and algorithm 3; the fixed point is from K. You et
    al., JMLR 23 (2022). Unlike the authors' code, iteration starts at the best of a grid and
    runs until it stands still, so the value does not depend on the features' scale of start.

    Args:
        features: ``(N, D)``, as they come (the paper neither centres nor scales them).
        labels: ``(N,)``.

    Returns:
        The score; higher is better, and values above zero are possible.

    Raises:
        DataError: Features that are not finite or all equal, or fewer than two classes.

    Example:
        >>> import numpy as np
        >>> from transferkit.selection.scores import logme
        >>> rng = np.random.default_rng(0)
        >>> labels = np.repeat([0, 1], 50)
        >>> noise = rng.normal(size=(100, 8))
        >>> telling = noise + 2 * labels[:, None]
        >>> logme(telling, labels) > logme(noise, labels)
        True
    """
    matrix, truth = check_task(features, labels)
    targets = one_hot(truth)
    eigenvalues, powers = _spectrum(matrix, targets)
    rest = np.maximum(targets.sum(axis=0) - powers.sum(axis=0), 0)
    ratio = _fixed_point(eigenvalues, powers, rest, len(truth))
    return float(_evidence(ratio, eigenvalues, powers, rest, len(truth)).mean() / len(truth))


def _spectrum(features: Float64Array, targets: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return eigenvalues of F'F ``(R, 1)`` and squared projections ``(u_r' y_k)^2`` ``(R, K)``.

    The smaller of F'F and FF' is decomposed: the cost grows linearly with the longer side.
    """
    wide = features.shape[1] > features.shape[0]
    gram = features @ features.T if wide else features.T @ features
    values, vectors = np.linalg.eigh(gram)
    kept = values > values[-1] * max(features.shape) * np.finfo(np.float64).eps
    values, vectors = values[kept], vectors[:, kept]
    sides = vectors.T @ (targets if wide else features.T @ targets)
    powers = np.square(sides) / (1 if wide else values[:, None])
    return values[:, None], powers


def _evidence(
    ratio: Float64Array,
    eigenvalues: Float64Array,
    powers: Float64Array,
    rest: Float64Array,
    n: int,
) -> Float64Array:
    """Log evidence ``(K,)`` at ``ratio = alpha / beta``, with the best beta for it.

    At a fixed ratio, L is ``N/2 log beta - beta Q / 2`` plus what beta does not touch, with
    ``Q = |F m - y|^2 + ratio m'm``: the best beta is ``N / Q``.
    """
    misfit = rest + (powers * ratio / (ratio + eigenvalues)).sum(axis=0)
    beta = n / np.maximum(misfit, 1e-300)
    volume = np.log1p(eigenvalues / ratio).sum(axis=0)
    heights: Float64Array = 0.5 * (n * np.log(beta / (2 * np.pi)) - n - volume)
    return heights


def _fixed_point(
    eigenvalues: Float64Array, powers: Float64Array, rest: Float64Array, n: int
) -> Float64Array:
    """Iterate ``alpha / beta`` ``(K,)`` from the best point of the grid until it stands still."""
    grid = GRID * eigenvalues.max()
    heights = np.stack([_evidence(r, eigenvalues, powers, rest, n) for r in grid])
    ratio: Float64Array = grid[heights.argmax(axis=0)]
    for _ in range(200):
        damping = ratio / (ratio + eigenvalues)
        gamma = (1 - damping).sum(axis=0)
        residual = rest + (powers * damping**2).sum(axis=0)
        weights = (powers * (1 - damping) * damping).sum(axis=0) / ratio
        moved = gamma * residual / np.maximum((n - gamma) * weights, 1e-300)
        moved = np.clip(moved, grid[0], grid[-1])
        still = np.abs(moved - ratio) <= 1e-7 * ratio
        ratio = moved
        if still.all():
            break
    return ratio


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
