from __future__ import annotations

import numpy as np
import pytest

from transferkit._sampling import (
    deal_groups,
    deal_rows,
    draw_by_class,
    fold_numbers,
    group_codes,
    group_labels,
    interleave,
    quotas,
    rows_by_class,
    stratified_order,
)
from transferkit.errors import DataError


def test_group_codes_follow_the_sorted_names() -> None:
    assert group_codes(["b", "a", "b", "c"], 4).tolist() == [1, 0, 1, 2]
    assert group_codes(None, 3).tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"Expected groups of shape \(3,\), one value per image"):
        group_codes([1, 2], 3)


def test_quotas_add_up_and_are_proportional() -> None:
    assert quotas(np.array([3.0, 1.0]), 6).tolist() == [5, 1]
    assert quotas(np.array([1.0, 1.0, 1.0]), 10).tolist() == [4, 3, 3]


def test_draws_by_class_have_the_sizes_asked_for_and_no_repeats() -> None:
    labels = np.array([2, 0, 2, 2, 0, 2, 0, 2])
    rows = draw_by_class(labels, [2, 3], np.random.default_rng(0))
    assert len(set(rows.tolist())) == 5
    assert np.bincount(labels[rows]).tolist() == [2, 0, 3]
    assert (np.diff(rows) > 0).all()


def test_groups_stay_together_in_an_order_and_count_by_their_main_class() -> None:
    groups = np.repeat(np.arange(30), 4)
    labels = (groups % 3 == 0).astype(int)
    order = stratified_order(labels, groups, rng=np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(120))
    assert (np.diff(groups[order]) != 0).sum() == 29
    assert np.bincount(labels[order[:36]]).tolist() == [24, 12]
    assert group_labels(np.array([0, 1, 1, 0]), np.array([0, 0, 0, 1])).tolist() == [1, 0]


def test_every_beginning_of_interleaved_classes_is_stratified() -> None:
    labels = np.repeat([0, 1], [30, 10])
    order = interleave(rows_by_class(labels, np.random.default_rng(0)))
    assert sorted(order.tolist()) == list(range(40))
    for end in (8, 20, 32):
        assert np.bincount(labels[order[:end]]).tolist() == [end * 3 // 4, end // 4]
    first = interleave(rows_by_class(labels), first=2)
    assert sorted(first[:4].tolist()) == [0, 1, 30, 31]


def test_draws_without_groups_meet_the_counts_exactly() -> None:
    labels = np.repeat([0, 1, 2], [30, 50, 20])
    counts = np.array([[20, 30, 10], [5, 10, 0], [5, 10, 10]])
    split = deal_rows(labels, counts, np.random.default_rng(0))
    found = [np.bincount(labels[split == s], minlength=3) for s in range(3)]
    np.testing.assert_array_equal(found, counts)


def test_draws_by_group_keep_groups_whole_and_sizes_nearly() -> None:
    rng = np.random.default_rng(0)
    groups = np.sort(rng.integers(0, 150, 600))
    labels = rng.integers(0, 2, 600)
    wanted = np.array([[200, 200], [50, 50], [50, 50]])
    split = deal_groups(labels, groups, wanted, rng)
    assert all(len(np.unique(split[groups == g])) == 1 for g in np.unique(groups))
    np.testing.assert_allclose(np.bincount(split, minlength=3), [400, 100, 100], atol=15)


def test_single_image_groups_are_drawn_like_images() -> None:
    labels = np.arange(200) % 2
    counts = np.array([[60, 60], [20, 20], [20, 20]])
    split = deal_groups(labels, np.arange(200), counts, np.random.default_rng(0))
    found = [np.bincount(labels[split == s], minlength=2) for s in range(3)]
    np.testing.assert_array_equal(found, counts)


@pytest.mark.parametrize("folds", [2, 4, 5])
def test_folds_hold_every_class_in_its_share(folds: int) -> None:
    """Classes of equal size too, where a random order of ties would leave the shares to chance."""
    labels = np.repeat([0, 1, 2], [100, 100, 7])
    fold = fold_numbers(labels, folds, None, rng=np.random.default_rng(0))
    counts = np.array([np.bincount(labels[fold == number], minlength=3) for number in range(folds)])
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(counts.sum(axis=1)) <= 1
    groups = np.repeat(np.arange(60), 3)
    fold = fold_numbers(groups % 2, folds, groups, rng=np.random.default_rng(0))
    assert all(len(set(fold[groups == group].tolist())) == 1 for group in range(60))
    counts = np.array([np.bincount(groups[fold == n] % 2, minlength=2) for n in range(folds)])
    assert np.ptp(counts, axis=0).max() <= 3
