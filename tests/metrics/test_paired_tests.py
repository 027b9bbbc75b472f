"""Paired tests against statsmodels' definition, scipy, and their own error rates."""

from __future__ import annotations

import json
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from transferkit.metrics.intervals import holm, mcnemar, sign_flip_test


def flags(both: int, only_a: int, only_b: int, neither: int):
    pairs = [(1, 1)] * both + [(1, 0)] * only_a + [(0, 1)] * only_b + [(0, 0)] * neither
    return np.array(pairs, bool).T


@pytest.mark.parametrize("counts", [(5, 9, 2, 1), (100, 0, 6, 3), (0, 3, 3, 0), (50, 1, 0, 0)])
def test_mcnemar_is_the_exact_binomial_tail(counts) -> None:
    _, a, b, _ = counts
    tail = sum(comb(a + b, k) for k in range(min(a, b) + 1)) / 2 ** (a + b)
    result = mcnemar(*flags(*counts))
    assert result.p_value == pytest.approx(min(1, 2 * tail))
    assert result.difference == pytest.approx((a - b) / sum(counts))


def test_mcnemar_of_equal_models() -> None:
    result = mcnemar(*np.array([[True, False, True]] * 2))
    assert (result.p_value, result.difference, result.significant) == (1, 0, False)
    low, high = result.interval
    assert low < 0 < high


def test_mcnemar_interval_equals_the_formula_by_hand() -> None:
    """Bonett and Price 2012, with one added to each discordant count and two to n."""
    low, high = mcnemar(*flags(40, 30, 10, 20)).interval
    p, q, n = 31 / 102, 11 / 102, 102
    half = 1.959964 * np.sqrt((p + q - (p - q) ** 2) / n)
    assert (low, high) == pytest.approx((p - q - half, p - q + half), abs=1e-6)


def test_mcnemar_interval_covers() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        kind = rng.choice(4, 150, p=[0.75, 0.12, 0.05, 0.08])
        low, high = mcnemar((kind == 0) | (kind == 1), (kind == 0) | (kind == 2)).interval
        held += low <= 0.07 <= high
    assert 0.93 <= held / 1000 <= 0.98


def test_sign_flips_of_single_hits_are_the_exact_binomial_test() -> None:
    a, b = flags(150, 40, 18, 20)
    exact, drawn = mcnemar(a, b), sign_flip_test(a.astype(float), b.astype(float))
    assert drawn.difference == pytest.approx(exact.difference)
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.005)
    assert drawn.interval == pytest.approx(exact.interval)


@pytest.mark.parametrize("kind", ["alone", "by group", "seeds"])
def test_sign_flips_keep_their_error_rate_and_the_interval_covers(kind: str) -> None:
    rng = np.random.default_rng(1)
    rejected = held = 0
    for trial in range(400):
        shape = (40, 5) if kind == "by group" else (200, 3 if kind == "seeds" else 1)
        alike = rng.random((2, len(np.zeros(shape)), 1)) < 0.5
        hits = np.where(alike, rng.random((2, shape[0], 1)) < 0.8, rng.random((2, *shape)) < 0.8)
        if kind == "seeds":
            a, b, groups = *hits.mean(axis=2), None
        else:
            a, b, groups = *hits.reshape(2, -1).astype(float), np.repeat(np.arange(40), 5)
        result = sign_flip_test(a, b, groups=None if kind != "by group" else groups, seed=trial)
        rejected += result.significant
        held += result.interval[0] <= 0 <= result.interval[1]
    assert rejected / 400 <= 0.075
    assert held / 400 >= 0.93


def test_copies_in_a_group_change_neither_p_value_nor_interval_much() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random((2, 120)) < [[0.9], [0.75]]).astype(float)
    once, groups = sign_flip_test(a, b), np.repeat(np.arange(120), 2)
    twice = sign_flip_test(np.repeat(a, 2), np.repeat(b, 2), groups=groups)
    assert twice.p_value == pytest.approx(once.p_value, abs=0.005)
    assert np.ptp(twice.interval) == pytest.approx(np.ptp(once.interval), rel=0.04)
    assert np.ptp(twice.interval) >= np.ptp(once.interval)


def test_equal_models_do_not_differ() -> None:
    result = sign_flip_test(np.array([0.3, 0.7]), np.array([0.3, 0.7]))
    assert (result.p_value, result.difference) == (1, 0)
    assert result.interval[0] < 0 < result.interval[1]


def test_results_print_and_export() -> None:
    groups = np.array([0, 0, 1, 1])
    result = sign_flip_test(np.array([1.0, 1, 1, 0]), np.eye(4)[1], groups=groups)
    assert str(result).startswith("paired permutation by group: difference +0.5")
    assert json.loads(json.dumps(result.to_dict()))["n"] == 4


P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def test_holm_by_hand() -> None:
    # Sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, made monotone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(P_VALUES)
def test_adjusting_only_raises_keeps_order_and_stays_in_range(p_values: list[float]) -> None:
    order = np.argsort(p_values, kind="stable")
    adjusted = holm(p_values)
    assert (adjusted >= np.array(p_values) - 1e-15).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[order]) >= 0).all()
    assert (adjusted >= false_discovery_control(p_values) - 1e-15).all()


def test_nothing_to_adjust() -> None:
    assert holm([]).shape == (0,)
