"""The audit's comparison of splits: shift of statistics, features, outputs and class shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from transferkit._typing import Float64Array, FloatArray, Int64Array
from transferkit.audit.drivers import find_drivers
from transferkit.audit.finding import AuditConfig, Finding
from transferkit.audit.forecast import forecast_accuracy
from transferkit.audit.image_stats import ImageStatistics
from transferkit.audit.label_shift import label_shift_test
from transferkit.audit.priors import mlls
from transferkit.audit.probe import fit_probe
from transferkit.audit.shift import ShiftResult, ShiftTest, shift_test
from transferkit.audit.shift_findings import (
    driver_finding,
    forecast_findings,
    label_shift_finding,
    shift_findings,
)
from transferkit.data.dataset import ImageData, Splits
from transferkit.workflows.embedding import Embedding
from transferkit.workflows.gap import Groups

Pair = tuple[str, str]

COMPONENTS = 64
"""Principal components of the features that the shift tests look at."""
FEWEST = 2
"""Images that a split must have to be compared with another."""


def split_findings(splits: Splits, embedding: Embedding) -> list[Finding]:
    """Say what about the splits themselves keeps other checks from running."""
    width = next(iter(embedding.features.values())).shape[1]
    found = [_size_finding(name, len(data), width) for name, data in splits.items()]
    unlabelled = tuple(name for name, data in splits.items() if data.labels is None)
    if unlabelled:
        found.append(
            Finding(
                check="labels",
                severity="info" if len(unlabelled) < len(splits) else "warning",
                splits=unlabelled,
                statistic=len(unlabelled),
                message=f"No labels in {', '.join(unlabelled)}: there, nothing is compared within "
                "classes and no score is measured.",
            )
        )
    if all(np.ptp(part, axis=0).max() == 0 for part in embedding.features.values()):
        found.append(
            Finding(
                check="embedding",
                severity="warning",
                splits=tuple(splits),
                message="Every feature is constant within each split: the embedding sees no "
                "difference between images.",
                advice="Audit with another model.",
            )
        )
    return [finding for finding in [*found, *_empty_classes(splits)] if finding is not None]


def _size_finding(name: str, count: int, width: int) -> Finding | None:
    if count >= width:
        return None
    few = count < 10
    return Finding(
        check="few_images",
        severity="warning" if few else "info",
        splits=(name,),
        statistic=count,
        message=f"{name} has {count} image(s), fewer than the {width} features: only large shifts "
        "can be told from chance.",
        advice=f"Add images to {name}." if few else "",
    )


def _empty_classes(splits: Splits) -> list[Finding]:
    found = []
    for split, data in splits.items():
        if data.labels is None:
            continue
        absent = [c for c, n in zip(data.classes, data.class_counts(), strict=True) if n == 0]
        found += [
            Finding(
                check="empty_class",
                severity="error" if split == "train" else "warning",
                splits=(split,),
                class_name=name,
                statistic=0,
                message=f"{split} has no image of class {name}.",
                advice=f"Split again, stratified by class, or leave {name} out everywhere.",
            )
            for name in absent
        ]
    return found


def compressed(
    features: Mapping[str, FloatArray], *, width: int = COMPONENTS
) -> dict[str, FloatArray]:
    """Turn the features of all splits onto their ``width`` strongest common components.

    The components do not know which split an image is from, so tests on them keep their level.

    Args:
        features: Split to features (N, D).
        width: Components kept; fewer if there are fewer features or images.

    Returns:
        Split to components (N, width), in float64.
    """
    pooled = np.concatenate(list(features.values())).astype(np.float64)
    pooled -= pooled.mean(axis=0)
    spread, axes = np.linalg.eigh(pooled.T @ pooled)
    kept = axes[:, np.argsort(-spread)[: min(width, len(pooled))]]
    ends = np.cumsum([len(part) for part in features.values()])[:-1]
    return dict(zip(features, np.split(pooled @ kept, ends), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One split as the shift tests see it: at most so many rows of it."""

    data: ImageData
    rows: Int64Array
    features: FloatArray
    logits: Float64Array | None
    groups: Sequence[str] | None

    @property
    def names(self) -> list[str]:
        return [self.data.names[row] for row in self.rows]

    @property
    def labels(self) -> Int64Array | None:
        return None if self.data.labels is None else self.data.labels[self.rows]


def _side(
    splits: Splits, embedding: Embedding, name: str, groups: Groups, limit: int, seed: int
) -> _Side:
    rows = np.arange(len(splits[name]))
    if len(rows) > limit:
        rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    logits = None if embedding.logits is None else embedding.logits[name][rows]
    own = None if groups is None else [groups[name][row] for row in rows.tolist()]
    return _Side(splits[name], rows, embedding.features[name][rows], logits, own)


