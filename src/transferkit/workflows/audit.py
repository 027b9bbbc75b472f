"""The audit of a dataset: ``transferkit.audit_splits`` and ``transferkit.explain_gap``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypeAlias, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from threadpoolctl import threadpool_limits
from torch import nn

from transferkit._format import describe
from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array, UInt8Array
from transferkit._validation import check_finite, check_number, check_sequence, check_whole
from transferkit._version import __version__
from transferkit.audit.audit_data import content_hashes
from transferkit.audit.checks_copies import (
    check_exact_duplicates,
    check_groups,
    check_near_duplicates,
    leaked_rows,
    straddling_rows,
)
from transferkit.audit.checks_gap import gap_findings
from transferkit.audit.checks_images import (
    check_blank,
    check_low_information,
    check_odd_sizes,
    check_outlying,
    check_sizes,
    check_truncated,
    check_unreadable,
)
from transferkit.audit.checks_labels import check_label_conflicts, check_shortcuts
from transferkit.audit.checks_shift import (
    ShiftResult,
    ShiftTest,
    driver_finding,
    forecast_findings,
    label_shift_finding,
    shift_findings,
    shift_test,
)
from transferkit.audit.finding import AuditConfig, Finding, SplitSummary
from transferkit.audit.forecast import forecast_accuracy
from transferkit.audit.gap import Estimate, GapReport
from transferkit.audit.gap_parts import ScoredSplit, choice_optimism, explain_scores
from transferkit.audit.html import thumbnail
from transferkit.audit.image_statistics import ImageStatistics, corner_statistics, image_statistics
from transferkit.audit.label_shift import label_shift_test
from transferkit.audit.label_shift_estimation import mlls
from transferkit.audit.near_duplicates import DuplicatePairs, near_duplicate_pairs
from transferkit.audit.report import AuditReport
from transferkit.audit.reshuffle import SEEDS, reshuffle, right_by_strength, swap
from transferkit.audit.shift_drivers import find_drivers
from transferkit.data.image_data import ImageData, Splits, require_splits
from transferkit.data.splitting import groups_from_names
from transferkit.errors import ConfigError, DataError
from transferkit.metrics.logistic_probe import fit_probe
from transferkit.models.classifier import Classifier, create_classifier
from transferkit.models.device import device_of
from transferkit.models.features import extract_features
from transferkit.models.prefix_cache import Cache, Where, in_eval_mode

DEFAULT_BACKBONE = "transferkit/formula_resnet18"
"""The backbone that comes with the package: nothing is downloaded."""

FeaturesOf: TypeAlias = Callable[[UInt8Array], FloatArray]
"""Images (N, H, W, C) to features (N, D)."""

Embedder: TypeAlias = "Classifier | str | FeaturesOf | None"


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """The splits as arrays.

    Attributes:
        features: Split to features (N, D).
        logits: Split to the classifier's own logits (N, K), or None without a classifier.
        title: What made the features, in words.
    """

    features: Mapping[str, FloatArray]
    logits: Mapping[str, Float64Array] | None
    title: str


def embed(
    splits: Splits,
    model: Embedder,
    *,
    batch_size: int = 64,
    cache: Cache | Where | None = None,
) -> Embedding:
    """Run the images of all splits through ``model`` once.

    Args:
        splits: The images.
        model: A classifier, whose logits are kept too; the name of a backbone, with its default
            weights; a function of images; None takes the embedded backbone.
        batch_size: Images a batch.
        cache: Where to keep the features of a classifier or a backbone for later calls.

    Raises:
        DataError: The classifier has another number of classes than the splits, or features are
            not (N, D) or hold NaN or infinity (named by image).
        ConfigError: ``model`` is none of these.
        UnknownNameError: No backbone goes by the name.
        WeightsError: Its default weights cannot be had.
    """
    if isinstance(model, Classifier):
        return _by_classifier(splits, model, batch_size, cache)
    if model is None or isinstance(model, str):
        name = model or DEFAULT_BACKBONE
        backbone = create_classifier(name, max(2, splits.num_classes), seed=0)
        features = _by_classifier(splits, backbone, batch_size, cache, check_classes=False).features
        return Embedding(features, None, f"{name} features")
    if not _is_function(model):
        raise ConfigError(
            "model must be a Classifier, the name of a backbone, a function of images or None, "
            f"got {describe(model)}"
        )
    features = {name: np.asarray(model(data.images)) for name, data in splits.items()}
    for name, data in splits.items():
        _check(features[name], data, name)
    return Embedding(features, None, "the given features")


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, type | nn.Module)


def _by_classifier(
    splits: Splits,
    model: Classifier,
    batch_size: int,
    cache: Cache | Where | None,
    *,
    check_classes: bool = True,
) -> Embedding:
    if check_classes and model.num_classes != splits.num_classes:
        raise DataError(
            f"the model has {model.num_classes} classes and the splits {splits.num_classes}; "
            "audit with a model that was built for these classes"
        )
    features: dict[str, FloatArray] = {}
    logits: dict[str, Float64Array] = {}
    for name, data in splits.items():
        found = extract_features(model, data, batch_size=batch_size, cache=cache)
        _check(found.features, data, name)
        features[name], logits[name] = found.features, _logits(model, found.features)
    return Embedding(features, logits, f"features of {model.name}")


def _logits(model: Classifier, features: FloatArray) -> Float64Array:
    """What the head makes of features (N, D): (N, K)."""
    with in_eval_mode(model), torch.inference_mode():
        logits = model.head(torch.from_numpy(features).to(device_of(model)))
    found: Float64Array = logits.double().cpu().numpy()
    return found


def _check(features: FloatArray, data: ImageData, split: str) -> None:
    if features.ndim != 2 or len(features) != len(data):
        raise DataError(
            f"expected features of {split} of shape ({len(data)}, D), got {features.shape}"
        )
    check_finite(features, what=f"Features of {split}", images=data.names)


NAMES = ("train", "val", "test")

GroupsOption = str | Mapping[str, Sequence[str]] | None
Groups = Mapping[str, Sequence[str]] | None


def labelled_three(splits: Mapping[str, ImageData]) -> Splits:
    """Return train, val and test, labelled.

    Raises:
        DataError: One is missing or has no labels.
    """
    whole = require_splits(splits)
    for name, data in zip(NAMES, whole.require(*NAMES), strict=True):
        data.require_labels(f"Explaining the gap (the {name} split)")
    return Splits({name: whole[name] for name in NAMES})


def resolve_groups(splits: Splits, groups: GroupsOption) -> Groups:
    """Return one group per image of each split, or None.

    Raises:
        ConfigError: A pattern that fits no name, or groups of the wrong kind.
        DataError: Not one group per image of each split.
    """
    if groups is None:
        found = {name: data.groups for name, data in splits.items() if data.groups is not None}
        return found if len(found) == len(splits) else None
    if isinstance(groups, str):
        every = [name for data in splits.values() for name in data.names]
        pooled = iter(groups_from_names(every, groups))
        return {name: [next(pooled) for _ in range(len(data))] for name, data in splits.items()}
    if not isinstance(groups, Mapping):
        raise ConfigError(
            "groups must be a regular expression or a mapping of split to one group per image, "
            f"got {type(groups).__name__}"
        )
    for name, data in splits.items():
        came = _count(groups.get(name, ()))
        if came != len(data):
            raise DataError(f"expected {len(data)} groups for the split {name}, got {came}")
    return {name: [str(group) for group in groups[name]] for name in splits}


def _count(groups: object) -> int | str:
    """How many groups came, or what came in their place."""
    many = isinstance(groups, Sequence | np.ndarray) and not isinstance(groups, str)
    return len(cast(Sequence[object], groups)) if many else repr(groups)


def leaked_from_train(splits: Splits, groups: Groups) -> dict[str, BoolArray]:
    """Mark the images of val and test that are pixel-identical to one of train, or of its groups.

    Returns:
        Split to marks (N,).
    """
    hashes = {name: content_hashes(data.images) for name, data in splits.items()}
    leaked = {name: leaked_rows(hashes[name], [hashes["train"]]) for name in ("val", "test")}
    if groups is not None:
        for name in leaked:
            leaked[name] = leaked[name] | straddling_rows(groups[name], groups["train"])
    return leaked


def gap_of(
    splits: Splits,
    embedding: Embedding,
    *,
    groups: Groups = None,
    leaked: Mapping[str, BoolArray] | None = None,
    epoch_predictions: ArrayLike | None = None,
    seeds: Sequence[int] = SEEDS,
    samples: int = 1000,
    seed: int = 0,
) -> GapReport:
    """Explain the gap on features that are already there; see :func:`transferkit.explain_gap`."""
    labels = {name: splits[name].require_labels("Explaining the gap") for name in NAMES}
    features = {name: embedding.features[name] for name in NAMES}
    count = splits.num_classes
    scores = _scores(embedding, features["train"], labels["train"], count)
    sides = [
        ScoredSplit(
            labels[name],
            scores[name],
            None if groups is None else groups[name],
            None if leaked is None else leaked[name],
        )
        for name in ("val", "test")
    ]
    report = explain_scores(sides[0], sides[1], classes=splits.classes, samples=samples, seed=seed)
    experiment = reshuffle(features, labels, groups=groups, num_classes=count, seeds=seeds)
    return replace(
        report,
        scored="the classifier" if embedding.logits else f"a probe on {embedding.title}",
        optimism=_optimism(epoch_predictions, features, labels, groups, count, seed),
        reshuffled=experiment.reshuffled,
        reshuffled_by_group=experiment.reshuffled_by_group,
        group_gain=experiment.group_gain,
        experiment=experiment,
        swap=swap(features, labels, num_classes=count),
    )


def _scores(
    embedding: Embedding, features: FloatArray, labels: Int64Array, count: int
) -> Mapping[str, Float64Array]:
    if embedding.logits is not None:
        return embedding.logits
    probe = fit_probe(features, labels, num_classes=count)
    return {name: probe.scores(embedding.features[name]) for name in ("val", "test")}


def _optimism(
    epoch_predictions: ArrayLike | None,
    features: Mapping[str, FloatArray],
    labels: Mapping[str, Int64Array],
    groups: Groups,
    count: int,
    seed: int,
) -> Estimate | None:
    if epoch_predictions is None:
        right = right_by_strength(features, labels, "val", count)
    else:
        predicted = np.asarray(epoch_predictions)
        if predicted.ndim != 2 or predicted.shape[1] != len(labels["val"]):
            raise DataError(
                f"expected epoch_predictions of shape (epochs, {len(labels['val'])}), "
                f"got {predicted.shape}"
            )
        right = predicted == labels["val"]
    own = None if groups is None else groups["val"]
    units = len(labels["val"]) if own is None else len(set(own))
    if units < 2:
        return None
    return choice_optimism(right, groups=own, seed=seed)


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """Which images are the same.

    Attributes:
        hashes: Split to content hashes (N,).
        near: Edited copies among all images, numbered through the splits, or None.
    """

    hashes: Mapping[str, NDArray[np.bytes_]]
    near: DuplicatePairs | None

    @classmethod
    def of(cls, splits: Splits, *, near: bool) -> Copies:
        """Look for copies in all splits."""
        images = [data.images for data in splits.values()]
        return cls(
            {name: content_hashes(data.images) for name, data in splits.items()},
            near_duplicate_pairs(images) if near else None,
        )


def copy_findings(
    splits: Splits, copies: Copies, groups: Groups, config: AuditConfig
) -> list[Finding]:
    """Check for duplicates, near-duplicates, straddling groups and contradicting labels."""
    names = {split: data.names for split, data in splits.items()}
    pooled_names = [name for data in splits.values() for name in data.names]
    pooled = np.concatenate(list(copies.hashes.values()))
    found = check_exact_duplicates(copies.hashes, names=names, config=config)
    if copies.near is not None:
        of = [split for split, data in splits.items() for _ in range(len(data))]
        found += check_near_duplicates(
            copies.near, split_of=of, names=pooled_names, hashes=pooled, config=config
        )
    if groups is not None:
        found += check_groups(groups, names=names, config=config)
    if labelled := [split for split, data in splits.items() if data.labels is not None]:
        found.append(_conflicts(splits, labelled, copies, config))
    return found


def _conflicts(splits: Splits, labelled: list[str], copies: Copies, config: AuditConfig) -> Finding:
    parts = [splits[name] for name in labelled]
    return check_label_conflicts(
        np.concatenate([copies.hashes[name] for name in labelled]),
        np.concatenate([data.require_labels("Comparing labels") for data in parts]),
        classes=splits.classes,
        names=[name for data in parts for name in data.names],
        splits=labelled,
        near=copies.near if len(labelled) == len(splits) else None,
        config=config,
    )


def image_findings(
    splits: Splits, stats: Mapping[str, ImageStatistics], config: AuditConfig, alpha: float
) -> list[Finding]:
    """Check every image, and look for shortcuts to the labels."""
    skipped = [(file.path, file.reason) for file in splits.skipped]
    total = sum(len(data) for data in splits.values())
    found = [check_unreadable(skipped, total=total, config=config)]
    found += check_sizes(stats, config=config)
    for split, data in splits.items():
        found.append(check_truncated(data.images, names=data.names, split=split, config=config))
        for check in (check_blank, check_low_information, check_odd_sizes, check_outlying):
            found.append(check(stats[split], names=data.names, split=split, config=config))
        if data.labels is not None:
            found += _shortcuts(data, split, stats[split], config, alpha)
    return found


def measured(data: ImageData) -> ImageStatistics:
    """Measure the images of a split, with their original sizes."""
    return image_statistics(data.images, sizes=data.sizes)


def _shortcuts(
    data: ImageData, split: str, stats: ImageStatistics, config: AuditConfig, alpha: float
) -> list[Finding]:
    corners = corner_statistics(data.images)
    both = ImageStatistics(
        np.hstack([stats.values, corners.values]), (*stats.names, *corners.names)
    )
    return check_shortcuts(
        both,
        data.require_labels("Looking for shortcuts"),
        classes=data.classes,
        split=split,
        names=data.names,
        config=config,
        alpha=alpha,
    )


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


def audit_splits(
    splits: Mapping[str, ImageData],
    *,
    model: Embedder = None,
    groups: GroupsOption = None,
    alpha: float = 0.05,
    config: AuditConfig | None = None,
    near_duplicates: bool = True,
    seeds: Sequence[int] = SEEDS,
    max_images: int = 2000,
    seed: int = 0,
    batch_size: int = 64,
    cache: Cache | Where | None = None,
) -> AuditReport:
    """Audit a dataset: leaks, shift, labels, images, and the gap between val and test.

    Args:
        splits: Split to images; any names. With labelled train, val and test the gap is explained
            too; splits without labels get a forecast instead.
        model: A trained :class:`~transferkit.Classifier`, whose outputs are tested for shift and
            whose gap is explained; the name of a backbone; a function of images (N, H, W, C) to
            features (N, D); None takes the embedded backbone, and downloads nothing.
        groups: What must not straddle splits: a regular expression whose match in a file name is
            the group, or a mapping of split to one group per image; None takes the groups of the
            data, if there are.
        alpha: Chance of a false alarm among all shift tests together.
        config: Severity thresholds.
        near_duplicates: Whether to look for edited copies, the slowest of the checks.
        seeds: Seeds of the reshuffle experiment.
        max_images: Images of a split that the shift tests use; of larger splits, as many are
            drawn at random.
        seed: Seed of everything drawn.
        batch_size: Images a batch, when features are computed.
        cache: Where to keep the features for later calls; by default nowhere.

    Raises:
        DataError: No split or an empty one, a model of other classes, features with NaN.
        ConfigError: An option cannot work.

    Example:
        >>> import transferkit as tk
        >>> leak = {("train", "test"): 4}
        >>> splits = tk.phantom_splits(sizes=(60, 30, 30), image_size=32, duplicates=leak, seed=0)
        >>> report = tk.audit_splits(splits, near_duplicates=False)
        >>> report.ok
        False
        >>> [f.message for f in report.findings if f.check == "exact_duplicates"]
        ['4 of 30 images of test are pixel-identical to images of train.']
    """
    check_number("alpha", alpha, above=0, below=1)
    check_whole("max_images", max_images, least=2)
    check_seeds(seed, seeds)
    if not isinstance(config, AuditConfig | None):
        raise ConfigError(f"config must be an AuditConfig, got {config!r}.")
    config = config or AuditConfig()
    whole = with_unique_names(splits)
    named = resolve_groups(whole, groups)
    embedding = embed(whole, model, batch_size=batch_size, cache=cache)
    with one_blas_thread():
        copies = Copies.of(whole, near=near_duplicates)
        stats = {name: measured(data) for name, data in whole.items()}
        gap = _gap(whole, embedding, named, seeds, seed)
        findings = [
            *split_findings(whole, embedding),
            *copy_findings(whole, copies, named, config),
            *image_findings(whole, stats, config, alpha),
            *_shifts(whole, stats, embedding, named, alpha, config, max_images, seed),
            *forecasts(whole, embedding, named, config, seed),
            *(gap_findings(gap, config) if gap is not None else []),
        ]
    return AuditReport(
        findings=tuple(findings),
        splits=tuple(_summary(name, data) for name, data in whole.items()),
        gap=gap,
        settings={
            "transferkit": __version__,
            "embedding": embedding.title,
            "alpha": f"{alpha:g}",
            "groups": _groups_in_words(groups, named),
            "seed": str(seed),
        },
        thumbnails=_thumbnails(whole, findings),
    )


def explain_gap(
    splits: Mapping[str, ImageData],
    *,
    model: Embedder = None,
    groups: GroupsOption = None,
    epoch_predictions: ArrayLike | None = None,
    seeds: Sequence[int] = SEEDS,
    samples: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    cache: Cache | Where | None = None,
) -> GapReport:
    """Explain the gap between the accuracy on val and on test.

    Prior shift and the within-class shift of each class add up to the gap exactly. Beside them:
    what a moved threshold would bring back, what leaked images and the choice of the best epoch
    add to val, the noise of the samples, the reshuffle experiment (at random and by group) and
    the swap of val and test.

    Args:
        splits: Labelled train, val and test.
        model: A trained :class:`~transferkit.Classifier`, whose own scores are explained; the
            name of a backbone, or a function of images to features, on which a probe (logistic
            regression) is trained on train; None takes the embedded backbone. The reshuffle
            experiment always trains probes on the features. A backbone that was itself trained
            on train flatters them: give it by name, untrained on these images.
        groups: What must not straddle splits: a regular expression whose match in a file name is
            the group, or a mapping of split to one group per image; None takes the groups of the
            data, if there are.
        epoch_predictions: Predicted classes of val after each epoch (E, N), to measure what
            choosing the best epoch adds; without them, choosing the best of five regularisation
            strengths of the probe is measured.
        seeds: Seeds of the reshuffle experiment, one re-split each.
        samples: Bootstrap draws.
        seed: Seed of the bootstrap.
        batch_size: Images a batch, when features are computed.
        cache: Where to keep the features for later calls; by default nowhere.

    Raises:
        DataError: A split or its labels are missing, or arrays do not fit.
        ConfigError: An option cannot work.

    Example:
        >>> import transferkit as tk
        >>> splits = tk.phantom_splits(sizes=(120, 60, 60), image_size=32, seed=0)
        >>> report = tk.explain_gap(splits, seeds=range(2), samples=100)
        >>> list(report.parts)
        ['prior shift', 'within normal', 'within pneumonia']
        >>> total = sum(part.value for part in report.parts.values())
        >>> abs(total - (report.val_score - report.test_score)) < 1e-9
        True
    """
    check_seeds(seed, seeds)
    check_whole("samples", samples, least=1)
    three = labelled_three(splits)
    named = resolve_groups(three, groups)
    embedding = embed(three, model, batch_size=batch_size, cache=cache)
    with one_blas_thread():
        return gap_of(
            three,
            embedding,
            groups=named,
            leaked=leaked_from_train(three, named),
            epoch_predictions=epoch_predictions,
            seeds=seeds,
            samples=samples,
            seed=seed,
        )


def check_seeds(seed: object, seeds: Sequence[object]) -> None:
    """See that seeds are whole numbers.

    Raises:
        ConfigError: They are not.
    """
    check_whole("seed", seed)
    check_sequence("seeds", seeds)
    for one in seeds:
        check_whole("Each of seeds", one)


def one_blas_thread() -> AbstractContextManager[object]:
    """Keep NumPy's products on one thread: thousands of small ones wait for each other on more.

    On a busy machine with two threads the audit of 2400 X-rays took ten times the processor time.
    """
    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


def with_unique_names(splits: Mapping[str, ImageData]) -> Splits:
    """Return the splits; where they share file names, with the split put before each."""
    whole = require_splits(splits)
    every = [name for data in whole.values() for name in data.names]
    if len(set(every)) == len(every):
        return whole
    renamed = {
        split: ImageData(
            data.images,
            data.labels,
            classes=data.classes,
            names=[f"{split}/{name}" for name in data.names],
            sizes=data.sizes,
            groups=data.groups,
        )
        for split, data in whole.items()
    }
    return Splits(renamed, skipped=whole.skipped)


def _gap(
    splits: Splits, embedding: Embedding, groups: Groups, seeds: Sequence[int], seed: int
) -> GapReport | None:
    """Explain the gap where train, val and test have labels, and train has two classes."""
    if any(name not in splits or splits[name].labels is None for name in NAMES):
        return None
    if (splits["train"].class_counts() > 0).sum() < 2:
        return None
    three = labelled_three(splits)
    leaked = leaked_from_train(three, groups)
    return gap_of(three, embedding, groups=groups, leaked=leaked, seeds=seeds, seed=seed)


def _shifts(
    splits: Splits,
    stats: Mapping[str, ImageStatistics],
    embedding: Embedding,
    groups: Groups,
    alpha: float,
    config: AuditConfig,
    max_images: int,
    seed: int,
) -> list[Finding]:
    pairs = list(combinations(splits, 2))
    strongest = replace(embedding, features=compressed(embedding.features))
    found = label_shifts(splits, pairs, groups, alpha, config, seed)
    for pair in pairs:
        found += shift_between(
            splits,
            stats,
            strongest,
            pair,
            groups=groups,
            comparisons=len(pairs),
            alpha=alpha,
            config=config,
            max_images=max_images,
            seed=seed,
        )
    return found


def _summary(name: str, data: ImageData) -> SplitSummary:
    counts = (
        {} if data.labels is None else dict(zip(data.classes, data.class_counts(), strict=True))
    )
    height, width, channels = data.images.shape[1:]
    return SplitSummary(
        name,
        len(data),
        (height, width, channels),
        {label: int(count) for label, count in counts.items()},
    )


def _groups_in_words(option: GroupsOption, groups: Groups) -> str:
    if groups is None:
        return "none"
    count = len({group for values in groups.values() for group in values})
    return f"{count} by '{option}'" if isinstance(option, str) else f"{count} given"


def _thumbnails(splits: Splits, findings: Sequence[Finding]) -> dict[str, bytes]:
    """Shrink the images that findings name."""
    wanted = {name for f in findings for item in f.evidence for name in item.names}
    return {
        name: thumbnail(data.images[row])
        for data in splits.values()
        for row, name in enumerate(data.names)
        if name in wanted
    }
