"""A sample of all backbones, checked in every way: torchvision, and each family of timm."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "coverage.py"
TABLE = ROOT / "docs" / "data" / "coverage.csv"
CHECKS = ("build", "width", "staged", "channels_1", "channels_4", "freezing", "contract", "cut")
FIXED_STEM = {"timm/csatv2", "timm/csatv2_21m"}
Row = dict[str, str]


def read(path: Path) -> list[Row]:
    lines = path.read_text("utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The sample's rows, from two processes; networks above 25 million parameters by shape only."""
    if not SCRIPT.is_file():
        pytest.skip("the benchmarks are not here")
    out = tmp_path_factory.mktemp("coverage") / "sample.csv"
    command = [sys.executable, str(SCRIPT), "run", "--sample", "--out", str(out)]
    limits = ["--workers", "2", "--gigabytes", "0.1", "--thorough", "0"]
    done = subprocess.run(
        [*command, *limits],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return read(out)


def test_the_sample_is_all_of_torchvision_and_every_family_of_timm(rows: list[Row]) -> None:
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    assert sum(name.startswith("torchvision/") for name in names) == 80
    assert sum(name.startswith("timm/") for name in names) > 80


@pytest.mark.parametrize("check", CHECKS)
def test_no_check_fails(rows: list[Row], check: str) -> None:
    failed = {row["name"]: row["reason"] for row in rows if row[check] == "fail"}
    assert not failed


def test_only_a_fixed_stem_refuses_other_channels(rows: list[Row]) -> None:
    refused = {row["name"] for row in rows if "refused" in row.values()}
    assert refused <= FIXED_STEM
    assert all("3 channels" in row["reason"] for row in rows if row["name"] in refused)


def test_most_of_the_sample_is_run_for_real(rows: list[Row]) -> None:
    real = [row for row in rows if row["contract"] == "pass" and row["cut"] == "pass"]
    assert len(real) > 0.5 * len(rows)
    assert sum(row["modes_differ"] == "yes" for row in real) > 0.5 * len(real)


def test_the_published_table_has_every_backbone_and_no_failure() -> None:
    if not TABLE.is_file():
        pytest.skip("the published table is not here")
    published = read(TABLE)
    assert sum(row["name"].startswith("torchvision/") for row in published) == 80
    assert sum(row["name"].startswith("timm/") for row in published) == 1371
    assert not [row["name"] for row in published if "fail" in row.values()]
    refused = {row["name"] for row in published if "refused" in row.values()}
    assert refused == FIXED_STEM
