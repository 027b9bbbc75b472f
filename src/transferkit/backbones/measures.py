"""Measured facts of every backbone, packaged, so that listing builds nothing."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_FILE = "catalog.csv"


@dataclass(frozen=True, slots=True)
class Measures:
    """What was measured of one backbone when the table was made.

    Attributes:
        num_params: Parameters, its own classifier included.
        feature_dim: Width of the features.
        gflops: Thousand million multiply-adds for one image of the default input; None where
            it was not counted.
        image_size: Height and width of the default input.
        stages: How many stages it has.
    """

    num_params: int
    feature_dim: int
    gflops: float | None
    image_size: tuple[int, int]
    stages: int


@cache
def published_measures() -> dict[str, Measures]:
    """The packaged table: full names to measures."""
    path = files("transferkit.backbones") / _FILE
    if not path.is_file():
        return {}
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
    return {row["name"]: _measures(row) for row in csv.DictReader(lines)}


def _measures(row: dict[str, str]) -> Measures:
    _, height, width = map(int, row["input_size"].split("x"))
    return Measures(
        num_params=int(row["num_params"]),
        feature_dim=int(row["feature_dim"]),
        gflops=float(row["gflops"]) if row["gflops"] else None,
        image_size=(height, width),
        stages=int(row["stages"]),
    )
