"""Energy distance: like MMD, with the distance itself in place of a kernel, so nothing to tune."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from transferkit._typing import FloatArray
from transferkit.audit.kernels import (
    discrepancies,
    discrepancy_interval,
    kernel_sums,
    scaled_rows,
)
from transferkit.audit.permutation import permutation_p_value, permuted_members
from transferkit.audit.samples import Groups, Pair, check_pair
from transferkit.audit.two_sample import TwoSampleResult, nothing_differs
from transferkit.errors import ConfigError
from transferkit.metrics._checks import check_share


def energy_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: Groups = None,
    permutations: int = 199,
    max_rows: int = 25_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> TwoSampleResult:
    """Permutation test of the energy distance ``2 E|x - y| - E|x - x'| - E|y - y'|``.

    ``statistic`` is the unbiased energy distance in median distances; ``effect`` divides it by
    ``2 E|x - y|``: 0 means equal, 1 two different points. Beyond ``max_rows`` pooled rows it works
    on that many, drawn at random from each sample in proportion: exact still, at linear cost, and
    ``note`` says so. Source: G. Szekely and M. Rizzo, "Energy statistics", JSPI 143 (2013).

    Args:
        a: ``(n_a, D)`` features of the first sample, at least two rows.
        b: ``(n_b, D)`` features of the second, at least two rows.
        groups: Group of each row of ``a``, and of ``b``: groups are permuted.
        permutations: B.
        max_rows: Pooled rows to work on at most.
        confidence: Coverage of the interval of ``effect``.
        seed: Seed of the permutations and of the draw.

    Raises:
        DataError: Samples that are too small, of unequal width or not finite.
        ConfigError: An option out of its range.
    """
    check_share("confidence", confidence)
    if max_rows < 4:
        raise ConfigError(f"max_rows must be at least 4; {max_rows} came.")
    whole = check_pair(a, b, groups=groups)
    pair = _thinned(whole, max_rows, seed)
    rows = scaled_rows(pair.pooled, seed=seed)
    if rows is None:
        return nothing_differs("energy", whole.n_a, whole.n_b)
    members = permuted_members(
        pair.member, permutations=permutations, seed=seed, groups=pair.groups
    )
    sums = kernel_sums(rows, members, _minus_distance, np.zeros(1))
    values = discrepancies(sums, members)[0]
    low, high = discrepancy_interval(
        sums, members[0], float(values[0]), groups=pair.groups, confidence=confidence
    )
    between = -2 * float(sums.touching[0, 0] - sums.within[0, 0]) / (pair.n_a * pair.n_b)
    low, effect, high = (min(1.0, max(0.0, x / between)) for x in (low, float(values[0]), high))
    return TwoSampleResult(
        test="energy",
        statistic=float(values[0]),
        p_value=permutation_p_value(values),
        effect=effect,
        interval=(low, high),
        n_a=whole.n_a,
        n_b=whole.n_b,
        permutations=permutations,
        note="" if pair is whole else f"on {len(pair.pooled)} rows drawn at random",
    )


def _minus_distance(squared: FloatArray) -> Iterator[FloatArray]:
    np.sqrt(squared, out=squared)
    yield np.negative(squared, out=squared)


def _thinned(pair: Pair, max_rows: int, seed: int) -> Pair:
    """Keep at most ``max_rows`` rows, each sample in proportion and at least two of each."""
    total = len(pair.pooled)
    if total <= max_rows:
        return pair
    keep_a = min(max(2, round(max_rows * pair.n_a / total)), max_rows - 2)
    keep_b = min(max_rows - keep_a, pair.n_b)
    rng = np.random.default_rng(seed)
    first = rng.choice(pair.n_a, min(keep_a, pair.n_a), replace=False)
    second = pair.n_a + rng.choice(pair.n_b, keep_b, replace=False)
    rows = np.sort(np.concatenate([first, second]))
    groups = None if pair.groups is None else pair.groups[rows]
    return Pair(pair.pooled[rows], len(first), pair.names, groups)
