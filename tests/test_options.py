"""Options that callers give: what is taken, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from transferkit._validation import (
    check_among,
    check_number,
    check_sequence,
    check_text,
    check_whole,
    is_number,
    to_path,
    to_sides,
)
from transferkit.errors import ConfigError


@pytest.mark.parametrize("value", [0, 7, np.int64(3), np.uint8(1)])
def test_whole_numbers(value: object) -> None:
    check_whole("option", value)


@pytest.mark.parametrize("value", [True, 1.0, -1, "1", None, [1], np.float64(1)])
def test_what_is_no_whole_number(value: object) -> None:
    with pytest.raises(ConfigError, match="option must be a whole number, 0 or more, got"):
        check_whole("option", value)


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.25), np.int64(1)])
def test_numbers(value: object) -> None:
    assert is_number(value)
    check_number("option", value, above=0, most=1)


@pytest.mark.parametrize("value", [0, 1.5, True, "0.5", None, float("nan"), float("inf"), 1j, []])
def test_what_is_no_number_within_bounds(value: object) -> None:
    with pytest.raises(ConfigError, match="option must be a number above 0 and at most 1, got"):
        check_number("option", value, above=0, most=1)


def test_bounds_that_belong_and_bounds_that_do_not() -> None:
    check_number("option", 0, least=0, below=1)
    for value in (-1, 1):
        with pytest.raises(ConfigError, match="at least 0 and below 1"):
            check_number("option", value, least=0, below=1)
    with pytest.raises(ConfigError, match="a finite number, got 'x'"):
        check_number("option", "x")


def test_one_of_a_few() -> None:
    for value in ("auto", 1, None):
        check_among("option", value, ("auto", 1, None))
    for value in ("Auto", True, 1.0, [], np.zeros(3)):
        with pytest.raises(ConfigError, match="option must be one of"):
            check_among("option", value, ("auto", 1, None))


def test_paths_and_texts() -> None:
    assert to_path("option", "a/b") == to_path("option", Path("a/b")) == Path("a/b")
    check_text("option", "x")
    for value in (None, 3, ["a"]):
        with pytest.raises(ConfigError, match="option must be the path"):
            to_path("option", value)
        with pytest.raises(ConfigError, match="option must be a string"):
            check_text("option", value)
    with pytest.raises(ConfigError, match="option must be the path"):
        to_path("option", "")


def test_lists() -> None:
    check_sequence("option", [])
    check_sequence("option", ("a",))
    for value in ("ab", 3, None, {"a": 1}):
        with pytest.raises(ConfigError, match="option must be a list"):
            check_sequence("option", value)


def test_sides() -> None:
    assert to_sides("option", 7) == to_sides("option", [7, 7]) == (7, 7)
    assert to_sides("option", (np.int64(3), 4)) == (3, 4)
    for value in (0, 2.5, "a", (3,), (1, 2, 3), (3, "b"), None):
        with pytest.raises(ConfigError, match="option must be"):
            to_sides("option", value)
