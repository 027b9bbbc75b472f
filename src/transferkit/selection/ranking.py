"""Ranking backbones by a transferability score, with the uncertainty of the ranking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student_t

from transferkit._format import percent, plain, table
from transferkit._sampling import draw_by_class
from transferkit._typing import JSON, Float64Array, Int64Array
from transferkit._validation import check_labels, check_share
from transferkit.errors import ConfigError, DataError, UnknownNameError
from transferkit.selection.probe import probe_score
from transferkit.selection.scores import h_score, knn_accuracy, leep, logme, nce

Score: TypeAlias = Literal["logme", "h_score", "knn", "probe", "leep", "nce"]


def _probe_accuracy(features: ArrayLike, labels: ArrayLike) -> float:
    return probe_score(features, labels).accuracy


FEATURE_SCORES: Mapping[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "logme": logme,
    "h_score": h_score,
    "knn": knn_accuracy,
    "probe": _probe_accuracy,
}
SOURCE_SCORES: Mapping[str, Callable[[ArrayLike, ArrayLike], float]] = {"leep": leep, "nce": nce}

LARGEST_PART = 1000
"""Images at most in one of the parts that the uncertainty is read from."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A backbone as the scores see it.

    Attributes:
        name: The backbone's name.
        features: ``(N, D)``; what the feature scores look at.
        source_probabilities: ``(N, S)`` over the pretraining classes, for LEEP and NCE.
        seconds: What extracting cost.
        num_params: Parameters of the backbone.
    """

    name: str
    features: ArrayLike | None = None
    source_probabilities: ArrayLike | None = None
    seconds: float | None = None
    num_params: int | None = None


@dataclass(frozen=True, slots=True)
class RankedBackbone:
    """One row of a ranking.

    Attributes:
        name: The backbone's name.
        score: Its score on all images; higher is better.
        interval: Interval of the score.
        best_share: How often it comes out first when all scores vary, together, as they do over
            parts of the images.
        seconds: What extracting cost, where known.
        num_params: Parameters of the backbone, where known.
    """

    name: str
    score: float
    interval: tuple[float, float]
    best_share: float
    seconds: float | None
    num_params: int | None

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        return {key: plain(value) for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Ranking:
    """Backbones, the most promising first.

    Attributes:
        by: The score that orders them.
        rows: Best first.
        n: Images that they were scored on.
        confidence: Coverage that the intervals aim at.
    """

    by: Score
    rows: tuple[RankedBackbone, ...]
    n: int
    confidence: float

    @property
    def names(self) -> tuple[str, ...]:
        """Names, best first."""
        return tuple(row.name for row in self.rows)

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        rows: list[JSON] = [row.to_dict() for row in self.rows]
        return {"by": self.by, "n": self.n, "confidence": self.confidence, "rows": rows}

    def __str__(self) -> str:
        header = ["backbone", self.by, percent(self.confidence, digits=0), "best in"]
        header += ["parameters", "seconds"]
        rows = [
            [
                row.name,
                f"{row.score:.4f}",
                f"[{row.interval[0]:.4f}, {row.interval[1]:.4f}]",
                percent(row.best_share, digits=0),
                "" if row.num_params is None else f"{row.num_params / 1e6:.1f} M",
                "" if row.seconds is None else f"{row.seconds:.1f}",
            ]
            for row in self.rows
        ]
        return table(header, rows)


def rank_candidates(
    candidates: Sequence[Candidate],
    labels: ArrayLike,
    *,
    by: Score = "logme",
    repeats: int = 10,
    confidence: float = 0.95,
    seed: int = 0,
) -> Ranking:
    """Order backbones by a transferability score.

    The uncertainty comes from stratified parts of b images (half of them, at most 1000), drawn
    without repeats (copies of an image would let a score recognise it) and the same for every
    backbone. The variance over parts times ``b / (N - b)`` estimates the variance of the score
    on all N: the delete-d jackknife (J. Shao and C. Wu, Annals of Statistics 17, 1989).

    Args:
        candidates: At least one backbone, on the same images in the same order.
        labels: ``(N,)``.
        by: The score.
        repeats: Parts drawn.
        confidence: Coverage of the intervals.
        seed: Seed of the parts.

    Raises:
        UnknownNameError: An unknown score.
        DataError: No candidate, two of one name, a class with fewer than four images, or arrays
            that the score refuses; the message names the backbone.
        ConfigError: Fewer than two repeats, or ``confidence`` outside (0, 1).
    """
    check_share("confidence", confidence)
    if repeats < 2:
        raise ConfigError(f"repeats must be at least 2; {repeats} came.")
    names = [candidate.name for candidate in candidates]
    if not names or len(set(names)) < len(names):
        raise DataError(f"A ranking needs candidates of different names; {names} came.")
    truth = check_labels(labels)
    parts = _parts(truth, repeats=repeats, seed=seed)
    scores = np.array([_scores(candidate, truth, by, parts) for candidate in candidates])
    full, drawn = scores[:, 0], scores[:, 1:]
    scale = np.sqrt(len(parts[0]) / (len(truth) - len(parts[0])))
    around = scale * (drawn - drawn.mean(axis=1, keepdims=True))
    quantile = float(student_t.ppf((1 + confidence) / 2, repeats - 1))
    spread = quantile * around.std(axis=1, ddof=1)
    wins = np.bincount((full[:, None] + around).argmax(axis=0), minlength=len(names)) / repeats
    rows = [
        RankedBackbone(
            name=candidate.name,
            score=float(full[i]),
            interval=(float(full[i] - spread[i]), float(full[i] + spread[i])),
            best_share=float(wins[i]),
            seconds=candidate.seconds,
            num_params=candidate.num_params,
        )
        for i, candidate in enumerate(candidates)
    ]
    best_first = tuple(sorted(rows, key=lambda row: -row.score))
    return Ranking(by=by, rows=best_first, n=len(truth), confidence=confidence)


def _scores(
    candidate: Candidate, labels: Int64Array, by: Score, parts: Sequence[Int64Array]
) -> list[float]:
    """Score one candidate on all images, then on each part."""
    if by in FEATURE_SCORES:
        score, values, needed = FEATURE_SCORES[by], candidate.features, "features"
    elif by in SOURCE_SCORES:
        score, values = SOURCE_SCORES[by], candidate.source_probabilities
        needed = "source_probabilities"
    else:
        raise UnknownNameError.among("score", by, [*FEATURE_SCORES, *SOURCE_SCORES])
    if values is None:
        raise DataError(f"{candidate.name}: {by} needs {needed}, and the candidate has none.")
    matrix: Float64Array = np.asarray(values)
    try:
        return [score(matrix, labels), *(score(matrix[part], labels[part]) for part in parts)]
    except DataError as error:
        raise DataError(f"{candidate.name}: {error}") from error


def _parts(labels: Int64Array, *, repeats: int, seed: int) -> list[Int64Array]:
    """Draw stratified parts, without repeats within one."""
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 4:
        short = classes[counts.argmin()]
        raise DataError(f"A ranking needs four images of each class; class {short} has fewer.")
    share = min(0.5, LARGEST_PART / len(labels))
    sizes = np.maximum(2, (share * counts).astype(np.int64))
    rng = np.random.default_rng(seed)
    return [draw_by_class(labels, sizes, rng) for _ in range(repeats)]
