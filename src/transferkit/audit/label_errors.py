"""Label errors: labels that a probe contradicts, which was trained on other images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit

from transferkit._format import percent, percent_interval
from transferkit._sampling import fold_numbers, group_codes
from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array
from transferkit.audit.audit_data import AuditData, main_components
from transferkit.audit.finding import Evidence, Finding
from transferkit.metrics.logistic_regression import solve_path

_FOLDS = 5
_PENALTIES = (1.0, 0.1, 0.01, 0.001)
_FEWEST = 10  # groups, or images, of a class whose labels are judged
_MANY = 20  # classes from which on the main components of the features serve
_TOLERATED = 0.01  # share of wrong labels that hard images may look like


class NoiseRate(NamedTuple):
    """Share of wrong labels, its interval, and the p-value of at most 1 % being wrong."""

    value: float
    interval: tuple[float, float]
    p_value: float


def label_errors(data: AuditData) -> Iterator[Finding]:
    """Images whose label is likely wrong, and whether more are than overlapping classes explain."""
    if not data.labels:
        return
    parts = [data.splits[split] for split in data.labels]
    features = np.concatenate([part.features for part in parts])
    labels = np.concatenate(list(data.labels.values()))
    groups = [] if data.groups is None else [g for n in data.labels for g in data.groups[n]]
    codes = group_codes(groups or None, len(labels))
    counts = [len(np.unique(codes[labels == k])) for k in range(len(data.classes))]
    known = np.flatnonzero(np.array(counts)[labels] >= _FEWEST)  # images of the larger classes
    # numbered by name, so that the draw of folds does not depend on the order of the classes
    classes, own = np.unique(np.array(data.classes)[labels[known]], return_inverse=True)
    codes = group_codes(codes[known], len(known))
    if len(classes) < 2:
        return
    features = features[known]
    probabilities = out_of_fold_probabilities(features, own, len(classes), codes, seed=data.seed)
    names = np.array([name for part in parts for name in part.names])
    doubtful = _doubtful(probabilities, own, classes, names[known].tolist())
    rate = noise_rate(probabilities, own, codes)
    p_value = min(1.0, rate.p_value * data.comparisons("label_errors"))
    severity = data.config.label_errors.severity(
        rate.value, interval=rate.interval, p_value=p_value, alpha=data.alpha
    )
    proven = severity != "info"
    yield Finding(
        check="label_errors",
        severity=severity,
        splits=tuple(data.labels),
        statistic=len(doubtful),
        p_value=p_value,
        effect=rate.value,
        interval=rate.interval,
        message=f"Probes trained on other images contradict the labels of {len(doubtful)} of "
        f"{len(own)} images, by confident learning. Some {percent_interval(*rate[:2])} of all "
        f"labels seem wrong{'.' if proven else ', no more than overlapping classes may explain.'}",
        evidence=tuple(doubtful[: data.config.evidence]),
        advice="Have these labels checked, the most doubtful first." * proven,
    )


def _doubtful(
    probabilities: Float64Array, labels: Int64Array, classes: NDArray[np.str_], names: list[str]
) -> list[Evidence]:
    """Evidence of the labels that are likely wrong, the most doubtful first."""
    wrong, likely = confident_errors(probabilities, labels)
    each = np.arange(len(labels))
    certainty = probabilities[each, likely]
    margin = certainty - probabilities[each, labels]
    rows = np.flatnonzero(wrong)
    return [
        Evidence(
            (names[row],),
            f"labelled {classes[labels[row]]}, by the others {classes[likely[row]]} "
            f"({percent(float(certainty[row]))})",
        )
        for row in rows[np.argsort(-margin[rows], kind="stable")].tolist()
    ]


def out_of_fold_probabilities(
    features: FloatArray, labels: Int64Array, num_classes: int, groups: Int64Array, *, seed: int
) -> Float64Array:
    """Probabilities (N, K) by probes on other groups, of the penalty that predicts labels best."""
    if num_classes > _MANY:
        features = main_components({"all": features})["all"]
    folds = fold_numbers(labels, _FOLDS, groups, rng=np.random.default_rng([seed, 3]))
    logs = np.zeros((len(_PENALTIES), len(labels), num_classes))
    for fold in np.unique(folds):
        held, rest = folds == fold, folds != fold
        path = solve_path(
            features[rest], labels[rest], num_classes, penalties=_PENALTIES, tolerance=1e-4
        )
        for place, probe in enumerate(path):
            logs[place, held] = log_softmax(probe.scores(features[held]), axis=1)
    best = logs[:, np.arange(len(labels)), labels].mean(axis=1).argmax()
    probabilities: Float64Array = np.exp(logs[best])
    return probabilities


def confident_errors(
    probabilities: Float64Array, labels: Int64Array
) -> tuple[BoolArray, Int64Array]:
    """Which images (N,) are likely mislabelled, and the class (N,) that each likely has.

    Confident learning: C. Northcutt, L. Jiang and I. Chuang, "Confident learning: estimating
    uncertainty in dataset labels" (2021), off the diagonal of the confident joint. As in cleanlab,
    images whose given label is also predicted are left out.
    """
    classes = np.arange(probabilities.shape[1])
    # An image counts for class k if its probability reaches the mean one of those labelled k.
    least = np.array(
        [probabilities[labels == k, k].mean() if (labels == k).any() else 2.0 for k in classes]
    )
    confident = np.where(probabilities >= least, probabilities, 0.0)
    likely = confident.argmax(axis=1)
    wrong = (confident.max(axis=1) > 0) & (likely != labels)
    return wrong & (probabilities.argmax(axis=1) != labels), likely


# Where classes overlap, a probe errs near their boundary, ever more seldom away from it; wrong
# labels are as many everywhere. Let the probe give its class probability q, let s = expit(a + b
# logit(q)) be how often it is right then, a and b free as its confidence may be off, and e the
# share of wrong labels, which is any other class's. Its class is then the given one with
# probability s (1 - e) + (1 - s) e / (K - 1): a logistic regression with a floor.
def noise_rate(probabilities: Float64Array, labels: Int64Array, groups: Int64Array) -> NoiseRate:
    """Estimate the share of wrong labels by maximum likelihood; its interval is at 95 %."""
    depth = logit(np.clip(probabilities.max(axis=1), 1e-6, 1 - 1e-6))
    agrees = probabilities.argmax(axis=1) == labels
    others = probabilities.shape[1] - 1
    weight = 1 / np.bincount(groups)[groups]  # images of a group may share their error

    def loss(parameters: Float64Array, e: float) -> float:
        s = expit(parameters[0] + np.exp(parameters[1]) * depth)
        right = np.clip(s * (1 - e) + (1 - s) * e / others, 1e-9, 1 - 1e-9)
        return -float((weight * np.log(np.where(agrees, right, 1 - right))).sum())

    # the likelihood may have two maxima in e: a grid finds the higher one
    rates = np.concatenate([[0.0], _TOLERATED * 2 ** (np.arange(-12, 22) / 4)])
    losses = [minimize(loss, (0.0, 0.0), (e,), method="Nelder-Mead").fun for e in rates.tolist()]
    excess = 2 * (np.array(losses) - min(losses))  # chi-square, at the true rate
    inside = np.flatnonzero(excess <= stats.chi2.isf(0.05, 1))
    interval = rates[max(0, inside[0] - 1)], rates[min(len(rates) - 1, inside[-1] + 1)]
    best = float(rates[excess.argmin()])
    few = float(stats.chi2.sf(excess[rates <= _TOLERATED].min(), 1) / 2)
    return NoiseRate(best, (float(interval[0]), float(interval[1])), few)
