"""The null distribution of the two-sample Kolmogorov-Smirnov distance, ties included.

Given the pooled values, every assignment of rows to samples is equally likely under the null, and
the distance is the largest deviation of the count S of first-sample rows from its expectation,
looked at only where a block of tied values ends. Up to :data:`EXACT_ROWS` rows that distribution
is summed exactly, step by step. Beyond, S is a Brownian bridge: long blocks of ties are crossed
in one unwatched jump, everything between them is watched without pause.

Sources: G. Schroeer and D. Trenkler, "Exact and randomization distributions of
Kolmogorov-Smirnov tests two or three samples", Comput. Stat. Data Anal. 20 (1995), for the ties;
M. Broadie, P. Glasserman and S. Kou, "A continuity correction for discrete barrier options",
Mathematical Finance 7 (1997), for short blocks in the limit.
"""

from __future__ import annotations

from functools import cache
from math import ceil, exp, log, pi, sqrt

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.special import kolmogorov

from transferkit._typing import BoolArray, Float64Array, Int64Array

EXACT_ROWS = 2000
"""Pooled rows up to which the null distribution is summed exactly."""
LONG_BLOCK = 0.01
"""Share of the rows from which on a block of ties is its own jump in the limit."""
SMALLEST = 1e-12
"""Probability that the exact sum leaves outside its band."""
NODES = 96
"""Quadrature nodes across the band, in the limit."""
OVERSHOOT = 0.5826
"""-zeta(1/2) / sqrt(2 pi): mean overshoot of a watched random walk, in steps."""


def ks_p_values(deviations: Int64Array, ends: BoolArray, n_a: int, n_b: int) -> Float64Array:
    """Return p-values of Kolmogorov-Smirnov distances, given each feature's ties.

    Args:
        deviations: ``(D,)`` largest ``|N S(t) - n_a t|`` over block ends t: the distance times
            ``n_a n_b``, an exact integer.
        ends: ``(D, N)`` whether row t of the sorted feature is the last of its tied block.
        n_a: Rows of the first sample.
        n_b: Rows of the second.

    Returns:
        ``(D,)`` P(distance at least as large). Below about 1e-12 they are upper bounds.
    """
    if ends.shape[1] <= EXACT_ROWS:
        known = _distinct(deviations, ends)
        chosen = list(known.values())
        exact = exact_p_values(deviations[chosen], ends[chosen], n_a, n_b)
        found = dict(zip(known, exact, strict=True))
        return np.array([found[key] for key in _keys(deviations, ends)])
    scaled = deviations / sqrt(n_a * n_b * (n_a + n_b))
    pairs = zip(scaled, ends, strict=True)
    return np.array([limit_p_value(float(z), row) for z, row in pairs])


def exact_p_values(deviations: Int64Array, ends: BoolArray, n_a: int, n_b: int) -> Float64Array:
    """Sum the null distribution exactly; arguments and result as in :func:`ks_p_values`.

    The state is the count S after t rows, within a band around its expectation that leaves out
    less than 1e-12; a path is stopped where it reaches the deviation at a block end.
    """
    total = n_a + n_b
    spread = sqrt(log(2 / SMALLEST) / 2 * n_a * n_b / total)
    half = min(ceil(spread), n_a) + 1
    offsets = np.arange(-half, half + 1)
    alive = np.zeros((len(offsets), len(deviations)))
    alive[half] = 1.0
    stopped = np.zeros(len(deviations))
    centre = 0
    for t in range(1, total + 1):
        rise = np.clip((n_a - centre - offsets) / (total - t + 1), 0.0, 1.0)[:, None]
        up, stay = alive * rise, alive * (1 - rise)
        moved = n_a * t // total - centre
        alive = np.zeros_like(alive)
        if moved:
            alive[:], alive[:-1] = up, up[:-1] + stay[1:]
            alive[-1] = up[-1]
        else:
            alive[:], alive[1:] = stay, stay[1:] + up[:-1]
        centre += moved
        far = np.abs(total * (centre + offsets) - n_a * t)
        over = (far[:, None] >= deviations) & ends[:, t - 1]
        stopped += np.where(over, alive, 0.0).sum(axis=0)
        alive[over] = 0.0
    scaled = deviations / sqrt(n_a * n_b * total)
    return np.clip(np.maximum(stopped, _tail(scaled, spread, n_a, n_b)), 0.0, 1.0)


