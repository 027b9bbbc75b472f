from __future__ import annotations

import numpy as np
import pytest

from transferkit.audit.audit_data import AuditData
from transferkit.audit.checks_splits import (
    conflicting_labels,
    empty_classes,
    exact_duplicates,
    few_images,
    look_alikes,
    missing_labels,
    near_duplicates,
    repeated_images,
    straddling_groups,
    useless_embedding,
)
from transferkit.audit.near_duplicates import DuplicatePairs

SPLITS = ("train", "val", "test")


def noise(count, side=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 1), dtype=np.uint8)


def exact(data):
    return [*exact_duplicates(data), *repeated_images(data)]


def test_planted_duplicates_come_back_with_their_names_and_nothing_else(audit_of):
    splits = {"train": noise(30), "val": noise(10, seed=1), "test": noise(10, seed=2)}
    splits["val"][4] = splits["train"][7]
    splits["val"][5] = splits["train"][9]
    found = exact(audit_of(splits))
    assert [(f.check, f.splits, f.statistic) for f in found] == [
        ("exact_duplicates", ("train", "val"), 2)
    ]
    assert found[0].severity == "error"
    assert found[0].effect == pytest.approx(0.2)
    assert found[0].interval[0] < 0.2 < found[0].interval[1]
    assert found[0].evidence[0].names == ("train/7.png", "val/4.png")


def test_each_leaked_or_repeated_image_is_one_pair(audit_of):
    splits = {"train": noise(6), "test": noise(5, seed=1)}
    splits["train"][1] = splits["train"][0]
    splits["test"][:2] = splits["train"][0]
    by_check = {(f.check, f.splits): f for f in exact(audit_of(splits))}
    assert by_check["exact_duplicates", ("train", "test")].statistic == 2
    assert by_check["exact_duplicates", ("train", "test")].effect == pytest.approx(2 / 5)
    assert by_check["repeated_images", ("train",)].statistic == 1
    assert by_check["repeated_images", ("test",)].statistic == 1


def test_without_duplicates_one_finding_says_so(audit_of):
    found = exact(audit_of({"train": noise(5), "test": noise(1, seed=1)}))
    assert [(f.check, f.severity, f.statistic) for f in found] == [("exact_duplicates", "info", 0)]


def test_the_eight_leaked_images_of_pneumoniamnist(shared_path, audit_of):
    with np.load(shared_path / "data/pneumoniamnist.npz", allow_pickle=False) as file:
        splits = {name: file[f"{name}_images"][..., None] for name in SPLITS}
    found = [f for f in exact(audit_of(splits)) if f.check == "exact_duplicates"]
    assert [(f.splits, f.statistic) for f in found] == [(("train", "val"), 8)]
    assert len({item.names[1] for item in found[0].evidence}) == 8


def test_near_duplicates_become_findings_by_split(xrays, audit_of):
    train, test = (np.stack(xrays(n, seed=s))[..., None] for n, s in ((30, 2), (20, 3)))
    test[3] = train[5][:, ::-1]
    test[4] = train[6]
    findings = list(near_duplicates(audit_of({"train": train, "test": test}, near_duplicates=True)))
    across = [f for f in findings if f.splits == ("train", "test")]
    assert len(across) == 1
    assert across[0].evidence[0].names == ("train/5.png", "test/3.png")
    assert "flipped" in across[0].evidence[0].note
    assert across[0].severity == "warning"  # 1 of 20 proves less than the 1 % of an error


def test_no_near_duplicates_is_one_finding_and_not_looking_is_none(audit_of):
    blank = np.full((4, 64, 64, 3), 200, np.uint8)
    (only,) = near_duplicates(audit_of({"train": blank}, near_duplicates=True))
    assert (only.severity, only.statistic) == ("info", 0)
    assert list(near_duplicates(audit_of({"train": blank}))) == []


def grouped(groups):
    return {s: {"images": noise(len(own)), "groups": own} for s, own in groups.items()}


def test_straddling_groups_are_found_with_both_files(audit_of):
    groups = {"train": ["p1", "p2", "p2"], "val": ["p3"], "test": ["p2", "p4", "p2", "p1"]}
    found = list(straddling_groups(audit_of(grouped(groups))))
    assert [(f.splits, f.statistic, f.effect) for f in found] == [(("train", "test"), 2, 0.75)]
    assert found[0].severity == "error"
    assert found[0].evidence[0].names == ("train/1.png", "test/0.png")


