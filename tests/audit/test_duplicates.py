from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import ndimage

from transferkit.audit import near_duplicates
from transferkit.audit.audit_data import content_hashes
from transferkit.audit.checks_copies import (
    check_exact_duplicates,
    check_near_duplicates,
    leaked_rows,
)
from transferkit.audit.near_duplicates import near_duplicate_pairs

SPLITS = ("train", "val", "test")


def noise(count, side=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 1), dtype=np.uint8)


def named(splits):
    return {s: [f"{s}/{i}.png" for i in range(len(v))] for s, v in splits.items()}


def audit(splits):
    hashes = {name: content_hashes(images) for name, images in splits.items()}
    return check_exact_duplicates(hashes, names=named(splits))


def test_hashes_tell_pixels_and_shape():
    images = noise(3)
    images[2] = images[0]
    hashes = content_hashes(images)
    assert hashes[0] == hashes[2] != hashes[1]
    assert content_hashes(images.reshape(3, 12, 48, 1))[0] != hashes[0]
    one_bit = images.copy()
    one_bit[0, 0, 0, 0] ^= 1
    assert content_hashes(one_bit)[0] != hashes[0]


def test_planted_duplicates_come_back_with_their_names_and_nothing_else():
    splits = {"train": noise(30), "val": noise(10, seed=1), "test": noise(10, seed=2)}
    splits["val"][4] = splits["train"][7]
    splits["val"][5] = splits["train"][9]
    found = audit(splits)
    assert [(f.check, f.splits, f.statistic) for f in found] == [
        ("exact_duplicates", ("train", "val"), 2)
    ]
    assert found[0].severity == "error"
    assert found[0].effect == pytest.approx(0.2)
    assert found[0].interval[0] < 0.2 < found[0].interval[1]
    assert found[0].evidence[0].names == ("train/7.png", "val/4.png")


def test_each_leaked_or_repeated_image_is_one_pair():
    splits = {"train": noise(6), "test": noise(5, seed=1)}
    splits["train"][1] = splits["train"][0]
    splits["test"][:2] = splits["train"][0]
    by_check = {(f.check, f.splits): f for f in audit(splits)}
    assert by_check["exact_duplicates", ("train", "test")].statistic == 2
    assert by_check["exact_duplicates", ("train", "test")].effect == pytest.approx(2 / 5)
    assert by_check["repeated_images", ("train",)].statistic == 1
    assert by_check["repeated_images", ("test",)].statistic == 1


def test_without_duplicates_one_finding_says_so():
    found = audit({"train": noise(5), "test": noise(1, seed=1)})
    assert [(f.check, f.severity, f.statistic) for f in found] == [("exact_duplicates", "info", 0)]


def test_leaked_rows_look_into_every_other_split():
    a, b = content_hashes(noise(4)), content_hashes(noise(4, seed=1))
    assert leaked_rows(np.concatenate([a[:1], b[:1]]), [a, b]).tolist() == [True, True]
    assert leaked_rows(a, [b]).sum() == 0
    assert leaked_rows(a, []).sum() == 0


def test_the_eight_leaked_images_of_pneumoniamnist(shared_path):
    with np.load(shared_path / "data/pneumoniamnist.npz", allow_pickle=False) as file:
        splits = {name: file[f"{name}_images"][..., None] for name in SPLITS}
    found = [f for f in audit(splits) if f.check == "exact_duplicates"]
    assert [(f.splits, f.statistic) for f in found] == [(("train", "val"), 8)]
    assert len({item.names[1] for item in found[0].evidence}) == 8


def xrays(shared_path, count, seed):
    files = sorted((shared_path / "data/kermany224/train").rglob("*.jpeg"))
    # one film a patient: two films of one patient may really be near-duplicates
    chosen = np.random.default_rng(seed).choice(len(files), count, replace=False)
    return [Image.open(files[i]).convert("L") for i in chosen]


def jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(io.BytesIO(buffer.getvalue()))


def cropped(image, box):
    return image.crop(box).resize(image.size, Image.Resampling.BILINEAR)


EDITS = {
    "jpeg": jpeg,
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "centre crop": lambda image: cropped(image, (6, 6, 218, 218)),
    "corner crop": lambda image: cropped(image, (11, 11, 224, 224)),
    "wide crop": lambda image: cropped(image, (11, 11, 213, 213)),
    "rotation": lambda image: image.rotate(3, Image.Resampling.BILINEAR),
    "other rotation": lambda image: image.rotate(-3),
    "flip": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "upside down": lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
}


def stacked(images):
    return np.stack([np.asarray(image) for image in images])[..., None]


def test_edited_copies_of_x_rays_are_found(shared_path):
    originals = xrays(shared_path, 160, seed=0)
    copies = {kind: [edit(image) for image in originals[:40]] for kind, edit in EDITS.items()}
    for kind, edited in copies.items():
        pairs = near_duplicate_pairs(stacked(originals + edited))
        own = (pairs.second - 160 == pairs.first) & (pairs.second >= 160)
        assert own.sum() >= 38, kind
        assert (~own).sum() == 0, kind
        if "flip" in kind or "upside" in kind:
            assert all(pairs.edit)


@pytest.mark.slow
def test_at_most_one_false_pair_in_a_thousand_x_rays(shared_path):
    pairs = near_duplicate_pairs(stacked(xrays(shared_path, 1000, seed=1)))
    assert len(pairs) <= 1


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
    pairs = near_duplicate_pairs(images)
    assert (7, 299) in set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert 300 < sum(laid) < 300 * (24 + 8 + 8)


def test_near_duplicates_become_findings_by_split(shared_path):
    train, test = xrays(shared_path, 30, seed=2), xrays(shared_path, 20, seed=3)
    test[3] = EDITS["flip"](train[5])
    test[4] = train[6]
    images = stacked(train + test)
    names = [f"<b>{i}</b>.jpeg" for i in range(50)]
    findings = check_near_duplicates(
        near_duplicate_pairs(images),
        split_of=["train"] * 30 + ["test"] * 20,
        names=names,
        hashes=content_hashes(images),
    )
    across = [f for f in findings if f.splits == ("train", "test")]
    assert len(across) == 1
    assert across[0].evidence[0].names == (names[5], names[33])
    assert "flipped" in across[0].evidence[0].note
    assert across[0].severity == "error"


def test_blank_images_and_few_images_are_similar_to_nothing():
    blank = np.full((4, 64, 64, 3), 200, np.uint8)
    assert len(near_duplicate_pairs(blank)) == 0
    assert len(near_duplicate_pairs(blank[:1])) == 0
    assert len(near_duplicate_pairs(noise(2, side=8))) == 0
    only = check_near_duplicates(
        near_duplicate_pairs(blank), split_of=["train"] * 4, names=["a", "b", "c", "d"]
    )
    assert [(f.severity, f.statistic) for f in only] == [("info", 0)]


def test_embeddings_add_candidates_that_pixels_alone_would_not():
    images = noise(6, side=64)
    images = np.repeat(np.repeat(images[:, ::8, ::8], 8, axis=1), 8, axis=2)
    images[5] = images[0]
    features = np.eye(6)
    features[5] = features[0]
    pairs = near_duplicate_pairs(images, features=features)
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0], [5])
