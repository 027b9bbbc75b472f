"""Kernel sums by random Fourier features: linear time, for a million rows.

A Gaussian kernel is the mean of ``cos(w'(x - y))`` over Gaussian frequencies w. With F frequencies
drawn once, K is nearly ``Z Z'`` with ``Z = [cos(Xw), sin(Xw)] / sqrt(F)``, and every sum that a
permutation needs is one product of the memberships with Z. The permutation test stays exact: the
statistic is approximate, not its null distribution. What is lost is power, against differences
that the F frequencies do not see. Source: A. Rahimi and B. Recht, "Random features for large-scale
kernel machines", NeurIPS 2007; J. Zhao and D. Meng, "FastMMD", Neural Computation 27 (2015).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt

import numpy as np

from transferkit._typing import BoolArray, FloatArray
from transferkit.audit.kernels import KernelSums

ROWS = 4096
"""Rows whose Fourier features are in memory at a time."""


def fourier_sums(
    rows: FloatArray,
    members: BoolArray,
    *,
    bandwidths: Sequence[float],
    frequencies: int,
    seed: int,
) -> KernelSums:
    """Sum Gaussian kernels under every membership, approximately.

    Args:
        rows: ``(N, D)`` pooled rows, scaled.
        members: ``(R, N)`` membership in the first sample; row 0 is the observed one.
        bandwidths: J standard deviations of the kernels.
        frequencies: F, per kernel.
        seed: Seed of the frequencies.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(rows.shape[1], frequencies)).astype(rows.dtype)
    kernels, (count, total) = len(bandwidths), members.shape
    means = np.zeros((kernels, count + 1, 2 * frequencies))
    for block, features in _features(rows, drawn, bandwidths):
        columns = np.ones((count + 1, block.stop - block.start), dtype=rows.dtype)
        columns[:-1] = members[:, block]
        for j, one in enumerate(features):
            means[j] += columns @ one
    to_first, to_all = np.zeros((kernels, total)), np.zeros((kernels, total))
    for block, features in _features(rows, drawn, bandwidths):
        for j, one in enumerate(features):
            to_first[j, block], to_all[j, block] = (one @ means[j][[0, -1]].T).T
    everyone = means[:, -1]
    return KernelSums(
        within=np.einsum("jrf,jrf->jr", means[:, :-1], means[:, :-1]),
        touching=np.einsum("jrf,jf->jr", means[:, :-1], everyone),
        total=np.einsum("jf,jf->j", everyone, everyone),
        own=np.ones(kernels),
        to_first=to_first,
        to_all=to_all,
    )


def _features(
    rows: FloatArray, drawn: FloatArray, bandwidths: Sequence[float]
) -> Iterator[tuple[slice, Iterator[FloatArray]]]:
    """Yield blocks of rows and, for each kernel, their features ``(rows, 2 F)``."""
    for start in range(0, len(rows), ROWS):
        block = slice(start, min(start + ROWS, len(rows)))
        yield block, _waves(rows[block] @ drawn, bandwidths)


def _waves(angles: FloatArray, bandwidths: Sequence[float]) -> Iterator[FloatArray]:
    scale = 1 / sqrt(angles.shape[1])
    for bandwidth in bandwidths:
        turned = angles / angles.dtype.type(bandwidth)
        waves = np.concatenate([np.cos(turned), np.sin(turned)], axis=1)
        waves *= scale
        yield waves
