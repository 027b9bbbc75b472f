"""Choosing a backbone without training it: scores on features, with their cost, round by round."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np
import torch

from transferkit._sampling import group_codes, shared_groups, stratified_order
from transferkit._typing import Float64Array, FloatArray, Int64Array
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


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """Images in an order of which every beginning is stratified, their labels and group codes."""

    images: ImageData
    labels: Int64Array
    groups: Int64Array | None

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
        self,
        sample: _Sample,
        size: int,
        by: RankBy,
        batch_size: int,
        device: torch.device | str | None,
        cache: Cache | None,
    ) -> None:
        """Score the first ``size`` images; at the first call, measure the speed of extraction."""
        images, where = sample.images, training_device(device, self.model)
        seen = len(self.features)
        if not seen:
            few = images.subset(np.arange(min(TIMED, len(images))))
            for _ in range(2):  # the first batch of a network is slow
                started = time.perf_counter()
                extract_features(self.model, few, batch_size=batch_size, device=where)
            self.speed = len(few) / (time.perf_counter() - started)
        more = images.subset(np.arange(seen, size))
        found = extract_features(
            self.model, more, batch_size=batch_size, device=where, cache=cache
        ).features
        found = check_telling(found, self.name, more.names)
        self.features = np.concatenate([self.features, found]) if seen else found
        self.score = FEATURE_SCORES[by](self.features, *sample.first(size))

    def row(self, sample: _Sample, by: RankBy) -> RankingRow:
        """The row of the ranking, from the images that it has been scored on."""
        seen = len(self.features)
        known = {by: self.score}
        others: tuple[RankBy, ...] = ("probe", "logme")
        for other in others:
            if other not in known:
                known[other] = FEATURE_SCORES[other](self.features, *sample.first(seen))
        return RankingRow(
            name=self.name,
            score=self.score,
            probe=known["probe"],
            logme=known["logme"],
            images=seen,
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
    repeats: int = 5,
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
        repeats: Parts of the images that the uncertainty is read from.
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
    by = score_named(by)
    check_backbones("names", names, weights)
    check_whole("max_images", max_images, least=1)
    check_whole("finalists", finalists, least=1)
    check_whole("repeats", repeats, least=2)
    check_whole("seed", seed)
    (train,) = require_splits(splits).require("train")
    sample, kept = _sample(train, max_images, seed), cache_named(cache)
    entrants, failed = _build(names, weights, image_size, seed)
    rounds: list[tuple[int, int]] = []
    dropped: list[RankingRow] = []
    for size in _sizes(len(entrants), finalists, sample, FEWEST * train.num_classes):
        rounds.append((size, len(entrants)))
        for entrant in entrants:
            entrant.judge(sample, size, by, batch_size, device, kept)
            if progress:
                print(f"{entrant.name}: {entrant.score:.4f} on {size}", file=sys.stderr, flush=True)
        entrants.sort(key=lambda entrant: -entrant.score)
        if size < len(sample.labels):
            keep = max(finalists, -(-len(entrants) // 2))
            dropped = [entrant.row(sample, by) for entrant in entrants[keep:]] + dropped
            entrants = entrants[:keep]
    final = _final(entrants, sample, by, repeats=repeats, seed=seed)
    return Ranking(by, (*final, *dropped, *failed), tuple(rounds))


def check_telling(features: FloatArray, backbone: str, images: Sequence[str]) -> Float64Array:
    """Return features (N, D) in float64; refuse those not finite, or equal for all images."""
    check_finite(features, what=f"Features of {backbone}", images=images)
    if len(features) > 1 and (features == features[0]).all():
        raise DataError(
            f"{backbone} gives all {len(features)} images equal features, which tell no class from "
            "another. Check its weights and its preprocessing."
        )
    return features.astype(np.float64)


def score_named(name: str) -> RankBy:
    """The score of that name, or an UnknownNameError."""
    for score in get_args(RankBy):
        if score == name:
            found: RankBy = score
            return found
    raise UnknownNameError.among("score", str(name), get_args(RankBy))


def _build(
    names: Sequence[str],
    weights: Weights | Mapping[str, Weights],
    image_size: int | tuple[int, int] | None,
    seed: int,
) -> tuple[list[_Entrant], list[RankingRow]]:
    """The networks; those that cannot be built are recorded, unless that is all of them."""
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


def _sample(train: ImageData, max_images: int, seed: int) -> _Sample:
    """At most ``max_images`` of train, at random, so that every beginning is stratified."""
    labels = train.require_labels("Ranking backbones")
    groups = shared_groups(train.groups, len(labels))
    order = stratified_order(labels, groups, rng=np.random.default_rng(seed))[:max_images]
    present, codes = np.unique(labels[order], return_inverse=True)
    fewest = np.bincount(codes).min()
    if fewest < 4 or len(present) < 2:
        raise DataError(
            "A ranking needs at least two classes of four images each, got "
            f"{len(present)} with at least {fewest}."
        )
    return _Sample(train.subset(order), codes, None if groups is None else groups[order])


def _sizes(candidates: int, finalists: int, sample: _Sample, fewest: int) -> list[int]:
    """Images of each round, the last all of them."""
    images, halvings = len(sample.labels), 0
    while candidates > finalists * 2**halvings:
        halvings += 1
    sizes = [max(images >> (halvings - i), min(fewest, images)) for i in range(halvings + 1)]
    return list(dict.fromkeys(sizes))


def _final(
    entrants: Sequence[_Entrant], sample: _Sample, by: RankBy, *, repeats: int, seed: int
) -> list[RankingRow]:
    """The rows of the last round, with the uncertainty of their order."""
    labels, groups = sample.first(len(sample.labels))
    found = score_uncertainty(
        [entrant.features for entrant in entrants],
        labels,
        by=by,
        groups=groups,
        repeats=repeats,
        seed=seed,
    )
    rows = []
    for entrant, ((low, high), best_share) in zip(entrants, found, strict=True):
        if by in ("probe", "knn"):  # accuracies
            low, high = max(low, 0.0), min(high, 1.0)
        row = entrant.row(sample, by)
        rows.append(replace(row, interval=(low, high), best_share=best_share))
    return rows
