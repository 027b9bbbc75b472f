"""LogME: how well a Bayesian linear model explains the labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from transferkit._typing import Float64Array
from transferkit.selection._checks import check_task, one_hot

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
        >>> from transferkit.selection.logme import logme
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
