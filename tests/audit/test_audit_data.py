from __future__ import annotations

import numpy as np
import pytest

from transferkit.audit.audit_data import AuditData, SplitArrays, content_hashes
from transferkit.audit.two_sample import SplitPair


def split(count, seed, **parts):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 16, 16, 1), dtype=np.uint8)
    names = [f"{seed}/{i}.png" for i in range(count)]
    features = rng.normal(size=(count, 3)).astype(np.float32)
    return SplitArrays(images, names, features, labels=np.arange(count) % 2, **parts)


def three(**settings):
    splits = {"train": split(20, 0), "val": split(8, 1), "test": split(6, 2)}
    return AuditData(splits, ("a", "b"), **settings)


def test_pairs_are_every_two_splits_with_at_most_so_many_rows_of_each():
    data = three(max_images=7)
    assert [pair.splits for pair in data.pairs] == [
        ("train", "val"),
        ("train", "test"),
        ("val", "test"),
    ]
    pair = data.pairs[1]
    assert (pair.n_a, pair.n_b) == (7, 6)
    np.testing.assert_array_equal(pair.labels, pair.rows % 2)
    brightness = {name: own["brightness"] for name, own in data.statistics.items()}
    shown = pair.described_by(brightness, ["x"])
    np.testing.assert_array_equal(shown.values[:7, 0], brightness["train"][pair.rows[:7]])


def test_one_class_of_a_pair_keeps_its_rows_and_groups():
    labels, groups = (np.array([0, 1, 1]), np.array([1, 0])), (["p", "p", "q"], ["q", "r"])
    pair = SplitPair.of(np.arange(3.0), np.arange(2.0), labels=labels, groups=groups)
    one = pair.take(pair.labels == 1)
    assert (one.n_a, one.n_b, one.rows.tolist()) == (2, 1, [1, 2, 0])
    assert one.units == (2, 1)
    assert one.groups[1] == one.groups[2]


def test_without_all_groups_labels_or_scores_nothing_is_made_up():
    data = three()
    assert (data.groups, data.copies is not None) == (None, True)
    unlabelled = SplitArrays(data.splits["val"].images, ["x"] * 8, data.splits["val"].features)
    partly = AuditData({"train": data.splits["train"], "val": unlabelled}, ("a", "b"))
    assert partly.pairs[0].labels is None
    assert partly.gap is None
    assert partly.scores["val"].shape == (8, 2)
    alone = AuditData({"val": unlabelled}, ("a", "b"))
    assert (alone.scores, alone.pairs) == (None, ())


def test_the_gap_is_explained_once():
    data = three(seeds=(0,), samples=50)
    assert data.gap is data.gap
    assert data.gap.scored == "a probe on features"
    assert data.gap.val_score == pytest.approx(
        (data.scores["val"].argmax(axis=1) == data.labels["val"]).mean()
    )


def test_hashes_tell_pixels_and_shape():
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 1), dtype=np.uint8)
    images[2] = images[0]
    hashes = content_hashes(images)
    assert hashes[0] == hashes[2] != hashes[1]
    assert content_hashes(images.reshape(3, 12, 48, 1))[0] != hashes[0]
    one_bit = images.copy()
    one_bit[0, 0, 0, 0] ^= 1
    assert content_hashes(one_bit)[0] != hashes[0]


def test_what_leaked_from_train_is_its_pixels_its_copies_and_its_groups():
    train, val = split(20, 0, groups=["p"] * 20), split(8, 1, groups=["q"] * 7 + ["p"])
    val.images[2], val.images[4] = train.images[5], train.images[6] // 2
    data = AuditData({"train": train, "val": val}, ("a", "b"))
    assert np.flatnonzero(data.leaked("val")).tolist() == [2, 4, 7]