def shift_between(
    splits: Splits,
    measured: Mapping[str, ImageStatistics],
    embedding: Embedding,
    pair: Pair,
    *,
    groups: Groups,
    comparisons: int,
    alpha: float,
    config: AuditConfig,
    max_images: int,
    seed: int,
) -> list[Finding]:
    """Compare two splits by statistics, features and (with a classifier) outputs."""
    a, b = (_side(splits, embedding, n, groups, max_images, seed + i) for i, n in enumerate(pair))
    if min(len(a.rows), len(b.rows)) < FEWEST or _units(a, b) < FEWEST:
        message = f"{pair[0]} and {pair[1]} hold too few images or groups: nothing can be compared."
        return [Finding(check="shift", severity="warning", splits=pair, message=message)]
    kinds = 2 + (a.logits is not None)
    plan = _Comparison(pair, a, b, alpha, comparisons * kinds, config, splits.classes, seed)
    stats = [measured[name] for name in pair]
    values = [part.values[side.rows] for part, side in zip(stats, (a, b), strict=True)]
    found = plan.findings(
        "statistics_shift", plan.test(values[0], values[1], ("ks",), names=stats[0].names)
    )
    result = plan.test(a.features, b.features, ("mmd", "domain_classifier"))
    found += plan.findings("embedding_shift", result)
    if a.logits is not None and b.logits is not None:
        outputs = [softmax(logits, axis=1)[:, 1:] for logits in (a.logits, b.logits)]
        names = [f"p({name})" for name in splits.classes[1:]]
        found += plan.findings(
            "output_shift", plan.test(outputs[0], outputs[1], ("ks",), names=names)
        )
    return found + plan.drivers(result)


def _units(a: _Side, b: _Side) -> int:
    """Count the independent units: groups of both sides, or in the class that has the fewest."""
    if a.groups is None or b.groups is None:
        return len(a.rows) + len(b.rows)
    groups = np.array([*a.groups, *b.groups], np.str_)
    if a.labels is None or b.labels is None:
        return len(np.unique(groups))
    labels = np.concatenate([a.labels, b.labels])
    return min(len(np.unique(groups[labels == label])) for label in np.unique(labels))


@dataclass(frozen=True, slots=True, eq=False)
class _Comparison:
    """What the shift tests of one pair of splits share."""

    pair: Pair
    a: _Side
    b: _Side
    alpha: float
    comparisons: int
    config: AuditConfig
    classes: Sequence[str]
    seed: int

    @property
    def groups(self) -> tuple[Sequence[str], Sequence[str]] | None:
        if self.a.groups is None or self.b.groups is None:
            return None
        return self.a.groups, self.b.groups

    def test(
        self,
        first: FloatArray,
        second: FloatArray,
        tests: Sequence[ShiftTest],
        *,
        names: Sequence[str] | None = None,
    ) -> ShiftResult:
        """Test two matrices, within classes too where both sides have labels."""
        labels = (self.a.labels, self.b.labels)
        both = None if labels[0] is None or labels[1] is None else (labels[0], labels[1])
        return shift_test(
            first,
            second,
            labels=both,
            classes=self.classes if both is not None else None,
            names=names,
            groups=self.groups,
            tests=tests,
            alpha=self.alpha / self.comparisons,
            seed=self.seed,
        )

    def findings(self, check: str, result: ShiftResult) -> list[Finding]:
        """Turn a result into findings at the level of the whole audit."""
        return shift_findings(
            result,
            check=check,
            splits=self.pair,
            comparisons=self.comparisons,
            alpha=self.alpha,
            config=self.config,
        )

    def drivers(self, result: ShiftResult) -> list[Finding]:
        """Name the images that drive a shift, if there is one."""
        classifier = result.overall.classifier
        p_value = result.overall.p_value * self.comparisons
        if classifier is None or p_value > self.alpha:
            return []
        found = find_drivers(
            self.a.features,
            self.b.features,
            classifier,
            count=max(1, self.config.evidence // 2),
            groups=self.groups,
            seed=self.seed,
        )
        names = (self.a.names, self.b.names)
        return [driver_finding(found, splits=self.pair, names=names, config=self.config)]


def label_shifts(
    splits: Splits,
    pairs: Sequence[Pair],
    groups: Groups,
    alpha: float,
    config: AuditConfig,
    seed: int,
) -> list[Finding]:
    """Compare the class shares of every two labelled splits."""
    found = []
    for a, b in pairs:
        first, second = splits[a].labels, splits[b].labels
        if first is None or second is None or splits.num_classes < 2:
            continue
        result = label_shift_test(
            first,
            second,
            classes=splits.classes,
            groups=None if groups is None else (list(groups[a]), list(groups[b])),
            seed=seed,
        )
        found.append(
            label_shift_finding(
                result, splits=(a, b), comparisons=len(pairs), alpha=alpha, config=config
            )
        )
    return found


def forecasts(
    splits: Splits, embedding: Embedding, groups: Groups, config: AuditConfig, seed: int
) -> list[Finding]:
    """Forecast accuracy and class shares of the splits without labels, from val."""
    targets = [name for name, data in splits.items() if data.labels is None]
    source = splits.get("val")
    if not targets or source is None or source.labels is None:
        return []
    probabilities = _probabilities(splits, embedding)
    if probabilities is None or (source.class_counts() == 0).any():
        return []
    found = []
    for name in targets:
        own = None if groups is None else (list(groups["val"]), list(groups[name]))
        features = (embedding.features["val"], embedding.features[name])
        arrays = (probabilities["val"], source.labels, probabilities[name])
        forecast = forecast_accuracy(*arrays, features=features, groups=own, seed=seed)
        priors = mlls(*arrays, groups=own, seed=seed)
        found += forecast_findings(
            forecast, priors, splits=("val", name), classes=splits.classes, config=config
        )
    return found


def _probabilities(splits: Splits, embedding: Embedding) -> dict[str, Float64Array] | None:
    """Return class probabilities of every split: the classifier's, or those of a probe."""
    logits = embedding.logits
    if logits is None:
        train = splits.get("train")
        if train is None or train.labels is None or (train.class_counts() == 0).any():
            return None
        probe = fit_probe(embedding.features["train"], train.labels, num_classes=splits.num_classes)
        logits = {name: probe.scores(rows) for name, rows in embedding.features.items()}
    return {name: softmax(values, axis=1) for name, values in logits.items()}
