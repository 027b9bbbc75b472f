from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from transferkit.audit.audit_data import AuditData
from transferkit.audit.checks_images import (
    BROKEN,
    ODD,
    broken_and_odd_images,
    corrupt_files,
    image_sizes,
    robust_scores,
    shortcuts,
    statistic_auc,
)


def pictures(count=60, side=32, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    base = rng.normal(120, 5, (count, 1, 1, 1)) + rng.normal(0, 30, (count, side, side, channels))
    return np.clip(base, 0, 255).astype(np.uint8)


def planted():
    images = pictures(200)
    images[3] = 77
    images[4, :, :] = np.where(np.arange(32)[:, None, None] < 16, 60, 190)
    images[5] = np.clip(images[5].astype(int) + 110, 0, 255)
    images[6, 20:] = 128
    return images


def test_planted_images_are_found_and_no_others(audit_of):
    data = audit_of({"train": planted()})
    findings = {finding.check: finding for finding in broken_and_odd_images(data)}
    found = {name: [item.names[0] for item in f.evidence] for name, f in findings.items()}
    assert found["blank_images"] == ["train/3.png"]
    assert found["low_information_images"] == ["train/4.png"]
    assert found["odd_sized_images"] == []
    assert "train/5.png" in found["outlying_images"]
    assert set(found["outlying_images"]) <= {f"train/{i}.png" for i in (4, 5, 6)}
    assert found["corrupt_images"] == ["train/6.png"]
    assert findings["corrupt_images"].severity == "warning"


def test_clean_images_raise_no_complaint(audit_of):
    data = audit_of({"train": pictures(100)})
    found = [(finding.severity, finding.statistic) for finding in broken_and_odd_images(data)]
    assert found == [("info", 0)] * len(BROKEN | ODD)


def test_odd_sizes_by_area_and_by_aspect(audit_of):
    rng = np.random.default_rng(0)
    sizes = np.column_stack([rng.integers(900, 1100, 100), rng.integers(1200, 1400, 100)])
    sizes[7], sizes[8] = (60, 80), (400, 3000)
    data = audit_of({"test": {"images": pictures(100), "sizes": sizes}})
    (found,) = (
        finding for finding in broken_and_odd_images(data) if finding.check == "odd_sized_images"
    )
    assert [item.names[0] for item in found.evidence] == ["test/7.png", "test/8.png"]


def test_sizes_that_differ_between_splits_are_an_error(audit_of):
    (found,) = image_sizes(audit_of({"train": pictures(4), "test": pictures(4, side=28)}))
    assert (found.check, found.severity, found.splits) == (
        "image_size_shift",
        "error",
        ("train", "test"),
    )
    assert "32 x 32" in found.message
    same = image_sizes(audit_of({"train": pictures(4), "val": pictures(4)}))
    assert [f.severity for f in same] == ["info"]


def test_unreadable_files_are_named(audit_of):
    skipped = [("a/<i>.png", "truncated")]
    (found,) = corrupt_files(audit_of({"train": pictures(9)}, skipped=skipped))
    assert found.effect == pytest.approx(0.1)
    assert found.evidence[0].names == ("a/<i>.png",)
    assert next(corrupt_files(audit_of({"train": pictures(9)}))).severity == "info"


def test_robust_scores_survive_ties_and_constants():
    assert robust_scores(np.ones(5)).tolist() == [0] * 5
    tied = robust_scores(np.array([1.0] * 99 + [2.0]))
    assert tied[-1] > 8


@pytest.fixture
def find_shortcuts(audit_of, monkeypatch):
    """Look for shortcuts in statistics (N, S) that stand in for those of the images."""

    def find(values, labels, classes=("a", "b"), names=("brightness",)):
        columns = np.asarray(values, float).reshape(len(labels), -1)
        measured = dict(zip(names, columns.T, strict=True))
        monkeypatch.setattr(AuditData, "statistics", {"train": measured})
        constant = np.zeros((len(labels), 4, 4, 1), np.uint8)  # whose corners tell nothing
        part = {"images": constant, "labels": np.asarray(labels)}
        return list(shortcuts(audit_of({"train": part}, classes=classes)))

    return find


def test_an_area_is_that_of_scikit_learn_ties_included():
    rng = np.random.default_rng(0)
    values, positive = rng.integers(0, 6, 80).astype(float), rng.random(80) < 0.4
    found = statistic_auc(values, positive)
    assert found.value == pytest.approx(roc_auc_score(positive, values))
    assert found.interval[0] < found.value < found.interval[1]


def test_area_intervals_cover():
    rng = np.random.default_rng(0)
    truth, hits = 0.760250, 0  # of normals one standard deviation apart
    for _ in range(400):
        positive = np.arange(80) < 30
        found = statistic_auc(rng.normal(size=80) + positive, positive)
        hits += found.interval[0] <= truth <= found.interval[1]
    assert hits / 400 >= 0.93


def test_a_corner_marker_is_a_shortcut(audit_of):
    rng = np.random.default_rng(0)
    images = rng.normal(100, 20, (300, 40, 40, 1)).clip(0, 255).astype(np.uint8)
    labels = np.arange(300) % 2
    marked = (labels == 1) & (rng.random(300) < 0.97)
    images[marked, 1:5, -6:-1] = 255
    part = {"images": images, "labels": labels}
    found = list(shortcuts(audit_of({"train": part}, classes=("normal", "pneumonia"))))
    assert [(f.severity != "info", f.class_name) for f in found] == [(True, "pneumonia")]
    assert "top right" in found[0].message
    assert found[0].evidence


def test_exposure_that_gives_the_label_away_is_an_error(find_shortcuts):
    labels = np.arange(400) % 2
    values = 100 + 40 * labels + np.random.default_rng(0).normal(0, 5, 400)
    (found,) = find_shortcuts(values, labels)
    assert found.severity == "error"
    (mirrored,) = find_shortcuts(-values, labels)
    assert mirrored.severity == "error"
    assert mirrored.interval[0] == pytest.approx(found.interval[0])


def test_noise_gives_no_shortcut_away(find_shortcuts):
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(60):
        found = find_shortcuts(
            rng.normal(size=(60, 20)), rng.integers(0, 2, 60), names=tuple(map(str, range(20)))
        )
        alarms += found[0].severity != "info"
        assert len(found) == 1
    assert alarms == 0


def test_one_of_three_classes_can_be_the_one_given_away(find_shortcuts):
    labels = np.arange(300) % 3
    values = np.where(labels == 2, 50.0, 0.0) + np.random.default_rng(0).normal(size=300)
    assert [f.class_name for f in find_shortcuts(values, labels, ("a", "b", "c"))] == ["c"]


@pytest.mark.parametrize("labels", [[0] * 20, [0] * 18 + [1] * 2, [1]])
def test_too_few_images_of_a_class_are_said(labels, find_shortcuts):
    (found,) = find_shortcuts(np.arange(len(labels)), labels)
    assert (found.severity, "too few" in found.message) == ("info", True)


def test_constant_statistics_are_no_shortcut(find_shortcuts):
    (found,) = find_shortcuts(np.ones(40), np.arange(40) % 2)
    assert found.severity == "info"
