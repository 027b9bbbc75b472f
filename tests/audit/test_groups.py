from __future__ import annotations

import pytest

from transferkit.audit.checks_copies import check_groups, straddling_rows
from transferkit.errors import DataError


def test_straddling_groups_are_found_with_both_files():
    groups = {"train": ["p1", "p2", "p2"], "val": ["p3"], "test": ["p2", "p4", "p2", "p1"]}
    names = {split: [f"{split}/{i}" for i in range(len(v))] for split, v in groups.items()}
    found = check_groups(groups, names=names)
    assert [(f.splits, f.statistic, f.effect) for f in found] == [(("train", "test"), 2, 0.75)]
    assert found[0].severity == "error"
    assert found[0].evidence[0].names == ("train/1", "test/0")
    assert straddling_rows(groups["test"], groups["train"]).tolist() == [True, False, True, True]


def test_groups_apart_are_no_complaint_and_lengths_must_fit():
    names = {"train": ["a"], "test": ["b"]}
    found = check_groups({"train": ["p"], "test": ["q"]}, names=names)
    assert [(f.severity, f.statistic) for f in found] == [("info", 0)]
    with pytest.raises(DataError, match="one group per image of test"):
        check_groups({"train": ["p"], "test": []}, names=names)
