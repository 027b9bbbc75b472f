"""Heads by name and by callable."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from transferkit.errors import ConfigError
from transferkit.models.heads import build_head


def test_a_linear_head_is_one_layer() -> None:
    head = build_head("linear", 5, 3, dropout=0)
    assert isinstance(head, nn.Linear)
    assert head(torch.ones(2, 5)).shape == (2, 3)


def test_dropout_is_where_it_is_asked_for() -> None:
    head = build_head("linear", 5, 3, dropout=0.4)
    drops = [m.p for m in head.modules() if isinstance(m, nn.Dropout)]
    assert drops == [0.4]
    head = build_head("mlp", 5, 3, dropout=0.2)
    drops = [m.p for m in head.modules() if isinstance(m, nn.Dropout)]
    assert drops == [0.2, 0.2]


def test_an_mlp_head_has_one_hidden_layer() -> None:
    head = build_head("mlp", 5, 3, dropout=0)
    layers = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in layers] == [(5, 512), (512, 3)]


def normed(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, classes))


def test_a_callable_gets_width_and_classes() -> None:
    head = build_head(normed, 5, 3, dropout=0)
    assert head.training
    assert torch.equal(head[0].running_mean, torch.zeros(5))


@pytest.mark.parametrize(
    ("head", "dropout", "says"),
    [
        ("linear", 1.0, "dropout"),
        ("linear", -0.1, "dropout"),
        ("forest", 0.0, "'linear', 'mlp' or a callable"),
        (lambda d, k: nn.Linear(d, k), 0.5, "leave dropout at 0"),
        (lambda d, k: nn.Linear(d, k + 1), 0.0, r"got \(2, 4\)"),
        (lambda d, k: nn.Linear(d + 1, k), 0.0, "cannot take features"),
        (lambda d, k: torch.zeros(d, k), 0.0, "nn.Module"),
    ],
)
def test_bad_heads_are_refused(head: object, dropout: float, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_head(head, 5, 3, dropout=dropout)
