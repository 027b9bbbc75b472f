from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as array_of

from transferkit.data import value_range
from transferkit.data.array_conversion import to_images, to_labels
from transferkit.data.image_decoding import drop_alpha
from transferkit.errors import DataError


def converted(images):
    return to_images(images)[0]


pixels = array_of(np.uint8, st.tuples(*[st.integers(1, 6)] * 2, st.sampled_from([1, 2, 5, 6])))


@given(pixels)
def test_every_type_that_holds_the_same_picture_gives_the_same_bytes(image):
    expected = image[..., None]
    # 0 is the same on every scale; one bright pixel makes each scale clear
    image[0, 0, 0] = 255
    expected = image[..., None]
    for same in (
        image,
        image.astype(np.int64),
        image.astype(np.uint16) * 257,
        image.astype(np.float32) / 255,
        image.astype(np.float64),
        torch.from_numpy(image.copy()),
        torch.from_numpy(image.astype(np.float32) / 255),
    ):
        np.testing.assert_array_equal(converted(same), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_first_and_last_agree(channels):
    images = np.random.default_rng(0).integers(0, 256, (5, 7, 6, channels), dtype=np.uint8)
    np.testing.assert_array_equal(converted(images.transpose(0, 3, 1, 2)), images)
    np.testing.assert_array_equal(converted(images), images)


def test_bool_becomes_black_and_white():
    assert converted(np.array([[[True, False]]])).ravel().tolist() == [255, 0]


def test_alpha_is_composited_on_black():
    rgba = np.array([[[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 51]]]], np.uint8)
    expected = [[200, 100, 50], [0, 0, 0], [40, 20, 10]]
    assert converted(rgba)[0, 0].tolist() == expected
    assert drop_alpha(rgba[0]).shape == (1, 3, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_pixel_that_is_no_number_is_named(value, monkeypatch):
    monkeypatch.setattr(value_range, "CHUNK_BYTES", 64)
    images = np.random.default_rng(0).random((9, 4, 5))
    images[6, 1, 2] = value
    with pytest.raises(DataError, match="NaN or infinite pixels in image 6"):
        converted(images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4)), "shape"),
        (np.zeros((2, 6, 6, 5)), "shape"),
        (np.full((2, 4, 5), -0.5), "before any normalisation"),
        (np.full((2, 4, 5), 300.0), "before any normalisation"),
        (np.full((2, 4, 5), 300), "0..255"),
        (np.full((2, 4, 5), 1.3), "fits neither"),
        (np.full((2, 4, 5), 200, np.uint16), "would make every pixel black.*bits=8"),
        (np.full((2, 4, 5), "x"), "numbers"),
        (np.array([None, None]), "Python objects"),
        ([[[1, 2], [3]]], "equal shape"),
    ],
)
def test_what_is_unclear_is_refused(images, message):
    with pytest.raises(DataError, match=message):
        converted(images)


def test_uint8_is_not_copied():
    images = np.zeros((3, 4, 4, 1), np.uint8)
    assert np.shares_memory(converted(images), images)


def test_labels_of_every_usual_form():
    for labels in ([0, 2, 1], [[0], [2], [1]], np.array([0.0, 2.0, 1.0]), torch.tensor([0, 2, 1])):
        got, names = to_labels(labels, None)
        assert got.dtype == np.int64
        assert got.tolist() == [0, 2, 1]
        assert names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog")),
        (np.array(["10", "9", "10"], dtype=object), [1, 0, 1], ("9", "10")),
        (np.eye(4)[[2, 0]], [2, 0], ("0", "1", "2", "3")),
        (np.eye(2, dtype=bool)[[1, 0]], [1, 0], ("0", "1")),
        ([True, False], [1, 0], ("0", "1")),
        ([3, 1, 2], [2, 0, 1], ("1", "2", "3")),
        ([0, 255, 255], [0, 1, 1], ("0", "255")),
        ([0, 2], [0, 2], ("0", "1", "2")),
        ([1, 1], [1, 1], ("0", "1")),
        ([1, 3], [1, 3], ("0", "1", "2", "3")),
    ],
)
def test_no_class_is_invented(labels, numbers, names):
    got, titles = to_labels(labels, None)
    assert got.tolist() == numbers
    assert titles == names


def test_labels_under_given_names():
    assert to_labels(["dog", "cat"], ["dog", "cat"])[0].tolist() == [0, 1]
    assert to_labels([1, 2, 3], ["a", "b", "c"])[0].tolist() == [0, 1, 2]
    assert to_labels([1, 2], ["a", "b", "c"])[0].tolist() == [1, 2]
    assert to_labels([0, 255], ["a", "b"])[0].tolist() == [0, 1]
    with pytest.raises(
        DataError, match=r"'eel' of labels\[0\] is none of the classes named: dog, cat"
    ):
        to_labels(["eel"], ["dog", "cat"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (1 - np.eye(3), "Multi-label"),
        ([["a", "b"]], "Multi-label"),
        (["a", None], "whole numbers"),
        ([0.5, 1.0], "whole numbers"),
        ([np.nan, 1.0], "whole numbers"),
    ],
)
def test_labels_of_other_forms_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        to_labels(labels, None)
