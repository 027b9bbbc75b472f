from __future__ import annotations

import pytest

from transferkit.audit.groups import check_groups, parse_groups, straddling_rows
from transferkit.errors import ConfigError, DataError

PATTERN = r"(person\d+|(NORMAL2-)?IM-\d+)"


def test_groups_are_read_from_the_names():
    names = ["a/person12_virus_3.jpeg", "NORMAL2-IM-0095-0001.jpeg", "IM-0095-0001.jpeg", "x.png"]
    assert parse_groups(names, PATTERN) == ("person12", "NORMAL2-IM-0095", "IM-0095", "x.png")


def test_the_x_rays_fall_into_known_numbers_of_groups(shared_path):
    root = shared_path / "data/kermany224"
    names = [str(path.relative_to(root)) for path in root.rglob("*.jpeg")]
    assert len(names) == 2400
    assert len(set(parse_groups(names, PATTERN))) == 2052
    # the film numbers begin anew in each folder
    assert len(set(parse_groups(names, f"^(train|test).*?{PATTERN}"))) == 2110


def test_a_pattern_that_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="regular expression"):
        parse_groups(["a"], "(")
    with pytest.raises(ConfigError, match="fits none of 2 names"):
        parse_groups(["a", "b"], "patient")
    assert parse_groups([], "patient") == ()


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
