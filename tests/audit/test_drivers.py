from __future__ import annotations

import json

import numpy as np
import pytest

from transferkit.audit.domain_classifier import domain_classifier_test
from transferkit.audit.shift_drivers import find_drivers
from transferkit.errors import ConfigError, DataError

RNG = np.random.default_rng(0)


def test_a_shift_that_lives_in_a_few_rows_goes_with_them() -> None:
    a, b = RNG.normal(size=(600, 5)), RNG.normal(size=(600, 5))
    b[:150, 2] += 5
    result = domain_classifier_test(a, b)
    found = find_drivers(a, b, result, share=0.15, count=20, form="linear")
    assert sum(row < 150 for row in found.rows_b) >= 18
    assert found.explained is not None
    assert found.explained > 0.5
    assert "without the 15%" in str(found)


def test_a_shift_of_all_rows_stays() -> None:
    a, b = RNG.normal(size=(600, 5)), RNG.normal(size=(600, 5)) + 0.6
    found = find_drivers(a, b, domain_classifier_test(a, b))
    assert found.explained is not None
    assert found.explained < 0.45
    assert found.p_value_without is not None
    assert found.p_value_without < 0.05


def test_without_a_shift_removal_makes_none() -> None:
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=(60, 3)), rng.normal(size=(50, 3))
        result = domain_classifier_test(a, b, permutations=19, seed=seed)
        rest = find_drivers(a, b, result, permutations=39, seed=seed).p_value_without
        alarms += rest is not None and rest <= 0.05
    assert alarms <= 6


def test_too_few_rows_are_not_judged_and_wrong_ones_refused() -> None:
    a, b = RNG.normal(size=(9, 2)), RNG.normal(size=(12, 2))
    result = domain_classifier_test(a, b)
    found = find_drivers(a, b, result, count=4)
    assert found.explained is None
    assert found.rows_a.shape == found.rows_b.shape == (4,)
    assert "too few" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["explained"] is None
    with pytest.raises(DataError, match="samples that were tested"):
        find_drivers(b, a, result)
    with pytest.raises(ConfigError, match="share"):
        find_drivers(a, b, result, share=0.5)
