from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage
from sklearn.datasets import load_digits

import transferkit as tk
from transferkit.audit import near_duplicates
from transferkit.audit.near_duplicates import near_duplicate_pairs, places, similar_pairs


def noise(count, side=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 1), dtype=np.uint8)


def jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(io.BytesIO(buffer.getvalue()))


def cropped(image, box):
    return image.crop(box).resize(image.size, Image.Resampling.BILINEAR)


CORNER = (11, 11, 224, 224)
EDITS = {
    "jpeg": jpeg,
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "centre crop": lambda image: cropped(image, (6, 6, 218, 218)),
    "corner crop": lambda image: cropped(image, CORNER),
    "wide crop": lambda image: cropped(image, (11, 11, 213, 213)),
    "rotation": lambda image: image.rotate(3, Image.Resampling.BILINEAR),
    "other rotation": lambda image: image.rotate(-3),
    "flipped": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "upside down": lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "turned by 180 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "other quarter, turned by 90 degrees": lambda image: image.transpose(
        Image.Transpose.ROTATE_270
    ),
    "flipped and turned by 90 degrees": lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    "negative": ImageOps.invert,
    "negative, flipped": lambda image: cropped(ImageOps.mirror(ImageOps.invert(image)), CORNER),
    "negative, turned by 90 degrees": lambda image: ImageOps.invert(image.rotate(93)),
}


def stacked(images):
    return np.stack([np.asarray(image) for image in images])[..., None]


def test_edited_copies_of_x_rays_are_found_and_how_they_were_edited(xrays):
    originals = xrays(160, seed=0)
    parts = np.array_split(np.arange(160), len(EDITS))
    edits = list(EDITS.values())
    edited = [edits[part](originals[row]) for part, rows in enumerate(parts) for row in rows]
    pairs = near_duplicate_pairs([stacked(originals), stacked(edited)])
    assert (pairs.second == pairs.first + 160).all()
    assert (pairs.certain.sum(), len(pairs.first)) >= (158, 158)
    for row, change in zip(pairs.first.tolist(), pairs.change, strict=True):
        (kind,) = (kind for kind, rows in zip(EDITS, parts, strict=True) if row in rows)
        turned = "turned" in kind or "flipped" in kind or kind in ("upside down", "negative")
        assert change == (kind.removeprefix("other quarter, ") if turned else "")


@pytest.mark.parametrize(
    "side", [32, 64, *(pytest.param(side, marks=pytest.mark.slow) for side in (96, 128))]
)
def test_different_phantoms_are_no_copies_of_each_other(side):
    splits = tk.phantom_splits(sizes={"train": 100, "test": 100}, image_size=side, seed=side)
    images = [part.images for part in splits.values()]
    pairs = near_duplicate_pairs(images)
    assert not pairs.certain.any()
    lighter = np.minimum(images[0][:20], 250) + 3  # every third pixel and more changes
    pairs = near_duplicate_pairs([*images, lighter])
    assert set(zip(pairs.first[pairs.certain], pairs.second[pairs.certain], strict=True)) == {
        (row, 200 + row) for row in range(20)
    }


def test_different_digits_are_no_copies_of_each_other():
    digits = (load_digits().images[:600] * 255 / 16).astype(np.uint8)[..., None]
    pairs = near_duplicate_pairs([digits, digits[:20, :, ::-1]])
    assert set(zip(pairs.first[pairs.certain], pairs.second[pairs.certain], strict=True)) == {
        (row, 600 + row) for row in range(20)
    }


@pytest.mark.parametrize("copies", [1, 7])
def test_what_different_images_correlate_by_is_not_taken_from_their_copies(xrays, copies):
    originals = xrays(24, seed=5)
    turned = [[image.rotate(0.5 * angle) for image in originals] for angle in range(1, copies + 1)]
    pairs = near_duplicate_pairs([stacked(originals), *map(stacked, turned)])
    own = pairs.first % 24 == pairs.second % 24
    assert own.sum() >= 0.85 * 24 * copies * (copies + 1) / 2
    assert not (pairs.certain & ~own).any()
    assert (pairs.certain & own).sum() >= 0.95 * own.sum()


