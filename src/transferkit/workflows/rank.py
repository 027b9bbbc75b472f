"""Choosing a backbone without training it: scores on features, with their cost, round by round."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, TypeAlias, get_args

import numpy as np

from transferkit._format import percent, plain, table
from transferkit._sampling import interleave, rows_by_class
from transferkit._typing import JSON, FloatArray, Int64Array
from transferkit._validation import check_whole
from transferkit.data.image_data import ImageData, require_splits
from transferkit.errors import DataError, TransferkitError, UnknownNameError
from transferkit.models.classifier import Classifier, create_classifier
from transferkit.models.device import training_device
from transferkit.models.features import extract_features
from transferkit.models.prefix_cache import Cache, Where, cache_named
from transferkit.selection.ranking import FEATURE_SCORES, Candidate, rank_candidates
from transferkit.workflows.compare import Weights, check_names, check_weights, weights_of

RankBy: TypeAlias = Literal["probe", "logme", "knn", "h_score"]

TIMED = 32
"""Images that a backbone's speed is measured on."""

FEWEST = 16
"""Images of each class in the first round, at the least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingRow:
    """One backbone of a ranking.

    Attributes:
        name: Full name.
        score: What orders the rows; higher is better. None where the backbone failed.
        interval: 95 % interval of the score, for those of the last round.
        best_share: How often it would come out first on other images, for those of the last round.
        probe: Accuracy of a cross-validated linear probe.
        logme: LogME.
        images: Images that it was scored on; those dropped early saw fewer.
        images_per_second: Measured speed of feature extraction, on this machine.
        feature_dim: Width of the features.
        num_params: Parameters of the backbone, without a classifier.
        error: Why it could not be scored.
    """

    name: str
    score: float | None = None
    interval: tuple[float, float] | None = None
    best_share: float | None = None
    probe: float | None = None
    logme: float | None = None
    images: int = 0
    images_per_second: float | None = None
    feature_dim: int | None = None
    num_params: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Backbones, the most promising first.

    Attributes:
        by: The score that orders them.
        rows: Best first: those of the last round, then those dropped before, then those failed.
        rounds: Images and backbones of each round.
    """

    by: RankBy
    rows: tuple[RankingRow, ...]
    rounds: tuple[tuple[int, int], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the backbones that were scored, best first."""
        return tuple(row.name for row in self.rows if row.error is None)

    def to_dict(self) -> dict[str, JSON]:
        """Rows and rounds as plain data."""
        rows: list[JSON] = [{k: plain(v) for k, v in asdict(row).items()} for row in self.rows]
        return {"by": self.by, "rows": rows, "rounds": plain(self.rounds)}

    def __str__(self) -> str:
        header = ["backbone", self.by, "95 %", "best in", "probe", "LogME", "images", "images/s",
                  "features", "parameters"]  # fmt: skip
        done = [row for row in self.rows if row.error is None]
        failed = [f"{row.name}: {row.error}" for row in self.rows if row.error is not None]
        return "\n".join([table(header, [_cells(row) for row in done]), *failed])


@dataclass(slots=True, eq=False)
class _Entrant:
    """A backbone on its way through the rounds."""

    name: str
    model: Classifier
    features: FloatArray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    speed: float = 0.0
    score: float = 0.0

    def see(
        self,
        data: ImageData,
        rows: Int64Array,
        batch_size: int,
        device: str | None,
        cache: Cache | None,
    ) -> None:
        """Compute the features of further images."""
        where = training_device(device, self.model)
        if not len(self.features):
            few = data.subset(rows[:TIMED])
            for _ in range(2):  # the first batch of a network is slow
                started = time.perf_counter()
                extract_features(self.model, few, batch_size=batch_size, device=where)
            self.speed = len(few) / (time.perf_counter() - started)
        found = extract_features(
            self.model, data.subset(rows), batch_size=batch_size, device=where, cache=cache
        ).features
        self.features = np.concatenate([self.features, found]) if len(self.features) else found

    def row(self, labels: Int64Array, by: RankBy) -> RankingRow:
        """What is known of it, on the images that it has seen."""
        seen = len(self.features)
        known = {by: self.score}
        for other in ("probe", "logme"):
            if other not in known:
                known[other] = FEATURE_SCORES[other](self.features, labels[:seen])
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
    device: str | None = None,
    seed: int = 0,
    progress: bool = False,
    cache: Cache | Where | None = None,
) -> Ranking:
    """Score backbones by their features on the train split; nothing is trained but probes.

    Successive halving: all backbones are scored on a part of the images, the better half goes on
    to twice as many, until ``finalists`` are left for all of them (K. Jamieson and A. Talwalkar,
    "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016). Val
    and test are not looked at.

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
        batch_size: Images a batch.
        device: Where to compute; by default a GPU if there is one.
        seed: Which images.
        progress: Say on standard error what each backbone comes to.
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
    check_names("names", names)
    for option, count in (("max_images", max_images), ("finalists", finalists)):
        check_whole(option, count, least=1)
    check_whole("repeats", repeats, least=2)
    check_whole("seed", seed)
    check_weights(names, weights)
    (train,) = require_splits(splits).require("train")
    labels = train.require_labels("Ranking backbones")
    order = _order(labels, max_images, seed)
    truth = labels[order]
    entrants, failed = _build(names, weights, image_size, seed)
    dropped: list[RankingRow] = []
    rounds, kept = [], cache_named(cache)
    for size in _sizes(len(entrants), finalists, len(order), FEWEST * train.num_classes):
        for entrant in entrants:
            seen = len(entrant.features)
            entrant.see(train, order[seen:size], batch_size, device, kept)
            entrant.score = FEATURE_SCORES[by](entrant.features, truth[:size])
            if progress:
                print(f"{entrant.name}: {entrant.score:.4f} on {size}", file=sys.stderr, flush=True)
        rounds.append((size, len(entrants)))
        entrants.sort(key=lambda entrant: -entrant.score)
        if size < len(order):
            keep = max(finalists, -(-len(entrants) // 2))
            dropped = [entrant.row(truth, by) for entrant in entrants[keep:]] + dropped
            entrants = entrants[:keep]
    final = _final(entrants, truth, by, repeats=repeats, seed=seed)
    return Ranking(by=by, rows=(*final, *dropped, *failed), rounds=tuple(rounds))


def score_named(name: str) -> RankBy:
    """The score that goes by a name.

    Raises:
        UnknownNameError: There is none.
    """
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


def _order(labels: Int64Array, max_images: int, seed: int) -> Int64Array:
    """Images in an order of which every beginning is stratified by class."""
    order = interleave(rows_by_class(labels, np.random.default_rng(seed)))[:max_images]
    fewest = np.bincount(labels[order]).min()
    if fewest < 4:
        raise DataError(f"A ranking needs four images of each class; one has {fewest}.")
    return order


def _sizes(candidates: int, finalists: int, images: int, fewest: int) -> list[int]:
    """Images of each round, the last all of them."""
    halvings = 0
    while candidates > finalists * 2**halvings:
        halvings += 1
    sizes = [max(images >> (halvings - i), min(fewest, images)) for i in range(halvings + 1)]
    return list(dict.fromkeys(sizes))


def _final(
    entrants: Sequence[_Entrant], labels: Int64Array, by: RankBy, *, repeats: int, seed: int
) -> list[RankingRow]:
    """The rows of the last round, with the uncertainty of their order."""
    candidates = [Candidate(one.name, features=one.features) for one in entrants]
    ranked = {
        row.name: row
        for row in rank_candidates(candidates, labels, by=by, repeats=repeats, seed=seed).rows
    }
    return [
        replace(
            entrant.row(labels, by),
            interval=_possible(ranked[entrant.name].interval, by),
            best_share=ranked[entrant.name].best_share,
        )
        for entrant in entrants
    ]


def _possible(interval: tuple[float, float], by: RankBy) -> tuple[float, float]:
    """An accuracy's interval ends at 0 and 1."""
    low, high = interval
    return (max(low, 0.0), min(high, 1.0)) if by in ("probe", "knn") else interval


def _cells(row: RankingRow) -> list[str]:
    low, high = row.interval or (None, None)
    return [
        row.name,
        f"{row.score:.4f}",
        "-" if low is None else f"[{low:.4f}, {high:.4f}]",
        "-" if row.best_share is None else percent(row.best_share, digits=0),
        "-" if row.probe is None else percent(row.probe),
        "-" if row.logme is None else f"{row.logme:.4f}",
        str(row.images),
        "-" if row.images_per_second is None else f"{row.images_per_second:.0f}",
        str(row.feature_dim),
        "-" if row.num_params is None else f"{row.num_params / 1e6:.1f} M",
    ]
