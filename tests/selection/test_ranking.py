"""The order of backbones: planted truth, honest uncertainty, whole groups."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from transferkit.errors import DataError
from transferkit.selection.ranking import FEATURE_SCORES, Ranking, RankingRow, score_uncertainty
from transferkit.selection.scores import logme

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
LABELS = np.arange(240) % 2


def features_of(quality: float, labels=LABELS, *, d: int = 12, seed: int = 0):
    features = np.random.default_rng(seed).normal(size=(len(labels), d))
    features[:, 0] += quality * labels
    return features


PLANTED = [features_of(0.2), features_of(3), features_of(1)]


@pytest.mark.parametrize("by", FEATURE_SCORES)
def test_the_planted_best_is_found_with_certainty(by) -> None:
    found = score_uncertainty(PLANTED, LABELS, by=by)
    assert found[1].best_share > 0.98
    assert sum(one.best_share for one in found) == pytest.approx(1)
    for features, one in zip(PLANTED, found, strict=True):
        assert one.interval[0] <= FEATURE_SCORES[by](features, LABELS, None) <= one.interval[1]


def test_equals_are_seldom_told_apart_however_few_the_parts() -> None:
    """Two equal backbones: one of them is far ahead by chance in about one ranking of ten."""
    sure = 0
    for seed in range(60):
        twins = [features_of(1, seed=2 * seed), features_of(1, seed=2 * seed + 1)]
        found = score_uncertainty(twins, LABELS, by="logme", repeats=5, seed=seed)
        sure += max(one.best_share for one in found) > 0.95
    assert sure <= 15


def test_the_benchmark_of_the_number_of_parts_in_its_quick_form(capsys) -> None:
    """Equals are over 95 % sure in about one trial of ten, a better one in most, at ten parts."""
    if not (FOLDER / "ranking.py").is_file():
        pytest.skip("the benchmarks are not here")
    runpy.run_path(str(FOLDER / "ranking.py"))["main"](
        ["--trials", "40", "--scores", "logme", "--parts", "10"]
    )
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    for row, least in zip(rows, (80, 55), strict=True):
        assert int(row[4].split(" %")[0]) <= 20
        assert int(row[5].split(" %")[0]) >= least


def test_interval_covers_the_score_of_fresh_images() -> None:
    """Truth: the mean score over many data sets of the same size."""
    truth = np.mean([logme(features_of(1, seed=s), LABELS) for s in range(1000, 1200)])
    held = 0
    for seed in range(100):
        (one,) = score_uncertainty([features_of(1, seed=seed)], LABELS, by="logme")
        held += one.interval[0] <= truth <= one.interval[1]
    assert held >= 88


@pytest.mark.parametrize("by", ["logme", "knn", "probe"])
def test_copies_in_the_same_group_do_not_narrow_the_interval(by) -> None:
    width = {}
    for copies in (1, 4):
        features, labels = np.repeat(features_of(1), copies, axis=0), np.repeat(LABELS, copies)
        groups = np.repeat(np.arange(240), copies)
        (one,) = score_uncertainty([features], labels, groups, by=by, repeats=20)
        width[copies] = one.interval[1] - one.interval[0]
    assert width[4] > 0.95 * width[1]


def test_large_data_are_ranked_on_parts() -> None:
    labels = np.arange(5000) % 2
    (one,) = score_uncertainty([features_of(1, labels)], labels, by="logme")
    low, high = one.interval
    assert 0.005 < high - low < 0.1


def test_ranking_prints_and_exports() -> None:
    first = RankingRow(name="a", score=0.9, interval=(0.8, 0.95), best_share=0.7, probe=0.9,
                       logme=0.1, images=10, feature_dim=3, num_params=11_700_000)  # fmt: skip
    rows = (first, RankingRow(name="c", error="no weights"))
    for by, titles in {"probe": ["probe", "LogME"], "logme": ["LogME", "probe"]}.items():
        text = str(Ranking(by=by, rows=rows, rounds=((10, 2),)))
        header = text.splitlines()[0].split()
        assert len(header) == len(set(header))
        assert [word for word in header if word in titles] == titles
        assert "11.7 M" in text
        assert text.endswith("c: no weights")
    header = str(Ranking(by="knn", rows=rows, rounds=())).splitlines()[0]
    assert all(title in header for title in ("nearest neighbours", "probe", "LogME"))
    exported = json.loads(json.dumps(Ranking(by="knn", rows=rows, rounds=((10, 2),)).to_dict()))
    assert [row["name"] for row in exported["rows"]] == ["a", "c"]


def test_too_few_images_or_groups_of_a_class_are_refused() -> None:
    few = (np.arange(240) < 3).astype(int)
    with pytest.raises(DataError, match="four images of each class, got 3 of class 1"):
        score_uncertainty(PLANTED, few, by="logme")
    with pytest.raises(DataError, match="four groups of each class"):
        score_uncertainty(PLANTED, LABELS, by="logme", groups=LABELS)
