from __future__ import annotations

import numpy as np
import pytest

from transferkit.audit.two_sample import check_pair, pooled_groups
from transferkit.errors import DataError

GOOD = np.zeros((4, 2))


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (np.zeros((0, 2)), GOOD, "first sample has 0 row"),
        (GOOD, np.zeros((1, 2)), "second sample has 1 row"),
        (np.zeros((4, 3)), GOOD, "first has 3 and the second 2"),
        (np.zeros((4, 2, 2)), GOOD, "flatten"),
        (np.zeros((4, 0)), np.zeros((4, 0)), "flatten"),
        (np.array([["a", "b"]] * 4), GOOD, "numbers"),
        (np.array([[None, 1]] * 4, dtype=object), GOOD, "numbers"),
    ],
)
def test_samples_that_cannot_be_compared_are_refused(
    a: np.ndarray, b: np.ndarray, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        check_pair(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named_by_row_and_feature(value: float) -> None:
    b = GOOD.copy()
    b[2, 1] = value
    with pytest.raises(DataError, match=r"second sample must be finite, got .* in row 2, contrast"):
        check_pair(GOOD, b, names=("brightness", "contrast"))


def test_integers_and_half_precision_become_floats_and_single_precision_stays() -> None:
    assert check_pair([[1], [2]], [[3], [4]]).pooled.dtype == np.float64
    assert check_pair(GOOD.astype("f"), GOOD.astype("f")).pooled.dtype == np.float32
    assert check_pair(GOOD.astype(np.float16), GOOD.astype(np.float16)).pooled.dtype == np.float32
    assert check_pair([1, 2], [3, 4]).pooled.shape == (4, 1)


def test_equal_group_names_get_equal_codes_in_both_samples() -> None:
    codes = pooled_groups((["p1", "p2", "p2"], ["p2", "p3"]), 3, 2)
    assert codes is not None
    assert codes.tolist() == [0, 1, 1, 1, 2]


def test_groups_and_names_must_fit() -> None:
    with pytest.raises(DataError, match="one group per row"):
        pooled_groups((["p1"], ["p2", "p3"]), 2, 2)
    with pytest.raises(DataError, match="Expected 2 feature names"):
        check_pair(GOOD, GOOD, names=("only one",))


def test_units_are_groups_or_rows() -> None:
    assert check_pair(GOOD, GOOD).units() == (4, 4)
    assert check_pair(GOOD, GOOD, groups=([1, 1, 2, 2], [3, 3, 3, 3])).units() == (2, 1)
