"""Optimizer groups."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import transferkit as tk
from transferkit.errors import ConfigError

STAGES = ("0", "1", "2", "3", "5")


def block() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))


MODEL = nn.Sequential(
    nn.Conv2d(3, 3, 1), block(), block(), block(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 2, 1)
)


@settings(deadline=None, max_examples=40)
@given(st.floats(1e-5, 10), st.floats(0.01, 1), st.floats(0, 1), st.integers(0, 4))
def test_rates_fall_towards_the_input(lr: float, decay: float, weight: float, upto: int) -> None:
    tk.unfreeze(MODEL, upto=upto)
    groups = tk.param_groups(MODEL, lr, decay=decay, weight_decay=weight)
    for group in groups:
        distance = 4 - STAGES.index(group["name"].partition(",")[0])
        assert group["lr"] == pytest.approx(lr * decay**distance)
        dims = {p.ndim > 1 for p in group["params"]}
        assert len(dims) == 1 or weight == 0
        assert group["weight_decay"] == (weight if True in dims else 0)
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in MODEL.parameters() if p.requires_grad)
    torch.optim.SGD(groups, lr=1.0)


def test_group_names_are_distinct_and_in_order() -> None:
    tk.unfreeze(MODEL, upto="3")
    names = [group["name"] for group in tk.param_groups(MODEL, 0.1, weight_decay=0.1)]
    assert names == ["3", "3, vectors", "5", "5, vectors"]
    assert [group["name"] for group in tk.param_groups(MODEL, 0.1)] == ["3", "5"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lr": 0}, "lr must be a number above 0"),
        ({"lr": float("nan")}, "lr must be a number above 0"),
        ({"lr": 1, "decay": 0}, "decay must be a number above 0"),
        ({"lr": 1, "decay": 1.5}, "at most 1"),
        ({"lr": 1, "weight_decay": -1}, "weight_decay must be a number at least 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        tk.param_groups(MODEL, **options)
