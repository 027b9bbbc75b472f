"""What choosing the best epoch, or setting, on a split adds to its score there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transferkit._typing import BoolArray, Float64Array, Int64Array
from transferkit.audit.gap import Estimate
from transferkit.audit.resampling import group_codes
from transferkit.errors import DataError


def choice_optimism(
    right: BoolArray,
    *,
    groups: Sequence[str] | None = None,
    halvings: int = 8,
    samples: int = 200,
    seed: int = 0,
) -> Estimate:
    """Estimate how much the best of E epochs flatters the split that it was chosen on.

    The best epoch's score, minus the mean score on one half of the split of the epoch that is
    best on the other half. Its 95 % interval is a bootstrap over groups.

    Args:
        right: Which images are predicted right after each epoch (E, N).
        groups: Group of each image (N,), kept in one half.
        halvings: Ways to halve the split, per bootstrap draw; each is used in both directions.
        samples: Bootstrap draws.
        seed: Seed of the halves and draws.

    Raises:
        DataError: No epoch, or fewer than two groups to halve.
    """
    codes = group_codes(groups, right.shape[1] if right.ndim == 2 else 0)
    if right.ndim != 2 or not len(right) or len(codes) < 2 or codes.max() < 1:
        raise DataError(
            f"expected right predictions (epochs, images) of two groups or more, got shape "
            f"{right.shape}"
        )
    units = int(codes.max()) + 1
    hits = np.zeros((units, len(right)))
    np.add.at(hits, codes, right.T.astype(np.float64))
    sizes = np.bincount(codes).astype(np.float64)
    rng = np.random.default_rng(seed)
    value = _optimism(hits, sizes, np.ones(units), 25 * halvings, rng)
    draws = [
        _optimism(hits, sizes, weights, halvings, rng)
        for weights in rng.multinomial(units, np.full(units, 1 / units), size=samples)
    ]
    low, high = (float(bound) for bound in np.quantile(draws, [0.025, 0.975]))
    return Estimate(value, (min(low, value), max(high, value)))


def _optimism(
    hits: Float64Array,
    sizes: Float64Array,
    weights: Float64Array | Int64Array,
    halvings: int,
    rng: np.random.Generator,
) -> float:
    half = rng.permuted(np.tile(np.arange(len(sizes)) % 2, (halvings, 1)), axis=1)
    chosen = np.concatenate([half, 1 - half]) * weights
    judged = np.concatenate([1 - half, half]) * weights
    best = (chosen @ hits).argmax(axis=1)
    scored = np.take_along_axis(judged @ hits, best[:, None], axis=1)[:, 0]
    flattered = float((weights @ hits).max() / (weights @ sizes))
    images = judged @ sizes
    filled = images > 0  # a draw may put all its groups into one half
    if not filled.any():
        return 0.0
    return flattered - float((scored[filled] / images[filled]).mean())
