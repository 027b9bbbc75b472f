"""Reduced forms of benchmarks/audit_calibration.py, and the figures it has left."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
if not (FOLDER / "audit_calibration.py").is_file():
    pytest.skip("the benchmarks are not here", allow_module_level=True)
pytest.importorskip("matplotlib")
sys.path.append(str(FOLDER))
names = ("draws", "images", "null", "planted", "power", "rate", "tables")
audit_draws, audit_images, audit_null, audit_planted, audit_power, audit_rate, audit_tables = (
    import_module(f"audit_{name}") for name in names
)
audit_families = import_module("audit_families")
sys.path.remove(str(FOLDER))


@pytest.mark.parametrize("size", [(20, 20), (30, 90)])
@pytest.mark.parametrize(
    "name", ["ks, 1 feature", "ks, 8 features", "mmd", "classifier, linear", "chi-square"]
)
def test_false_alarms_are_as_rare_as_alpha_says(name: str, size: tuple[int, int]) -> None:
    repeats = 40
    counts = {
        kind: audit_null.alarms(name, kind, *size, repeats=repeats, seed=7)
        for kind in audit_null.SAMPLERS
    }
    assert sum(counts.values()) <= audit_null.bounds(repeats * len(counts))[1], counts
    assert max(counts.values()) <= audit_null.bounds(repeats)[1] + 1, counts


@pytest.mark.parametrize("name", ["classifier, fourier"])
def test_false_alarms_of_the_other_forms(name: str) -> None:
    test_false_alarms_are_as_rare_as_alpha_says(name, (40, 25))


@pytest.fixture(scope="module")
def digits() -> object:
    """Digits as their 64 pixels, without the backbone, under three of the shifts."""
    images, labels = audit_images.digits()
    variants = {"none": images}
    for i, name in enumerate(("noise large", "image medium", "flips")):
        variants[name] = audit_images.EDITS[name](images, np.random.default_rng(i))
    rows = {k: v[:, ::4, ::4].reshape(len(v), -1).astype(np.float32) for k, v in variants.items()}
    return audit_draws.Images("digits", rows, labels)


def detections(images: object, shift: str, share: float, n: int, draws: int) -> dict[str, float]:
    cell = audit_draws.Cell("digits", shift, share, n)
    rows = audit_draws.ask(audit_power.OURS, images, cell, draws)
    return {row.test: row.detections / row.draws for row in rows}


def test_shifts_of_digits_are_seen_by_every_test(digits: object) -> None:
    assert set(detections(digits, "noise large", 1.0, 100, 4).values()) == {1.0}
    assert set(detections(digits, "image medium", 1.0, 200, 3).values()) == {1.0}
    assert set(detections(digits, "knock-out large", 1.0, 800, 2).values()) == {1.0}


def test_the_absence_of_a_shift_is_seen_too(digits: object) -> None:
    assert max(detections(digits, "none", 1.0, 100, 20).values()) <= 0.2


def test_source_and_target_share_no_image_and_the_stated_part_is_changed(digits: object) -> None:
    numbered = np.arange(len(digits.labels), dtype=np.float32)[:, None]
    images = audit_draws.Images("x", {"none": numbered, "moved": numbered + 1e6}, digits.labels)
    source, target = images.draw(audit_draws.Cell("x", "moved", 0.1, 500), 3)
    assert len(np.unique(np.concatenate([source, target % 1e6]))) == 1000
    assert (target >= 1e6).sum() == 50
    missing = images.draw(audit_draws.Cell("x", "knock-out large", 1.0, 500), 3)[1]
    assert 0 not in digits.labels[missing[:, 0].astype(int)]
    assert images.draw(audit_draws.Cell("x", "knock-out large", 1.0, 890), 3) is None


def test_a_run_that_was_cut_off_goes_on(
    digits: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "digits.npz", labels=digits.labels, **digits.variants)
    words = [str(tmp_path / "digits.npz"), "--csv", str(tmp_path / "power.csv")]
    words += ["--sizes", "10", "--draws", "1", "--shifts", "flips", "knock-out small"]
    monkeypatch.setattr(sys, "argv", ["audit_power.py", *words])
    audit_power.main()
    rows = audit_draws.read_rows(tmp_path / "power.csv")
    assert {row.test for row in rows} == {*audit_power.OURS.tests, "together"}
    monkeypatch.setattr(sys, "argv", ["audit_power.py", *words, "none"])
    audit_power.main()
    again = audit_draws.read_rows(tmp_path / "power.csv")
    assert again[: len(rows)] == rows
    assert {row.shift for row in again[len(rows) :]} == {"none"}
    assert {row.draws for row in again[len(rows) :]} == {audit_draws.MORE}


def test_the_images_move_as_they_should() -> None:
    image = np.zeros((1, 9, 9), np.uint8)
    image[0, 4, 6] = 200
    rng = np.random.default_rng(0)
    assert (audit_images.Moves()(image, rng) == image).all()
    turned = [audit_images.Moves(flip=True)(image, rng)[0] for _ in range(20)]
    assert {int(np.argmax(one[4])) for one in turned} == {2, 6}
    wide = np.concatenate([audit_images.Moves(shift=0.2)(image, rng) for _ in range(20)])
    assert len({int(one.argmax()) for one in wide}) > 5


def test_audits_without_a_shift_alarm_rarely() -> None:
    header, *rows = audit_families.null(3)
    assert header[2:] == ("alarms of shift", "alarms of class shares")
    assert [row[0] for row in rows] == ["independent", "groups", "straddling"]
    assert sum(int(alarms) for row in rows for alarms in row[2:]) <= 2


def test_the_page_says_what_the_tables_say(tmp_path: Path) -> None:
    page = tmp_path / "audit.md"
    page.write_text(audit_tables.PAGE.read_text("utf-8"), "utf-8")
    audit_tables.write_tables(page, tmp_path)
    assert page.read_text("utf-8") == audit_tables.PAGE.read_text("utf-8")
    for name in ("audit_null.md", "audit_power.md", "audit_peers.md", "audit_planted.md"):
        made = (tmp_path / name).read_text("utf-8")
        assert made == (audit_tables.RESULTS / name).read_text("utf-8"), name


def test_the_figures_are_as_good_as_is_claimed() -> None:
    rows = audit_null.read_null(audit_null.NULL)
    assert {row.test for row in rows} == set(audit_null.TESTS)
    assert {row.features for row in rows} == set(audit_null.SAMPLERS)
    assert not [row for row in rows if row.alarms > audit_null.bounds(row.draws)[1]]
    ours = [row for row in audit_draws.read_rows(audit_draws.POWER) if row.library == "transferkit"]
    calm = [row for row in ours if row.shift == "none"]
    assert not [row for row in calm if row.detections > audit_null.bounds(row.draws)[1]]
    planted = audit_planted.read_planted(audit_planted.PLANTED)
    assert all(abs(row.mean - row.truth) < 0.02 for row in planted)
    assert all(row.covered >= 0.93 * row.repetitions for row in planted)


@pytest.mark.parametrize("case", ["200 images", "50 patients of 4 images"])
def test_reports_on_one_source_hardly_ever_warn_of_a_difference(case: str) -> None:
    warned = [bool(checks) for checks in audit_rate.false_alarms(audit_rate.CASES[case], 10)]
    assert sum(warned) <= audit_null.bounds(10)[1]


def test_whole_reports_keep_alpha() -> None:
    rows = audit_rate.read_rate()
    assert {row.case for row in rows} == set(audit_rate.CASES)
    assert not [row for row in rows if row.alarms > audit_null.bounds(row.draws)[1]]
    (many,) = (row for row in rows if "200 classes" in row.case)
    assert many.seconds <= 60
