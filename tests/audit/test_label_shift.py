from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from transferkit.audit.label_shift import label_shift_test
from transferkit.errors import DataError
from transferkit.metrics.intervals import wilson_interval


def test_shares_and_their_intervals_by_hand() -> None:
    found = label_shift_test([0, 0, 0, 1], [1, 1, 1, 0, 1], classes=("cat", "dog", "owl"))
    assert found.shares_a.tolist() == [0.75, 0.25, 0]
    assert found.shares_b.tolist() == [0.2, 0.8, 0]
    assert found.intervals_b[1].tolist() == pytest.approx(wilson_interval(4, 5))
    assert found.most_changed in ("cat", "dog")
    assert found.test.effect == pytest.approx(0.55)
    assert found.test.p_value > 0.05
    assert "owl" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["classes"] == ["cat", "dog", "owl"]


def test_pneumoniamnist_shifts_its_labels_from_val_to_test_only(shared_path: Path) -> None:
    with np.load(shared_path / "data" / "pneumoniamnist.npz") as data:
        train, val, test = (data[f"{name}_labels"].ravel() for name in ("train", "val", "test"))
    assert label_shift_test(train, val).test.p_value > 0.9
    found = label_shift_test(val, test).test
    assert found.p_value < 1e-4
    assert found.effect == pytest.approx(234 / 624 - 135 / 524)


def test_groups_widen_the_intervals_and_missing_classes_are_no_trouble() -> None:
    labels, groups = np.repeat([0, 1, 1, 0, 1], 40), np.repeat(np.arange(5), 40)
    alone = label_shift_test(labels, labels)
    by_group = label_shift_test(labels, labels, groups=(groups, groups + 5))
    assert np.ptp(by_group.intervals_a[0]) > 2 * np.ptp(alone.intervals_a[0])
    assert label_shift_test([0, 0], [0, 0], num_classes=3).test.p_value == 1


def test_labels_outside_the_classes_are_refused() -> None:
    with pytest.raises(DataError, match=r"got 2 as labels\[1\]"):
        label_shift_test([0, 2], [0, 1], num_classes=2)
    with pytest.raises(DataError, match="not empty"):
        label_shift_test([], [0])
