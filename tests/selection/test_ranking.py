"""The ranking: planted order, honest uncertainty, clear refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from transferkit.errors import ConfigError, DataError, UnknownNameError
from transferkit.selection.ranking import Candidate, rank_candidates
from transferkit.selection.scores import logme


def candidate(name: str, quality: float, labels, *, d: int = 12, seed: int = 0) -> Candidate:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(len(labels), d))
    features[:, 0] += quality * labels
    source = rng.exponential(size=(len(labels), 4)) + quality * np.eye(4)[labels]
    return Candidate(
        name=name,
        features=features,
        source_probabilities=source / source.sum(axis=1, keepdims=True),
        seconds=1.5,
        num_params=11_700_000,
    )


LABELS = np.arange(240) % 2
PLANTED = [
    candidate("poor", 0.2, LABELS),
    candidate("best", 3, LABELS),
    candidate("fair", 1, LABELS),
]


@pytest.mark.parametrize("by", ["logme", "h_score", "knn", "probe", "leep", "nce"])
def test_the_planted_order_comes_back(by) -> None:
    ranking = rank_candidates(PLANTED, LABELS, by=by)
    assert ranking.names == ("best", "fair", "poor")
    assert ranking.rows[0].best_share == 1
    for row in ranking.rows:
        assert row.interval[0] <= row.score <= row.interval[1]


def test_equals_share_the_first_place() -> None:
    twins = [candidate("a", 1, LABELS, seed=1), candidate("b", 1, LABELS, seed=2)]
    shares = [row.best_share for row in rank_candidates(twins, LABELS, repeats=40).rows]
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0


def test_interval_covers_the_score_of_fresh_images() -> None:
    """Truth: the mean score over many data sets of the same size."""
    fresh = [logme(candidate("", 1, LABELS, seed=s).features, LABELS) for s in range(1000, 1200)]
    truth, held = np.mean(fresh), 0
    for seed in range(100):
        row = rank_candidates([candidate("x", 1, LABELS, seed=seed)], LABELS).rows[0]
        held += row.interval[0] <= truth <= row.interval[1]
    assert held >= 88


def test_large_data_are_ranked_on_parts() -> None:
    labels = np.arange(5000) % 2
    ranking = rank_candidates([candidate("x", 1, labels)], labels)
    low, high = ranking.rows[0].interval
    assert 0.005 < high - low < 0.1


def test_ranking_prints_and_exports() -> None:
    ranking = rank_candidates(PLANTED, LABELS)
    first = str(ranking).splitlines()[2]
    assert first.startswith("best")
    assert "11.7 M" in first
    exported = json.loads(json.dumps(ranking.to_dict()))
    assert [row["name"] for row in exported["rows"]] == ["best", "fair", "poor"]
    assert "None" not in str(rank_candidates([Candidate("bare", PLANTED[0].features)], LABELS))


def test_refusals() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'logme'"):
        rank_candidates(PLANTED, LABELS, by="logm")
    with pytest.raises(DataError, match="different names"):
        rank_candidates([PLANTED[0], PLANTED[0]], LABELS)
    with pytest.raises(DataError, match="different names"):
        rank_candidates([], LABELS)
    with pytest.raises(DataError, match="x: leep needs source_probabilities"):
        rank_candidates([Candidate("x", PLANTED[0].features)], LABELS, by="leep")
    with pytest.raises(DataError, match="x: All 240 rows"):
        rank_candidates([Candidate("x", np.ones((240, 3)))], LABELS)
    with pytest.raises(DataError, match="class 1 has fewer"):
        rank_candidates(PLANTED, (np.arange(240) < 3).astype(int))
    with pytest.raises(DataError, match="x: Arrays must have one row per image"):
        rank_candidates([Candidate("x", PLANTED[0].features[:50])], LABELS)
    with pytest.raises(ConfigError, match="repeats"):
        rank_candidates(PLANTED, LABELS, repeats=1)
    with pytest.raises(ConfigError, match="confidence"):
        rank_candidates(PLANTED, LABELS, confidence=2)
