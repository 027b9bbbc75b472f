"""Choosing a backbone without training it: scores on features, with their cost, round by round."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, log2
from typing import TypeAlias

import numpy as np
import torch

from transferkit._sampling import group_codes, shared_groups, stratified_order
from transferkit._typing import Float64Array, Int64Array
from transferkit._validation import check_finite, check_whole
from transferkit.data.image_data import ImageData
from transferkit.data.splits import require_splits
from transferkit.errors import DataError, TransferkitError, UnknownNameError
from transferkit.models.classifier import Classifier, create_classifier
from transferkit.models.device import training_device
from transferkit.models.features import extract_features
from transferkit.models.prefix_cache import Cache, Where, cache_named
from transferkit.selection.ranking import (
    FEATURE_SCORES,
    RankBy,
    Ranking,
    RankingRow,
    score_uncertainty,
)
from transferkit.workflows.compare import Weights, check_backbones, weights_of

TIMED = 32
"""Images that a backbone's speed is measured on."""

FEWEST = 16
"""Images of each class in the first round, at the least."""

Extract: TypeAlias = Callable[[Classifier, ImageData, Cache | None], Float64Array]
"""Features (N, D) of images."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Images in an order of which every beginning is stratified, their labels and group codes."""

    images: ImageData
    labels: Int64Array
    groups: Int64Array | None

    @classmethod
    def of(cls, train: ImageData, size: int, seed: int, *, purpose: str) -> Sample:
        """At most ``size`` images of train, drawn at random; labels from 0, none left out."""
        labels = train.require_labels(purpose)
        groups = shared_groups(train.groups, len(labels))
        order = stratified_order(labels, groups, rng=np.random.default_rng(seed))[:size]
        codes = np.unique(labels[order], return_inverse=True)[1]
        return cls(train.subset(order), codes, None if groups is None else groups[order])

    def first(self, size: int) -> tuple[Int64Array, Int64Array | None]:
        """Labels and group codes (from 0, none left out) of the first images."""
        groups = None if self.groups is None else group_codes(self.groups[:size], size)
        return self.labels[:size], groups


@dataclass(slots=True, eq=False)
class _Entrant:
    """A backbone on its way through the rounds."""

    name: str
    model: Classifier
    features: Float64Array = field(default_factory=lambda: np.empty((0, 0)))
    speed: float = 0.0
    score: float = 0.0

    def judge(
        self, sample: Sample, size: int, by: RankBy, extract: Extract, cache: Cache | None
    ) -> None:
        """Score the first ``size`` images; at the first call, measure the speed of extraction."""
        seen = len(self.features)
        if not seen:
            few = sample.images.subset(np.arange(min(TIMED, len(sample.images))))
            for _ in range(2):  # the first batch of a network is slow
                started = time.perf_counter()
                extract(self.model, few, None)
            self.speed = len(few) / (time.perf_counter() - started)
        found = extract(self.model, sample.images.subset(np.arange(seen, size)), cache)
        self.features = np.concatenate([self.features, found]) if seen else found
        self.score = FEATURE_SCORES[by](self.features, *sample.first(size))

    def row(self, sample: Sample, by: RankBy) -> RankingRow:
        """The row of the ranking, from the images that it has been scored on."""
        labels, groups = sample.first(len(self.features))

        def score(other: RankBy) -> float:
            known = other == by
            return self.score if known else FEATURE_SCORES[other](self.features, labels, groups)

        return RankingRow(
            name=self.name,
            score=self.score,
            probe=score("probe"),
            logme=score("logme"),
            images=len(labels),
            images_per_second=self.speed,
            feature_dim=self.features.shape[1],
            num_params=sum(p.numel() for p in self.model.backbone.parameters()),
        )


