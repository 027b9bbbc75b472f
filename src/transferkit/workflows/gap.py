"""The gap between val and test on features that are there, with groups and leaks resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from transferkit._typing import BoolArray, Float64Array, FloatArray, Int64Array
from transferkit.audit.decomposition import ScoredSplit, explain_scores
from transferkit.audit.duplicates import leaked_rows
from transferkit.audit.gap import Estimate, GapReport
from transferkit.audit.groups import straddling_rows
from transferkit.audit.hashing import content_hashes
from transferkit.audit.optimism import choice_optimism
from transferkit.audit.probe import fit_probe
from transferkit.audit.reshuffle import SEEDS, reshuffle, right_by_strength, swap
from transferkit.data.dataset import ImageData, Splits, require_splits
from transferkit.data.splits import groups_from_names
from transferkit.errors import ConfigError, DataError
from transferkit.workflows.embedding import Embedding

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
