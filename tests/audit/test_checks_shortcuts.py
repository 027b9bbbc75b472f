from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from transferkit.audit.audit_data import AuditData
from transferkit.audit.checks_shortcuts import likeness, shortcuts, statistic_auc


@pytest.fixture
def find_shortcuts(audit_of, monkeypatch):
    """Look for shortcuts in statistics (N, S) that stand in for those of the images."""

    def find(values, labels, classes=("a", "b"), names=("brightness",), groups=None):
        columns = np.asarray(values, float).reshape(len(labels), -1)
        side = {"height": np.full(len(labels), 4.0), "width": np.full(len(labels), 4.0)}
        measured = side | dict(zip(names, columns.T, strict=True))
        monkeypatch.setattr(AuditData, "statistics", {"train": measured})
        constant = np.zeros((len(labels), 4, 4, 1), np.uint8)  # whose corners tell nothing
        part = {"images": constant, "labels": np.asarray(labels), "groups": groups}
        return list(shortcuts(audit_of({"train": part}, classes=classes)))

    return find


def test_an_area_is_that_of_scikit_learn_ties_included():
    rng = np.random.default_rng(0)
    values, positive = rng.integers(0, 6, 80).astype(float), rng.random(80) < 0.4
    found = statistic_auc(values, positive, np.arange(80))
    assert found.value == pytest.approx(roc_auc_score(positive, values))
    assert found.interval[0] < found.value < found.interval[1]


def test_area_intervals_cover():
    rng = np.random.default_rng(0)
    truth, hits = 0.760250, 0  # of normals one standard deviation apart
    for _ in range(400):
        positive = np.arange(80) < 30
        found = statistic_auc(rng.normal(size=80) + positive, positive, np.arange(80))
        hits += found.interval[0] <= truth <= found.interval[1]
    assert hits / 400 >= 0.93


@pytest.mark.parametrize("mixed", [False, True])
def test_groups_of_alike_images_prove_no_more_than_groups(mixed):
    """20 patients of 12 images: the level is kept, whether or not a patient has both classes."""
    rng, rejected = np.random.default_rng(1), 0
    groups = np.repeat(np.arange(20), 12)
    for _ in range(400):
        values = rng.normal(size=20)[groups] + 0.3 * rng.normal(size=240)
        positive = rng.permutation(240) < 120 if mixed else (rng.permutation(20) < 10)[groups]
        rejected += statistic_auc(values, positive, groups).p_value <= 0.05
    assert binomtest(rejected, 400, 0.05, alternative="greater").pvalue > 0.001
    doubled = [np.repeat(one, 2) for one in (values, positive, groups)]
    once, twice = statistic_auc(values, positive, groups), statistic_auc(*doubled)
    assert twice.interval == pytest.approx(once.interval, abs=1e-9)


def test_six_patients_give_no_shortcut_away(find_shortcuts):
    """Whatever one patient's images share would tell that patient's class."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(6), 30)
    for _ in range(40):
        values = rng.normal(size=(6, 20))[groups] + 0.1 * rng.normal(size=(180, 20))
        names = tuple(map(str, range(20)))
        (found,) = find_shortcuts(values, groups % 2, names=names, groups=[f"p{g}" for g in groups])
        assert found.severity == "info"


def sized(labels, sizes, **parts):
    images = np.zeros((len(labels), 4, 4, 1), np.uint8)
    return {"train": {"images": images, "labels": labels, "sizes": np.array(sizes), **parts}}


def test_an_exact_size_that_means_a_class_is_a_shortcut(audit_of):
    """1024 x 1024 is never of class b, whose sizes lie below and above."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    sides = rng.integers(600, 1500, 400)
    sides[(labels == 0) & (rng.random(400) < 0.7)] = 1024
    data = audit_of(sized(labels, np.stack([sides, sides], axis=1)))
    (found,) = shortcuts(data)
    assert (found.severity, found.class_name) == ("warning", "b")
    assert "the exact size" in found.message
    assert "1024 x 1024: 0 of" in found.message
    shuffled = audit_of(sized(rng.permutation(labels), np.stack([sides, sides], axis=1)))
    assert [f.severity for f in shortcuts(shuffled)] == ["info"]


@pytest.mark.parametrize("property_", ["the file format", "the colour mode"])
def test_a_format_or_mode_that_means_a_class_is_an_error(property_, audit_of):
    labels = np.arange(80) % 2
    images = np.random.default_rng(0).integers(100, 110, (80, 6, 6, 3), dtype=np.uint8)
    part = {"images": images, "labels": labels}
    if property_ == "the colour mode":
        images[labels == 0] = images[labels == 0][..., :1]
    else:
        part["names"] = [f"{i}.{'png' if label else 'JPG'}" for i, label in enumerate(labels)]
    (found,) = shortcuts(audit_of({"train": part}))
    assert found.severity == "error"
    if property_ == "the file format":
        assert property_ in found.message


def test_sizes_of_their_own_tell_nothing():
    codes, positive = np.arange(60), np.arange(60) < 30
    values = likeness(codes, positive, np.arange(60))
    assert roc_auc_score(positive, values) <= 0.5
    pairs = likeness(codes // 2, positive, codes // 2)  # each size is one patient's
    assert roc_auc_score(positive, pairs) <= 0.5


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
