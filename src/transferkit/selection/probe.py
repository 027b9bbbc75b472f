"""The linear probe: a logistic regression on frozen features, judged on images it has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax
from sklearn.model_selection import (
    StratifiedGroupKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
)

from transferkit._format import percent, percent_interval, plain, table
from transferkit._sampling import interleave, rows_by_class
from transferkit._typing import JSON, Float64Array, Int64Array
from transferkit._validation import check_task
from transferkit.errors import ConfigError, DataError
from transferkit.metrics.evaluation import Evaluation, evaluate_probabilities
from transferkit.metrics.logistic_regression import Probe, fit_probe


@dataclass(frozen=True, slots=True, eq=False)
class ProbeScore:
    """What a linear probe reaches under cross-validation.

    Attributes:
        accuracy: Share of images that are right when their fold is held out.
        interval: Its Wilson interval, 95 %.
        folds: Accuracy of each held-out fold ``(F,)``.
        evaluation: Every score of the held-out probabilities; classes are those that occur.
    """

    accuracy: float
    interval: tuple[float, float]
    folds: Float64Array
    evaluation: Evaluation

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        return {
            "accuracy": self.accuracy,
            "interval": plain(self.interval),
            "folds": plain(self.folds),
            "evaluation": self.evaluation.to_dict(),
        }

    def __str__(self) -> str:
        folds = ", ".join(percent(value) for value in self.folds.tolist())
        return f"linear probe {percent_interval(self.accuracy, self.interval)}; folds: {folds}"


@dataclass(frozen=True, slots=True, eq=False)
class ProbeCurve:
    """Accuracy of a linear probe against the number of images it learns from.

    Attributes:
        sizes: Training images ``(S,)``, rising.
        accuracies: Held-out accuracy ``(S, R)`` of each size in each repeat.
        held_out: Images that each repeat is judged on.
    """

    sizes: Int64Array
    accuracies: Float64Array
    held_out: int

    @property
    def means(self) -> Float64Array:
        """Mean accuracy of each size ``(S,)``."""
        values: Float64Array = self.accuracies.mean(axis=1)
        return values

    @property
    def gain_per_doubling(self) -> float:
        """Accuracy that the last doubling of the images brought; near zero, more would not help."""
        doublings = np.log2(self.sizes[-1] / self.sizes[-2])
        return float((self.means[-1] - self.means[-2]) / doublings)

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        return {
            "sizes": plain(self.sizes),
            "accuracies": plain(self.accuracies),
            "held_out": self.held_out,
            "gain_per_doubling": self.gain_per_doubling,
        }

    def __str__(self) -> str:
        rows = [
            [str(size), percent(mean), percent(low), percent(high)]
            for size, mean, low, high in zip(
                self.sizes.tolist(),
                self.means.tolist(),
                self.accuracies.min(axis=1).tolist(),
                self.accuracies.max(axis=1).tolist(),
                strict=True,
            )
        ]
        return table(["images", "accuracy", "lowest", "highest"], rows, left=0)


def probe_score(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    folds: int = 5,
    penalty: float = 1e-2,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> ProbeScore:
    """Cross-validate a linear probe: each image is judged by a probe that has not seen it.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)``.
        folds: F; fewer where a class has fewer images (or groups).
        penalty: Weight of half the squared norm beside the mean loss, on standardised features.
        groups: ``(N,)`` group of each image (a patient): no group straddles folds.
        seed: Seed of the folds.

    Raises:
        DataError: Features that are not finite or all equal, fewer than two classes, or a class
            with fewer than two images or groups.
        ConfigError: Fewer than two folds, or a penalty that is not above zero.
    """
    if folds < 2:
        raise ConfigError(f"folds must be at least 2; {folds} came.")
    _check_penalty(penalty)
    matrix, truth = check_task(features, labels)
    classes = int(truth.max()) + 1
    probabilities = np.zeros((len(truth), classes))
    shares = []
    for train, held in _folds(truth, folds=folds, groups=groups, seed=seed):
        probe = _fit(matrix[train], truth[train], penalty, classes)
        probabilities[held] = softmax(probe.scores(matrix[held]), axis=1)
        shares.append(float(np.mean(probabilities[held].argmax(axis=1) == truth[held])))
    evaluation = evaluate_probabilities(
        probabilities, truth, classes=list(map(str, np.unique(np.asarray(labels))))
    )
    return ProbeScore(
        accuracy=evaluation.accuracy,
        interval=evaluation.accuracy_interval,
        folds=np.array(shares),
        evaluation=evaluation,
    )


def probe_curve(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    points: int = 5,
    repeats: int = 5,
    held_out: float = 0.25,
    penalty: float = 1e-2,
    seed: int = 0,
) -> ProbeCurve:
    """Learning curve of the linear probe: would more images help?

    Each repeat holds out its own stratified share and trains on nested parts of the rest, each
    twice as large as the one before.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)``.
        points: Sizes; fewer where the smallest would fall below two images a class.
        repeats: R.
        held_out: Share of the images to judge on.
        penalty: As for ``probe_score``.
        seed: Seed of the draws.

    Raises:
        DataError: As for ``probe_score``, or too few images for two sizes.
        ConfigError: Fewer than two points or one repeat, a share outside (0, 1), or a penalty
            that is not above zero.
    """
    if points < 2 or repeats < 1 or not 0 < held_out < 1:
        raise ConfigError("points must be at least 2, repeats at least 1, held_out in (0, 1).")
    _check_penalty(penalty)
    matrix, truth = check_task(features, labels)
    classes = int(truth.max()) + 1
    judged = max(classes, round(held_out * len(truth)))
    full = len(truth) - judged
    sizes = np.array([full // 2**step for step in range(points)][::-1])
    sizes = sizes[sizes >= 4 * classes]
    if len(sizes) < 2 or np.bincount(truth).min() < 2:
        raise DataError(
            f"A learning curve needs two images in each class and, for {classes} classes, "
            f"at least {11 * classes} in all; {len(truth)} came."
        )
    splitter = StratifiedShuffleSplit(repeats, test_size=judged, random_state=seed)
    columns = []
    for train, held in splitter.split(matrix, truth):
        order = interleave(rows_by_class(truth[train]), first=2)
        parts = [train[order[:size]] for size in sizes]
        models = [_fit(matrix[part], truth[part], penalty, classes) for part in parts]
        columns.append([float(np.mean(m.predict(matrix[held]) == truth[held])) for m in models])
    return ProbeCurve(sizes=sizes, accuracies=np.array(columns).T, held_out=judged)


def _check_penalty(penalty: float) -> None:
    if not penalty > 0:
        raise ConfigError(f"penalty must be above zero; {penalty!r} came.")


def _fit(features: Float64Array, labels: Int64Array, penalty: float, num_classes: int) -> Probe:
    return fit_probe(
        features, labels, num_classes=num_classes, strength=1 / (penalty * len(labels))
    )


def _folds(
    labels: Int64Array, *, folds: int, groups: ArrayLike | None, seed: int
) -> Iterator[tuple[Int64Array, Int64Array]]:
    if groups is None:
        fewest = int(np.bincount(labels).min())
        unit = "image"
    else:
        names = np.asarray(groups)
        if names.shape != labels.shape:
            raise DataError(f"groups must name one value per image; {names.shape} came.")
        fewest = min(len(np.unique(names[labels == k])) for k in np.unique(labels))
        unit = "group"
    if fewest < 2:
        raise DataError(f"Cross-validation needs at least two {unit}s of each class; one has one.")
    number = min(folds, fewest)
    if groups is None:
        yield from StratifiedKFold(number, shuffle=True, random_state=seed).split(labels, labels)
    else:
        splitter = StratifiedGroupKFold(number, shuffle=True, random_state=seed)
        yield from splitter.split(labels, labels, groups=names)
