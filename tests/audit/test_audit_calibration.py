"""A reduced form of benchmarks/audit_calibration.py: false alarms of every test, on every kind."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "audit_calibration.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    if not SCRIPT.is_file():
        pytest.skip("the benchmarks are not here")
    spec = importlib.util.spec_from_file_location("audit_calibration", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("size", [(20, 20), (30, 90)])
@pytest.mark.parametrize(
    "name", ["ks, 1 feature", "ks, 8 features", "mmd", "energy", "classifier, linear", "chi-square"]
)
def test_false_alarms_are_as_rare_as_alpha_says(
    benchmark: ModuleType, name: str, size: tuple[int, int]
) -> None:
    repeats = 40
    counts = {
        kind: benchmark.alarms(name, kind, *size, repeats=repeats, seed=7)
        for kind in benchmark.SAMPLERS
    }
    assert sum(counts.values()) <= benchmark.bounds(repeats * len(counts))[1], counts
    assert max(counts.values()) <= benchmark.bounds(repeats)[1] + 1, counts


@pytest.mark.parametrize("name", ["mmd, fourier", "classifier, fourier", "G"])
def test_false_alarms_of_the_other_forms(benchmark: ModuleType, name: str) -> None:
    test_false_alarms_are_as_rare_as_alpha_says(benchmark, name, (40, 25))


@pytest.mark.parametrize("detector", ["ks", "mmd", "energy", "classifier"])
def test_shifts_of_digits_are_seen_and_their_absence_too(
    benchmark: ModuleType, detector: str
) -> None:
    strong = benchmark.power(detector, "noise 100/255", 1.0, 100, draws=5)
    knocked = benchmark.power(detector, "knock-out 100 %", 1.0, 800, draws=3)
    calm = benchmark.power(detector, "none", 1.0, 100, draws=15)
    assert strong == 1
    assert knocked == 1
    assert calm <= 0.2
