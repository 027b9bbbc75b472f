"""Labels and probabilities that every metric must come through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from transferkit._typing import Float64Array, Int64Array


@dataclass(frozen=True)
class Case:
    """Labels (N,) and probabilities (N, K)."""

    labels: Int64Array
    probabilities: Float64Array

    @property
    def predicted(self) -> Int64Array:
        return self.probabilities.argmax(axis=1)

    @property
    def num_classes(self) -> int:
        return self.probabilities.shape[1]


def softmax(logits: Float64Array) -> Float64Array:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def random_case(n: int, num_classes: int, *, seed: int, skill: float = 1.0) -> Case:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, n)
    logits = rng.normal(size=(n, num_classes))
    logits[np.arange(n), labels] += skill
    return Case(labels, softmax(logits))


def tied_case(num_classes: int) -> Case:
    """Return probabilities on a coarse grid, so that most scores are tied."""
    case = random_case(200, num_classes, seed=1)
    coarse = np.round(case.probabilities * 3) + 1
    return Case(case.labels, coarse / coarse.sum(axis=1, keepdims=True))


def imbalanced_case(num_classes: int) -> Case:
    """Return 300 images of which all but six are of the last class."""
    case = random_case(300, num_classes, seed=2)
    labels = np.full(300, num_classes - 1)
    labels[:6] = np.arange(6) % num_classes
    return Case(labels, case.probabilities)


def one_class_case(num_classes: int) -> Case:
    case = random_case(40, num_classes, seed=3)
    return Case(np.zeros(40, dtype=np.int64), case.probabilities)


def certain_case(*, right: bool) -> Case:
    """Return probabilities of exactly 0 and 1, all right or all wrong."""
    labels = np.arange(30) % 3
    said = labels if right else (labels + 1) % 3
    return Case(labels, np.eye(3)[said])


CASES = {
    "binary": random_case(150, 2, seed=0),
    "binary-large": random_case(5000, 2, seed=4, skill=2.0),
    "binary-tied": tied_case(2),
    "binary-imbalanced": imbalanced_case(2),
    "binary-one-class": one_class_case(2),
    "binary-constant": Case(np.arange(20) % 2, np.full((20, 2), 0.5)),
    "multi": random_case(150, 5, seed=5),
    "multi-tied": tied_case(4),
    "multi-imbalanced": imbalanced_case(4),
    "multi-one-class": one_class_case(3),
    "multi-absent-class": Case(np.arange(40) % 2, random_case(40, 4, seed=6).probabilities),
    "certain-right": certain_case(right=True),
    "certain-wrong": certain_case(right=False),
    "one-image": random_case(1, 2, seed=7),
    "two-images": Case(np.array([1, 0]), np.array([[0.2, 0.8], [0.3, 0.7]])),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


BOTH_SIDES = {k: c for k, c in CASES.items() if k.startswith("binary") and len(set(c.labels)) == 2}


@pytest.fixture(params=BOTH_SIDES.values(), ids=BOTH_SIDES.keys())
def binary_case(request: pytest.FixtureRequest) -> Case:
    """Two classes, both with images."""
    found: Case = request.param
    return found


@pytest.fixture(params=["multi", "multi-tied", "multi-imbalanced", "certain-right"])
def full_case(request: pytest.FixtureRequest) -> Case:
    """More than two classes, all with images."""
    return CASES[request.param]
