"""Paired tests against statsmodels' definition, scipy, and their own error rates."""

from __future__ import annotations

import json
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from transferkit.metrics.intervals import holm, mcnemar, paired_bootstrap


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


@pytest.mark.parametrize("grouped", [False, True])
def test_paired_bootstrap_keeps_its_error_rate(grouped: bool) -> None:
    rng = np.random.default_rng(1)
    rejected = 0
    for trial in range(400):
        shift = np.repeat(rng.normal(size=60), 5) if grouped else rng.normal(size=300)
        groups = np.repeat(np.arange(60), 5) if grouped else None
        result = paired_bootstrap(shift, 0 * shift, samples=300, seed=trial, groups=groups)
        rejected += result.significant
    assert 0.025 <= rejected / 400 <= 0.085


def test_paired_bootstrap_agrees_with_mcnemar() -> None:
    a, b = flags(150, 40, 18, 20)
    exact, drawn = mcnemar(a, b), paired_bootstrap(a.astype(float), b.astype(float))
    assert drawn.difference == pytest.approx(exact.difference)
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.01)
    assert drawn.interval == pytest.approx(exact.interval, abs=0.01)


def test_paired_bootstrap_of_equal_models() -> None:
    result = paired_bootstrap(np.array([0.3, 0.7]), np.array([0.3, 0.7]), samples=50)
    assert (result.p_value, result.interval) == (1, (0, 0))


def test_results_print_and_export() -> None:
    result = paired_bootstrap(
        np.eye(4)[0] + [0, 1, 1, 0], np.eye(4)[1], groups=list("aabb"), samples=100
    )
    assert str(result).startswith("paired bootstrap by group: difference +0.5")
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