def rank_backbones(
    names: Sequence[str],
    splits: Mapping[str, ImageData],
    *,
    by: RankBy = "probe",
    weights: Weights | Mapping[str, Weights] = "default",
    image_size: int | tuple[int, int] | None = None,
    max_images: int = 2000,
    finalists: int = 3,
    repeats: int = 10,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = False,
    cache: Cache | Where | None = None,
) -> Ranking:
    """Score backbones by their features on the train split; nothing is trained but probes.

    Successive halving: all backbones are scored on a part of the images, the better half goes on
    to twice as many, until ``finalists`` are left for all of them (K. Jamieson and A. Talwalkar,
    "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016). Val
    and test are not looked at. Where the images have groups (patients), no group is on both sides
    of a cross-validation.

    Args:
        names: Names of backbones; a tag may follow a dot.
        splits: With a labelled ``"train"``.
        by: ``"probe"``, the accuracy of a cross-validated linear probe; ``"logme"``, ``"knn"`` or
            ``"h_score"``. Probe and LogME are shown in any case: where they disagree, the probe
            has been the better guide.
        weights: As for ``create_classifier``; or a mapping from names, where those not in it take
            their default.
        image_size: Height and width of the networks' input; None takes the weights' own.
        max_images: Images of the last round, drawn stratified by class.
        finalists: Backbones in the last round, at the most.
        repeats: Parts of the images that the uncertainty is read from; more narrow the intervals
            little (benchmarks/ranking.py).
        batch_size: Batch size.
        device: Where to compute; by default a GPU if there is one.
        seed: Seed of the draws.
        progress: Print the score of each backbone on standard error.
        cache: Where to keep the features for later calls; by default nowhere.

    Raises:
        UnknownNameError: No such backbone or score.
        ConfigError: No name, or an option out of range.
        DataError: No labelled train split, or too few images of a class.
        WeightsError: No backbone at all could be built; the first reason.

    Example:
        >>> import transferkit as tk
        >>> splits = tk.phantom_splits(sizes=(80, 20, 20), image_size=32, seed=0)
        >>> names = ["transferkit/formula_resnet18", "torchvision/squeezenet1_1"]
        >>> random = {"torchvision/squeezenet1_1": None}  # no download here
        >>> ranking = tk.rank_backbones(names, splits, weights=random, image_size=32)
        >>> sorted(ranking.names) == sorted(names)
        True
    """
    if str(by) not in FEATURE_SCORES:
        raise UnknownNameError.among("score", str(by), FEATURE_SCORES)
    check_whole("max_images", max_images, least=1)
    check_whole("finalists", finalists, least=1)
    check_whole("repeats", repeats, least=2)
    check_whole("seed", seed)
    (train,) = require_splits(splits).require("train")
    sample = _sample(train, max_images, seed)
    extract, kept = partial(features_of, batch_size=batch_size, device=device), cache_named(cache)
    entrants, failed = _build(names, weights, image_size, seed)
    images, rounds, dropped = len(sample.labels), list[tuple[int, int]](), list[RankingRow]()
    for size in _sizes(len(entrants), finalists, images, FEWEST * train.num_classes):
        rounds.append((size, len(entrants)))
        for entrant in entrants:
            entrant.judge(sample, size, by, extract, kept)
            if progress:
                print(f"{entrant.name}: {entrant.score:.4f} on {size}", file=sys.stderr, flush=True)
        entrants.sort(key=lambda entrant: -entrant.score)
        if size < images:
            keep = max(finalists, -(-len(entrants) // 2))
            dropped = [entrant.row(sample, by) for entrant in entrants[keep:]] + dropped
            entrants = entrants[:keep]
    rows = (*_final(entrants, sample, by, repeats, seed), *dropped, *failed)
    return Ranking(by, rows, tuple(rounds))


def _sample(train: ImageData, max_images: int, seed: int) -> Sample:
    """The images to rank on: four at least of each of two classes."""
    sample = Sample.of(train, max_images, seed, purpose="Ranking backbones")
    fewest = np.bincount(sample.labels).min()
    if fewest < 4 or fewest == len(sample.labels):
        raise DataError(
            "A ranking needs at least two classes of four images each, got "
            f"{sample.labels.max() + 1} with at least {fewest}."
        )
    return sample


def _final(
    entrants: Sequence[_Entrant], sample: Sample, by: RankBy, repeats: int, seed: int
) -> list[RankingRow]:
    """The rows of the last round, with the uncertainty of their order."""
    features = [entrant.features for entrant in entrants]
    known = sample.first(len(sample.labels))
    found = score_uncertainty(features, *known, by=by, repeats=repeats, seed=seed)
    return [
        replace(entrant.row(sample, by), interval=interval, best_share=best_share)
        for entrant, (interval, best_share) in zip(entrants, found, strict=True)
    ]


def features_of(
    model: Classifier,
    images: ImageData,
    cache: Cache | None = None,
    *,
    batch_size: int,
    device: torch.device | str | None,
) -> Float64Array:
    """Features (N, D); refused where they are not finite, or equal for all images."""
    where = training_device(device, model)
    found = extract_features(model, images, batch_size=batch_size, device=where, cache=cache)
    features = found.features
    check_finite(features, what=f"Features of {model.name}", images=images.names)
    if len(features) > 1 and (features == features[0]).all():
        raise DataError(
            f"{model.name} gives all {len(features)} images equal features, which tell no class "
            "from another. Check its weights and its preprocessing."
        )
    return features.astype(np.float64)


def _build(
    names: Sequence[str],
    weights: Weights | Mapping[str, Weights],
    image_size: int | tuple[int, int] | None,
    seed: int,
) -> tuple[list[_Entrant], list[RankingRow]]:
    """The networks; those that cannot be built are recorded, unless that is all of them."""
    check_backbones("names", names, weights)
    entrants, failed, errors = [], [], []
    for name in dict.fromkeys(names):
        try:
            model = create_classifier(
                name, 2, weights=weights_of(name, weights), image_size=image_size, seed=seed
            )
            entrants.append(_Entrant(name if "." in name else model.name, model))
        except UnknownNameError:
            raise
        except TransferkitError as error:
            errors.append(error)
            failed.append(RankingRow(name=name, error=f"{type(error).__name__}: {error}"))
    if not entrants:
        raise errors[0]
    return entrants, failed


def _sizes(candidates: int, finalists: int, images: int, fewest: int) -> list[int]:
    """Images of each round, the last all of them."""
    halvings = max(0, ceil(log2(candidates / finalists)))
    sizes = (max(images >> step, min(fewest, images)) for step in range(halvings, -1, -1))
    return list(dict.fromkeys(sizes))
