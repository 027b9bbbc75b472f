"""Calibration: does a confidence of 90 % mean right nine times in ten?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from transferkit._text import percent, table
from transferkit._typing import JSON, Float64Array, Int64Array
from transferkit.errors import ConfigError
from transferkit.metrics._checks import check_labels, check_probabilities, check_same_length
from transferkit.metrics._json import plain


@dataclass(frozen=True, slots=True, eq=False)
class ReliabilityCurve:
    """Confidence against accuracy in B bins of equal width.

    Attributes:
        edges: ``(B + 1,)`` from 0 to 1; bin b holds confidences in ``(edges[b], edges[b + 1]]``.
        counts: ``(B,)`` images.
        confidence: ``(B,)`` mean confidence; NaN in an empty bin.
        accuracy: ``(B,)`` share that is right; NaN in an empty bin.
    """

    edges: Float64Array
    counts: Int64Array
    confidence: Float64Array
    accuracy: Float64Array

    @property
    def error(self) -> float:
        """Expected calibration error: ``sum_b counts_b / N |accuracy_b - confidence_b|``."""
        filled = self.counts > 0
        gap = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float(np.average(gap, weights=self.counts[filled]))

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        return {name: plain(getattr(self, name)) for name in self.__slots__}

    def __str__(self) -> str:
        rows = [
            [
                f"{percent(low, digits=0)} to {percent(high, digits=0)}",
                str(n),
                percent(c),
                percent(a),
            ]
            for low, high, n, c, a in zip(
                self.edges,
                self.edges[1:],
                self.counts,
                self.confidence,
                self.accuracy,
                strict=False,
            )
            if n
        ]
        return table(["bin", "images", "confidence", "accuracy"], rows)


def reliability_curve(
    labels: ArrayLike, probabilities: ArrayLike, *, bins: int = 15
) -> ReliabilityCurve:
    """Compare the confidence in the predicted class with the share that is right.

    Source: C. Guo et al., "On calibration of modern neural networks", ICML 2017, equations 1
    and 2, with B bins of equal width over [0, 1].

    Args:
        labels: True classes ``(N,)``.
        probabilities: ``(N, K)``.
        bins: B.

    Raises:
        DataError: Arrays that do not fit each other.
        ConfigError: Fewer than one bin.
    """
    if bins < 1:
        raise ConfigError(f"bins must be at least 1; {bins} came.")
    values = check_probabilities(probabilities)
    truth = check_labels(labels, num_classes=values.shape[1])
    check_same_length(labels=truth, probabilities=values)
    confidence = np.clip(values.max(axis=1), 0, 1)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins).astype(np.int64)
    right = (values.argmax(axis=1) == truth).astype(np.float64)
    return ReliabilityCurve(
        edges=edges,
        counts=counts,
        confidence=_mean_by(place, confidence, counts),
        accuracy=_mean_by(place, right, counts),
    )


def expected_calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, *, bins: int = 15
) -> float:
    """Mean distance between confidence and accuracy over equal-width bins (Guo et al. 2017, eq. 3).

    Args:
        labels: True classes ``(N,)``.
        probabilities: ``(N, K)``.
        bins: Number of bins over [0, 1].

    Returns:
        A share in [0, 1]; 0 is perfectly calibrated.

    Raises:
        DataError: Arrays that do not fit each other.
        ConfigError: Fewer than one bin.
    """
    return reliability_curve(labels, probabilities, bins=bins).error


def _mean_by(place: Int64Array, values: Float64Array, counts: Int64Array) -> Float64Array:
    sums = np.bincount(place, weights=values, minlength=len(counts))
    means = np.full(len(counts), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means
