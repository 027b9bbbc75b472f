from __future__ import annotations

import numpy as np
import pytest

from transferkit.audit.checks_images import (
    BROKEN,
    ODD,
    broken_and_odd_images,
    corrupt_files,
    image_sizes,
    robust_scores,
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
    assert found == [("info", 0)] * len(BROKEN + ODD)


def test_odd_sizes_by_area_and_by_aspect(audit_of):
    rng = np.random.default_rng(0)
    sizes = np.column_stack([rng.integers(900, 1100, 100), rng.integers(1200, 1400, 100)])
    sizes[7], sizes[8] = (60, 80), (400, 3000)
    data = audit_of({"test": {"images": pictures(100), "sizes": sizes}})
    (found,) = (
        finding for finding in broken_and_odd_images(data) if finding.check == "odd_sized_images"
    )
    assert [item.names[0] for item in found.evidence] == ["test/7.png", "test/8.png"]


def test_a_few_taller_images_of_a_small_split_are_no_error(audit_of):
    sizes = np.random.default_rng(0).integers(990, 1010, (43, 2))
    sizes[:12, 0] += 600
    data = audit_of({"test": {"images": pictures(43), "sizes": sizes}})
    (found,) = (f for f in broken_and_odd_images(data) if f.check == "odd_sized_images")
    assert (found.statistic, found.severity) == (12, "warning")  # 28 %, proven: 17 %


def test_images_unlike_the_others_are_told_by_kind(audit_of):
    images = pictures(200)
    images[:3] = np.clip(images[:3].astype(int) + 70, 0, 255)
    data = audit_of({"train": images})
    (found,) = (f for f in broken_and_odd_images(data) if f.check == "outlying_images")
    assert found.message.startswith("3 images of train are unlike the others of their split: ")
    assert "high brightness" in found.message
    assert {item.names[0] for item in found.evidence} == {f"train/{i}.png" for i in range(3)}
    assert found.advice


def test_sizes_that_differ_between_splits_are_an_error(audit_of):
    (found,) = image_sizes(audit_of({"train": pictures(20), "test": pictures(20, side=28)}))
    assert (found.check, found.severity, found.splits) == (
        "image_size_shift",
        "error",
        ("train", "test"),
    )
    assert "32 x 32" in found.message
    same = image_sizes(audit_of({"train": pictures(4), "val": pictures(4)}))
    assert [f.severity for f in same] == ["info"]


def test_sizes_that_are_hardly_ever_shared_prove_nothing(audit_of):
    rng = np.random.default_rng(0)
    parts = {
        split: {"images": pictures(40), "sizes": rng.integers(300, 3000, (40, 2))}
        for split in ("train", "test")
    }
    assert {f.severity for f in image_sizes(audit_of(parts))} == {"info"}
    few = {"train": pictures(3), "test": pictures(3, side=28)}
    assert {f.severity for f in image_sizes(audit_of(few))} == {"info"}


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
