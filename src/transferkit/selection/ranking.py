"""Ranking backbones by a score of their features, with the uncertainty of the order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from scipy.stats import t as student_t

from transferkit._format import PlainResult, number, percent, table
from transferkit._sampling import draw_by_class, group_labels
from transferkit._typing import Float64Array, Int64Array
from transferkit.errors import DataError
from transferkit.selection.probe import probe_score
from transferkit.selection.scores import h_score, knn_accuracy, logme

RankBy: TypeAlias = Literal["probe", "logme", "knn", "h_score"]

TITLES: Mapping[RankBy, str] = {
    "probe": "probe",
    "logme": "LogME",
    "knn": "nearest neighbours",
    "h_score": "H-score",
}
FEATURE_SCORES: Mapping[RankBy, Callable[[Float64Array, Int64Array, Int64Array | None], float]] = {
    "probe": lambda features, labels, groups: probe_score(features, labels, groups=groups).accuracy,
    "logme": lambda features, labels, groups: logme(features, labels),
    "knn": lambda features, labels, groups: knn_accuracy(features, labels, groups=groups),
    "h_score": lambda features, labels, groups: h_score(features, labels),
}
"""Scores of features (N, D), labels (N,) and group codes (N,)."""

LARGEST_PART = 1000
"""Images at most in one of the parts that the uncertainty is read from."""

_DRAWS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingRow(PlainResult):
    """One backbone of a ranking.

    Attributes:
        name: Full name.
        score: The score that orders the rows; higher is better. None where the backbone failed.
        interval: 95 % interval of the score, for those of the last round.
        best_share: Chance to come out first on other images, for those of the last round.
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
class Ranking(PlainResult):
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

    def __str__(self) -> str:
        others = [TITLES[other] for other in ("probe", "logme") if other != self.by]
        header = ["backbone", TITLES[self.by], "95 %", "best in", *others, "images", "images/s",
                  "features", "parameters"]  # fmt: skip
        done = [self._cells(row) for row in self.rows if row.error is None]
        failed = [f"{row.name}: {row.error}" for row in self.rows if row.error is not None]
        return "\n".join([table(header, done), *failed])

    def _cells(self, row: RankingRow) -> list[str]:
        others = {"probe": percent(row.probe), "logme": number(row.logme)}
        return [
            row.name,
            number(row.score),
            "-" if row.interval is None else "[{:.4f}, {:.4f}]".format(*row.interval),
            percent(row.best_share, digits=0),
            *(cell for other, cell in others.items() if other != self.by),
            str(row.images),
            "-" if row.images_per_second is None else f"{row.images_per_second:.0f}",
            str(row.feature_dim),
            "-" if row.num_params is None else f"{row.num_params / 1e6:.1f} M",
        ]


class Uncertainty(NamedTuple):
    """Interval of a score on other images, and the chance to come out first there."""

    interval: tuple[float, float]
    best_share: float


def score_uncertainty(
    features: Sequence[Float64Array],
    labels: Int64Array,
    groups: Int64Array | None = None,
    *,
    by: RankBy,
    repeats: int = 10,
    seed: int = 0,
) -> list[Uncertainty]:
    """Uncertainty of the score of each backbone's features (N, D), and of their order.

    By the delete-d jackknife (J. Shao and C. Wu, Annals of Statistics 17, 1989).
    """
    # Each part has b images, or groups, drawn without repeats: copies of an image would let a score
    # recognise it. The variance over parts times b / (N - b) is that of the score on all N.
    parts, share = _parts(labels, groups, repeats=repeats, seed=seed)
    score = FEATURE_SCORES[by]
    own = [None if groups is None else groups[part] for part in parts]
    full = np.array([score(matrix, labels, groups) for matrix in features])
    drawn = np.array(
        [
            [score(matrix[part], labels[part], g) for part, g in zip(parts, own, strict=True)]
            for matrix in features
        ]
    )
    around = np.sqrt(share / (1 - share)) * (drawn - drawn.mean(axis=1, keepdims=True))
    spread = student_t.ppf(0.975, repeats - 1) * around.std(axis=1, ddof=1)
    ends = full[:, None] + np.outer(spread, [-1, 1])
    if by in ("probe", "knn"):  # accuracies
        ends = ends.clip(0, 1)
    # Few parts leave the variance uncertain, and would often give all wins to one of two equals:
    # the errors are drawn from a multivariate t distribution with their covariance over parts.
    rng = np.random.default_rng([seed, 1])
    normal = rng.normal(size=(repeats, _DRAWS)) / np.sqrt(rng.chisquare(repeats - 1, _DRAWS))
    wins = np.bincount((full[:, None] + around @ normal).argmax(axis=0), minlength=len(full))
    return [
        Uncertainty((low, high), win / _DRAWS)
        for (low, high), win in zip(ends.tolist(), wins.tolist(), strict=True)
    ]


def _parts(
    labels: Int64Array, groups: Int64Array | None, *, repeats: int, seed: int
) -> tuple[list[Int64Array], float]:
    """Stratified parts of the rows, groups whole, and the share of all rows in one of them."""
    kinds = labels if groups is None else group_labels(labels, groups)
    classes, counts = np.unique(kinds, return_counts=True)
    if counts.min() < 4:
        unit = "images" if groups is None else "groups"
        raise DataError(
            f"A ranking needs at least four {unit} of each class, got {counts.min()} of class "
            f"{classes[counts.argmin()]}."
        )
    sizes = np.maximum(2, (min(0.5, LARGEST_PART / len(labels)) * counts).astype(np.int64))
    rng = np.random.default_rng(seed)
    drawn = [draw_by_class(kinds, sizes, rng) for _ in range(repeats)]
    parts = drawn if groups is None else [np.flatnonzero(np.isin(groups, d)) for d in drawn]
    return parts, float(sizes.sum() / len(kinds))
