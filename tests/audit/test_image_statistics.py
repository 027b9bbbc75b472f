from __future__ import annotations

import numpy as np
import pytest

from transferkit.audit.image_statistics import corner_statistics, image_statistics


def pictures(count=60, side=32, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    base = rng.normal(120, 5, (count, 1, 1, 1)) + rng.normal(0, 30, (count, side, side, channels))
    return np.clip(base, 0, 255).astype(np.uint8)


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
    assert "saturation" not in image_statistics(pictures(2))


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
    whole = image_statistics(images)
    monkeypatch.setattr("transferkit.audit.image_statistics._PIXELS_AT_ONCE", 1)
    np.testing.assert_equal(image_statistics(images), whole)


def test_the_smallest_images_have_statistics():
    smallest = np.zeros((2, 1, 1, 3), np.uint8)
    for found in (image_statistics(smallest[..., :1]), corner_statistics(smallest)):
        assert all(np.isfinite(values).all() for values in found.values())


def test_a_corner_marker_shows_in_its_corner():
    images = pictures(4)
    images[1, 1:4, -4:-1] = 255
    corners = corner_statistics(images)
    assert corners["peak at top right"].argmax() == 1
    assert [values.shape for values in corners.values()] == [(4,)] * 8
