"""The lowest versions that are tested are those that the package declares."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "tools" / "oldest_versions.txt"


def test_the_oldest_versions_that_are_tested_are_the_declared_ones() -> None:
    if not PINS.is_file():
        pytest.skip("the tools are not here")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["plots"], *extras["test"]]
    lowest = {line.replace(">=", "==") for line in declared if not line.startswith("transferkit")}
    lines = PINS.read_text("utf-8").splitlines()
    assert lowest == {line for line in lines if line and not line.startswith("#")}
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", line) for line in lowest)
