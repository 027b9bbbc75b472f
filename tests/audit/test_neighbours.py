from __future__ import annotations

import numpy as np
import pytest

from transferkit.audit import nearest as neighbours
from transferkit.audit.nearest import places, similar_pairs, unit_rows
from transferkit.errors import ConfigError, DataError


def brute_force(units, floor):
    cosine = units @ units.T
    first, second = np.nonzero(np.triu(cosine, 1) >= floor)
    return set(zip(first.tolist(), second.tolist(), strict=True))


@pytest.fixture
def units():
    rng = np.random.default_rng(0)
    return unit_rows(rng.normal(size=(12, 6))[rng.integers(0, 12, 90)] + rng.normal(size=(90, 6)))


@pytest.mark.parametrize("blocks", [(90, 90), (7, 13), (13, 7), (1, 1), (32, 8)])
def test_blocks_find_what_brute_force_finds(units, blocks, monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS", blocks[0])
    monkeypatch.setattr(neighbours, "COLUMNS", blocks[1])
    first, second, cosine = similar_pairs(units, floor=0.6, most=90)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == brute_force(units, 0.6)
    np.testing.assert_allclose(cosine, (units[first] * units[second]).sum(axis=1), atol=1e-6)


@pytest.mark.parametrize("blocks", [(90, 90), (7, 13), (13, 7)])
def test_changed_queries_are_looked_up_but_never_find_themselves(units, blocks, monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS", blocks[0])
    monkeypatch.setattr(neighbours, "COLUMNS", blocks[1])
    first, second, _ = similar_pairs(units, queries=units, floor=0.6, most=90)
    both = brute_force(units, 0.6)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == both | {
        (b, a) for a, b in both
    }


@pytest.mark.parametrize(("blocks", "groups"), [((90, 90), 128), ((90, 90), 7), ((7, 13), 4)])
def test_each_row_keeps_its_most_similar_partners(units, blocks, groups, monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS", blocks[0])
    monkeypatch.setattr(neighbours, "COLUMNS", blocks[1])
    monkeypatch.setattr(neighbours, "_GROUPS", groups)
    first, _, cosine = similar_pairs(units, queries=units, floor=0.1, most=2)
    whole = units @ units.T - 2 * np.eye(len(units))
    for row in range(len(units)):
        mine = first == row
        assert mine.sum() <= 2
        np.testing.assert_allclose(
            np.sort(cosine[mine]),
            np.sort(whole[row])[-2:][np.sort(whole[row])[-2:] >= 0.1],
            atol=1e-6,
        )


def test_places_count_from_the_highest_of_each_row():
    rows = np.array([3, 1, 3, 1, 3, 0])
    scores = np.array([0.5, 0.2, 0.9, 0.1, 0.7, -1.0])
    assert places(rows, scores).tolist() == [2, 0, 0, 1, 1, 0]
    assert len(places(rows[:0], scores[:0])) == 0


def test_constant_features_are_similar_to_nothing_and_nan_is_named():
    assert len(similar_pairs(unit_rows(np.ones((5, 3))), floor=0.5)[0]) == 0
    assert len(similar_pairs(unit_rows(np.ones((1, 3))), floor=0.5)[0]) == 0
    with pytest.raises(DataError, match="row 2"):
        unit_rows(np.array([[0.0], [1.0], [np.nan]]))
    with pytest.raises(ConfigError, match="floor"):
        similar_pairs(np.eye(2, dtype=np.float32), floor=0.0)