@pytest.mark.slow
def test_at_most_one_false_pair_in_a_thousand_x_rays(xrays):
    pairs = near_duplicate_pairs([stacked(xrays(1000, seed=1))])
    assert pairs.certain.sum() <= 1


def test_images_that_look_alike_take_a_linear_number_of_comparisons(monkeypatch):
    rng = np.random.default_rng(0)
    base = ndimage.gaussian_filter(rng.normal(size=(64, 64)), 6)
    fine = ndimage.gaussian_filter(rng.normal(size=(300, 64, 64)), (0, 2, 2))
    mixed = base / base.std() + 0.2 * fine / fine.std()
    images = np.clip(128 + 40 * mixed, 0, 255).astype(np.uint8)[..., None]
    images[299] = images[7][:, ::-1]
    laid = []
    register = near_duplicates.register

    def counting(templates, moving, warps, *, iterations):
        laid.append(len(templates))
        return register(templates, moving, warps, iterations=iterations)

    monkeypatch.setattr(near_duplicates, "register", counting)
    pairs = near_duplicate_pairs([images])
    assert (7, 299) in set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert 300 < sum(laid) < 300 * (12 + 8 + 8)


def test_blank_images_and_few_images_are_similar_to_nothing():
    blank = np.full((4, 64, 64, 3), 200, np.uint8)
    assert len(near_duplicate_pairs([blank]).first) == 0
    assert len(near_duplicate_pairs([blank[:1]]).first) == 0
    assert len(near_duplicate_pairs([noise(2, side=8)]).first) == 0


@pytest.fixture
def units():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 6))[rng.integers(0, 12, 90)] + rng.normal(size=(90, 6))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("rows", [90, 7, 1])
@pytest.mark.parametrize("buckets", [1, 4])
def test_a_look_up_finds_what_brute_force_finds_and_no_row_finds_itself(
    units, rows, buckets, monkeypatch
):
    monkeypatch.setattr(near_duplicates, "_ROWS", rows)
    first, second, cosine = similar_pairs(units, units, floor=0.6, most=90, buckets=units[:buckets])
    expected = np.argwhere(units @ units.T - 2 * np.eye(len(units)) >= 0.6)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == set(
        map(tuple, expected.tolist())
    )
    np.testing.assert_allclose(cosine, (units[first] * units[second]).sum(axis=1), atol=1e-6)


@pytest.mark.parametrize("buckets", [1, 4])
def test_each_row_keeps_its_most_similar_partners(units, buckets):
    first, _, cosine = similar_pairs(units, units, floor=0.1, most=2, buckets=units[:buckets])
    for row, whole in enumerate(units @ units.T - 2 * np.eye(len(units))):
        best = np.sort(whole)[-2:]
        np.testing.assert_allclose(np.sort(cosine[first == row]), best[best >= 0.1], atol=1e-6)


def test_buckets_find_the_nearest_rows_at_a_fraction_of_the_products(monkeypatch):
    monkeypatch.setattr(near_duplicates, "_BUCKET", 50)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1000, 16)) * np.linspace(2, 0.2, 16)
    rows = np.concatenate([rows, rows + 0.2 * rng.normal(size=rows.shape)])
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    centres = near_duplicates._buckets(rows)
    assert len(centres) == 40  # of which each query asks 4
    first, second, _ = similar_pairs(rows, rows, floor=0.5, most=4, buckets=centres)
    copies = set(zip(first.tolist(), second.tolist(), strict=True))
    assert sum((row, 1000 + row) in copies for row in range(1000)) >= 990


def test_places_count_from_the_highest_of_each_row():
    rows = np.array([3, 1, 3, 1, 3, 0])
    scores = np.array([0.5, 0.2, 0.9, 0.1, 0.7, -1.0])
    assert places(rows, scores).tolist() == [2, 0, 0, 1, 1, 0]
    assert len(places(rows[:0], scores[:0])) == 0
