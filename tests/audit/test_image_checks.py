from __future__ import annotations

import numpy as np
import pytest

from transferkit.audit.checks_images import (
    check_blank,
    check_low_information,
    check_odd_sizes,
    check_outlying,
    check_sizes,
    check_truncated,
    check_unreadable,
    robust_scores,
)
from transferkit.audit.image_statistics import corner_statistics, image_statistics
from transferkit.errors import DataError


def pictures(count=60, side=32, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    base = rng.normal(120, 5, (count, 1, 1, 1)) + rng.normal(0, 30, (count, side, side, channels))
    return np.clip(base, 0, 255).astype(np.uint8)


def named(count):
    return [f"{i}.png" for i in range(count)]


def test_statistics_agree_with_their_definitions():
    images = pictures(5, channels=3)
    stats = image_statistics(images, sizes=np.array([[10, 20]] * 5))
    grey = images.astype(float) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(stats["brightness"], grey.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(stats["contrast"], grey.std(axis=(1, 2)), rtol=1e-4)
    np.testing.assert_allclose(stats["aspect"], 2)
    np.testing.assert_allclose(stats["mean green"], images[..., 1].mean(axis=(1, 2)))
    counts = np.bincount(np.rint(grey[0].astype(np.float32)).astype(int).ravel())
    shares = counts[counts > 0] / counts.sum()
    assert stats["entropy"][0] == pytest.approx(-(shares * np.log2(shares)).sum(), abs=1e-3)
    assert "saturation" not in image_statistics(pictures(2)).names


def test_noise_is_measured_under_a_picture():
    y, x = np.mgrid[0:64, 0:64]
    ramp = 60 + x + 0.5 * y
    rng = np.random.default_rng(0)
    noisy = np.rint(ramp + rng.normal(0, 8, (6, 64, 64)))[..., None].astype(np.uint8)
    clean = np.rint(ramp)[None, ..., None].astype(np.uint8)
    np.testing.assert_allclose(image_statistics(noisy)["noise"], 8, rtol=0.08)
    assert image_statistics(clean)["noise"][0] < 0.6


def test_sharpness_falls_with_blur_and_saturation_with_grey():
    sharp = pictures(3)
    blurred = ((sharp.astype(int) + np.roll(sharp, 1, axis=2)) // 2).astype(np.uint8)
    assert (image_statistics(blurred)["sharpness"] < image_statistics(sharp)["sharpness"]).all()
    grey = np.repeat(sharp, 3, axis=3)
    assert image_statistics(grey)["saturation"].max() == 0
    red = grey.copy()
    red[..., 1:] = 0
    assert image_statistics(red)["saturation"].min() > 0.9


def test_blocks_change_nothing(monkeypatch):
    images = pictures(7, channels=3)
    whole = image_statistics(images).values
    monkeypatch.setattr("transferkit.audit.image_statistics._PIXELS_AT_ONCE", 1)
    np.testing.assert_array_equal(image_statistics(images).values, whole)


def test_the_smallest_images_have_statistics():
    assert np.isfinite(image_statistics(np.zeros((2, 1, 1, 1), np.uint8)).values).all()
    assert np.isfinite(corner_statistics(np.zeros((2, 1, 1, 3), np.uint8)).values).all()
    with pytest.raises(DataError, match="1 or 3 channels"):
        image_statistics(np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(DataError, match="3 sizes for 2"):
        image_statistics(np.zeros((2, 4, 4, 1), np.uint8), sizes=np.ones((3, 2), int))


def test_a_corner_marker_shows_in_its_corner():
    images = pictures(4)
    images[1, 1:4, -4:-1] = 255
    corners = corner_statistics(images)
    assert corners["peak at top right"].argmax() == 1
    assert corners.values.shape == (4, 8)


def planted():
    images = pictures(200)
    images[3] = 77
    images[4, :, :] = np.where(np.arange(32)[:, None, None] < 16, 60, 190)
    images[5] = np.clip(images[5].astype(int) + 110, 0, 255)
    images[6, 20:] = 128
    return images


def test_planted_images_are_found_and_no_others():
    images = planted()
    stats, names = image_statistics(images), named(200)
    found = {
        check.__name__: [
            item.names[0] for item in check(stats, names=names, split="train").evidence
        ]
        for check in (check_blank, check_low_information, check_odd_sizes, check_outlying)
    }
    assert found["check_blank"] == ["3.png"]
    assert found["check_low_information"] == ["4.png"]
    assert found["check_odd_sizes"] == []
    assert "5.png" in found["check_outlying"]
    assert set(found["check_outlying"]) <= {"4.png", "5.png", "6.png"}
    cut = check_truncated(images, names=names, split="train")
    assert [item.names for item in cut.evidence] == [("6.png",)]
    assert cut.severity == "warning"


def test_clean_images_raise_no_complaint():
    stats, names = image_statistics(pictures(100)), named(100)
    for check in (check_blank, check_low_information, check_odd_sizes, check_outlying):
        finding = check(stats, names=names, split="train")
        assert (finding.severity, finding.statistic) == ("info", 0)


def test_odd_sizes_by_area_and_by_aspect():
    rng = np.random.default_rng(0)
    sizes = np.column_stack([rng.integers(900, 1100, 100), rng.integers(1200, 1400, 100)])
    sizes[7], sizes[8] = (60, 80), (400, 3000)
    stats = image_statistics(pictures(100), sizes=sizes)
    found = check_odd_sizes(stats, names=named(100), split="test")
    assert [item.names[0] for item in found.evidence] == ["7.png", "8.png"]


def test_sizes_that_differ_between_splits_are_an_error():
    stats = {"train": image_statistics(pictures(4)), "test": image_statistics(pictures(4, side=28))}
    (found,) = check_sizes(stats)
    assert (found.check, found.severity, found.splits) == (
        "image_size_shift",
        "error",
        ("train", "test"),
    )
    assert "32 x 32" in found.message
    same = check_sizes({"train": stats["train"], "val": stats["train"]})
    assert [f.severity for f in same] == ["info"]


def test_unreadable_files_are_named():
    found = check_unreadable([("a/<i>.png", "truncated")], total=9)
    assert found.effect == pytest.approx(0.1)
    assert found.evidence[0].names == ("a/<i>.png",)
    assert check_unreadable([], total=9).severity == "info"


def test_robust_scores_survive_ties_and_constants():
    assert robust_scores(np.ones(5)).tolist() == [0] * 5
    tied = robust_scores(np.array([1.0] * 99 + [2.0]))
    assert tied[-1] > 8
    assert robust_scores(np.zeros(0)).shape == (0,)