def limit_p_value(z: float, ends: BoolArray) -> float:
    """Return P(sup |bridge| >= z) for a Brownian bridge watched at block ends only.

    Args:
        z: Distance times ``sqrt(n_a n_b / N)``.
        ends: ``(N,)`` whether a sorted row is the last of its tied block.
    """
    total = len(ends)
    if z <= 0:
        return 1.0
    lengths = np.diff(np.flatnonzero(ends), prepend=-1) / total
    long = lengths >= LONG_BLOCK
    short = lengths[~long]
    typical = float((short**2).sum() / short.sum()) if len(short) else 0.0
    barrier = z + OVERSHOOT * max(0.0, sqrt(typical) - sqrt(1 / total))
    if not long.any():
        return float(kolmogorov(barrier))
    if kolmogorov(z) < SMALLEST:
        return float(kolmogorov(z))
    return _bridge(z, barrier, _pieces(lengths, long))


def _tail(scaled: Float64Array, spread: float, n_a: int, n_b: int) -> Float64Array:
    """Bound the p-value of distances that reach beyond the band; zero within it."""
    beyond = scaled * sqrt(n_a * n_b / (n_a + n_b)) >= spread
    return np.where(beyond, np.minimum(2 * np.exp(-2 * scaled**2), SMALLEST), 0.0)


def _keys(deviations: Int64Array, ends: BoolArray) -> list[tuple[int, bytes]]:
    packed = np.packbits(ends, axis=1)
    return [(int(d), row.tobytes()) for d, row in zip(deviations, packed, strict=True)]


def _distinct(deviations: Int64Array, ends: BoolArray) -> dict[tuple[int, bytes], int]:
    """Map each different pair of deviation and ties to one feature that has it."""
    return {key: i for i, key in enumerate(_keys(deviations, ends))}


def _pieces(lengths: Float64Array, long: BoolArray) -> list[tuple[float, bool]]:
    """Split time into (duration, watched): each long block alone, the rest run together."""
    run = np.cumsum(long) * 2 - long
    starts = np.flatnonzero(np.diff(run, prepend=-1))
    durations = np.add.reduceat(lengths, starts)
    return [(float(d), not bool(j)) for d, j in zip(durations, long[starts], strict=True)]


@cache
def _quadrature() -> tuple[Float64Array, Float64Array]:
    """Return Gauss-Legendre nodes and weights on [-1, 1]."""
    nodes, weights = leggauss(NODES)
    return nodes, weights


def _bridge(z: float, barrier: float, pieces: list[tuple[float, bool]]) -> float:
    """Carry the density of the surviving paths from piece to piece, back to zero at time one."""
    nodes, weights = (unit * z for unit in _quadrature())
    origin = np.zeros(1)
    position, density = origin, np.ones(1)
    for i, (duration, watched) in enumerate(pieces):
        target = origin if i == len(pieces) - 1 else nodes
        kernel = _watched if watched else _free
        carried = density * weights if len(position) > 1 else density
        density = kernel(target, position, duration, barrier) @ carried
        position = target
    survived = float(density[0]) * sqrt(2 * pi)
    return min(1.0, max(SMALLEST, 1 - survived))


def _free(x: Float64Array, y: Float64Array, duration: float, barrier: float) -> Float64Array:
    """Return transition densities of Brownian motion, ``(len(x), len(y))``."""
    gaps = x[:, None] - y[None]
    density: Float64Array = np.exp(-(gaps**2) / (2 * duration)) / sqrt(2 * pi * duration)
    return density


def _watched(x: Float64Array, y: Float64Array, duration: float, barrier: float) -> Float64Array:
    """Return transition densities of Brownian motion stopped at ``+-barrier``."""
    width = 2 * barrier
    if duration > 0.1 * width**2:
        modes = np.arange(1, 12)
        rate = np.array([exp(-(k**2) * pi**2 * duration / (2 * width**2)) for k in modes])
        left = np.sin(np.outer(x + barrier, modes) * pi / width)
        right = np.sin(np.outer(y + barrier, modes) * pi / width)
        series: Float64Array = (left * rate) @ right.T * (2 / width)
        return series
    total = np.zeros((len(x), len(y)))
    for k in (-1, 0, 1):
        total += _free(x, y + 2 * k * width, duration, barrier)
        total -= _free(x, width - y + 2 * k * width, duration, barrier)
    return total
