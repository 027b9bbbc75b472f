from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from transferkit.audit.audit_data import AuditData
from transferkit.audit.checks_labels import (
    conflicting_labels,
    empty_classes,
    missing_labels,
    shortcuts,
    statistic_auc,
)
from transferkit.audit.image_statistics import ImageStatistics
from transferkit.audit.near_duplicates import DuplicatePairs


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (50, 16, 16, 1), dtype=np.uint8)


def test_one_picture_under_two_labels_is_found(noise, audit_of):
    noise[9] = noise[2]
    noise[12] = noise[11]
    labels = np.zeros(50, int)
    labels[9] = 1
    (found,) = conflicting_labels(audit_of({"train": {"images": noise, "labels": labels}}))
    assert found.statistic == 2
    assert [item.names for item in found.evidence] == [("train/2.png", "train/9.png")]
    assert "a and b" in found.evidence[0].note
    assert found.severity == "error"


def test_near_duplicates_should_agree_too(noise, audit_of, monkeypatch):
    near = DuplicatePairs(np.array([0, 0]), np.array([1, 2]), np.ones(2), ("", ""))
    monkeypatch.setattr(AuditData, "copies", near)
    (found,) = conflicting_labels(
        audit_of({"train": {"images": noise, "labels": np.arange(50) % 2}})
    )
    assert [item.names for item in found.evidence] == [("train/0.png", "train/1.png")]


def test_agreeing_or_missing_labels_are_no_conflict(noise, audit_of):
    labels = np.zeros(50, int)
    (found,) = conflicting_labels(audit_of({"train": {"images": noise, "labels": labels}}))
    assert found.severity == "info"
    assert list(conflicting_labels(audit_of({"train": noise}))) == []


def test_missing_labels_and_empty_classes_are_said(noise, audit_of):
    some = {"images": noise, "labels": np.zeros(50, int)}
    data = audit_of({"train": some, "val": some, "test": noise})
    assert [(f.splits, f.severity) for f in missing_labels(data)] == [(("test",), "info")]
    assert [(f.splits, f.class_name, f.severity) for f in empty_classes(data)] == [
        (("train",), "b", "error"),
        (("val",), "b", "warning"),
    ]
    assert [f.severity for f in missing_labels(audit_of({"test": noise}))] == ["warning"]


@pytest.fixture
def find_shortcuts(audit_of, monkeypatch):
    """Look for shortcuts in statistics (N, S) that stand in for those of the images."""

    def find(values, labels, classes=("a", "b"), names=("brightness",)):
        columns = np.asarray(values, float).reshape(len(labels), -1)
        measured = ImageStatistics(columns, tuple(names))
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
