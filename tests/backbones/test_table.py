"""Backbones side by side."""

from __future__ import annotations

import pytest

from transferkit.backbones.table import backbone_table
from transferkit.errors import ConfigError


def test_a_table_to_choose_from() -> None:
    table = backbone_table("resnet*", source="torchvision", max_params=30_000_000)
    assert [row.name for row in table] == [
        "torchvision/resnet18",
        "torchvision/resnet34",
        "torchvision/resnet50",
    ]
    row = table.rows[-1]
    assert (row.num_params, row.feature_dim, row.image_size) == (25_557_032, 2048, (224, 224))
    assert row.gflops == pytest.approx(4.089)
    assert (row.weights, row.tags, row.stages) == ("IMAGENET1K_V2", 2, 5)
    assert row.top1 == pytest.approx(80.858)
    assert "IMAGENET1K_V2 (+1)  bsd-3-clause  25.6 M    4.09" in str(table)
    assert table.to_dict()["backbones"][2]["image_size"] == [224, 224]  # type: ignore[index,call-overload]


def test_orders() -> None:
    by_size = [row.num_params for row in backbone_table("*net*", source="timm", order="params")]
    assert by_size == sorted(by_size)
    assert len(by_size) > 300
    by_cost = [row.gflops for row in backbone_table(source="torchvision", order="gflops")]
    assert by_cost == sorted(by_cost, key=float)
    best = backbone_table(order="top1").rows[0]
    assert best.name == "torchvision/resnext101_64x4d" or best.top1 is not None
    with pytest.raises(ConfigError, match="gflops"):
        backbone_table("resnet18", order="speed")  # type: ignore[arg-type]


def test_licences_that_forbid_commercial_use_show() -> None:
    (swag,) = backbone_table("regnet_y_128gf")
    assert swag.non_commercial is True
    assert "cc-by-nc-4.0 (no commercial use)" in str(backbone_table("regnet_y_128gf"))
    assert "non-commercial" not in str(backbone_table("torchvision/resnet*"))
