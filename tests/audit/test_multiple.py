from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from transferkit.errors import ConfigError, DataError
from transferkit.metrics.multiple_testing import adjust, benjamini_hochberg, holm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def test_holm_by_hand() -> None:
    # Sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, made monotone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(P_VALUES)
def test_benjamini_hochberg_agrees_with_scipy(p_values: list[float]) -> None:
    assert benjamini_hochberg(p_values) == pytest.approx(false_discovery_control(p_values))


@given(P_VALUES)
def test_adjusting_only_raises_keeps_order_and_stays_in_range(p_values: list[float]) -> None:
    order = np.argsort(p_values, kind="stable")
    for adjusted in (holm(p_values), benjamini_hochberg(p_values)):
        assert (adjusted >= np.array(p_values) - 1e-15).all()
        assert (adjusted <= 1).all()
        assert (np.diff(adjusted[order]) >= 0).all()
    assert (holm(p_values) >= benjamini_hochberg(p_values) - 1e-15).all()


def test_nothing_to_adjust_and_nothing_valid() -> None:
    assert holm([]).shape == benjamini_hochberg([]).shape == (0,)
    for bad in ([1.5], [np.nan], [[0.1]]):
        with pytest.raises(DataError, match="p-values"):
            holm(bad)
    with pytest.raises(ConfigError, match="bonferroni"):
        adjust([0.1], "bonferroni")  # type: ignore[arg-type]
    assert adjust([0.02, 0.9], "holm")[0] == pytest.approx(0.04)
    assert adjust([0.02, 0.9], "benjamini_hochberg")[0] == pytest.approx(0.04)
