"""The probe: logistic regression on standardised features, the audit's own classifier."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from transferkit._typing import Float64Array, FloatArray, Int64Array
from transferkit.errors import DataError

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse regularisation strengths that selection on a split chooses from."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A fitted probe.

    Attributes:
        mean: Mean of each feature (D,) over the images it was fitted on.
        scale: Their standard deviation (D,), 1 for constant features.
        weight: Weights (K, D); zero for classes it has not met.
        bias: Biases (K,), minus infinity for those.
    """

    mean: FloatArray
    scale: FloatArray
    weight: FloatArray
    bias: Float64Array

    def scores(self, features: FloatArray) -> Float64Array:
        """Return logits (N, K); their largest is the predicted class."""
        standard = (features - self.mean) / self.scale
        logits: Float64Array = standard @ self.weight.T + self.bias
        return logits

    def predict(self, features: FloatArray) -> Int64Array:
        """Return predicted classes (N,)."""
        predicted: Int64Array = self.scores(features).argmax(axis=1)
        return predicted


def fit_probe(
    features: FloatArray, labels: Int64Array, *, num_classes: int, strength: float = 1.0
) -> Probe:
    """Fit multinomial logistic regression with an L2 penalty on standardised features.

    Args:
        features: (N, D).
        labels: (N,) in [0, num_classes).
        num_classes: K.
        strength: Inverse regularisation strength, the ``C`` of scikit-learn.

    Raises:
        DataError: Fewer than two classes occur.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise DataError(
            f"a probe needs images of two classes to learn from, got {len(labels)} images of "
            f"{len(present)}"
        )
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-12 * np.maximum(1, np.abs(mean)), scale, 1).astype(features.dtype)
    model = LogisticRegression(C=strength, max_iter=500, tol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((features - mean) / scale, labels)
    weight = np.zeros((num_classes, features.shape[1]), features.dtype)
    bias = np.full(num_classes, -np.inf)
    two = len(present) == 2
    weight[present] = np.concatenate([-model.coef_, model.coef_]) / 2 if two else model.coef_
    bias[present] = (
        np.concatenate([-model.intercept_, model.intercept_]) / 2 if two else model.intercept_
    )
    return Probe(mean, scale, weight, bias)