def test_groups_apart_are_no_complaint_and_without_groups_nothing_is_said(audit_of):
    found = straddling_groups(audit_of(grouped({"train": ["p"], "test": ["q"]})))
    assert [(f.severity, f.statistic) for f in found] == [("info", 0)]
    assert list(straddling_groups(audit_of({"train": noise(1), "test": noise(1)}))) == []


def test_few_images_and_features_that_never_vary_are_said(audit_of):
    wide = {"images": noise(6), "features": np.ones((6, 8))}
    data = audit_of({"train": wide, "test": noise(9)})
    assert [(f.splits, f.severity) for f in few_images(data)] == [(("train",), "warning")]
    assert [f.severity for f in useless_embedding(data)] == ["warning"]
    varied = audit_of({"train": {**wide, "features": np.eye(6)}})
    assert [list(check(varied)) for check in (few_images, useless_embedding)] == [[], []]


def test_a_head_that_was_never_trained_is_said(audit_of):
    varied = {"images": noise(6), "features": np.eye(6)}
    (found,) = useless_embedding(audit_of({"train": varied}, untrained_head=True))
    assert (found.severity, "never trained" in found.message) == ("warning", True)


@pytest.fixture
def pool():
    return np.random.default_rng(0).integers(0, 256, (50, 16, 16, 1), dtype=np.uint8)


def test_one_picture_under_two_labels_is_found(pool, audit_of):
    pool[9] = pool[2]
    pool[12] = pool[11]
    labels = np.zeros(50, int)
    labels[9] = 1
    (found,) = conflicting_labels(audit_of({"train": {"images": pool, "labels": labels}}))
    assert found.statistic == 2
    assert [item.names for item in found.evidence] == [("train/2.png", "train/9.png")]
    assert "a and b" in found.evidence[0].note
    assert found.severity == "error"


def test_near_duplicates_should_agree_too(pool, audit_of, monkeypatch):
    near = DuplicatePairs(
        np.array([0, 0, 0]),
        np.array([1, 2, 3]),
        np.array([0.99, 0.99, 0.9]),
        ("", "", ""),
        limit=0.95,
    )
    monkeypatch.setattr(AuditData, "copies", near)
    (found,) = conflicting_labels(
        audit_of({"train": {"images": pool, "labels": np.arange(50) % 2}})
    )
    assert [item.names for item in found.evidence] == [("train/0.png", "train/1.png")]


def test_pairs_that_are_not_certain_to_be_copies_only_look_alike(pool, audit_of, monkeypatch):
    one = np.array([0]), np.array([1]), np.array([0.8])
    monkeypatch.setattr(AuditData, "copies", DuplicatePairs(*one, ("",), limit=0.9))
    data = audit_of({"train": pool})
    (nothing,), (unsure,) = near_duplicates(data), look_alikes(data)
    assert (nothing.check, nothing.statistic) == ("near_duplicates", 0)
    assert (unsure.check, unsure.severity, unsure.statistic) == ("look_alikes", "info", 1)
    assert [item.names for item in unsure.evidence] == [("train/0.png", "train/1.png")]


def test_agreeing_or_missing_labels_are_no_conflict(pool, audit_of):
    labels = np.zeros(50, int)
    (found,) = conflicting_labels(audit_of({"train": {"images": pool, "labels": labels}}))
    assert found.severity == "info"
    assert list(conflicting_labels(audit_of({"train": pool}))) == []


def test_missing_labels_and_empty_classes_are_said(pool, audit_of):
    some = {"images": pool, "labels": np.zeros(50, int)}
    data = audit_of({"train": some, "val": some, "test": pool})
    assert [(f.splits, f.severity) for f in missing_labels(data)] == [(("test",), "info")]
    assert [(f.splits, f.class_name, f.severity) for f in empty_classes(data)] == [
        (("train",), "b", "error"),
        (("val",), "b", "warning"),
    ]
    assert [f.severity for f in missing_labels(audit_of({"test": pool}))] == ["warning"]
