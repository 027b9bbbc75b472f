from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from transferkit.audit.audit_data import AuditData, SplitArrays
from transferkit.audit.checks_shift import (
    ScopeShift,
    corrected,
    distribution_shift,
    label_shift,
    located,
    shift_tests,
)
from transferkit.audit.domain_classifier import domain_classifier_test
from transferkit.audit.kolmogorov_smirnov import ks_test
from transferkit.audit.mmd import mmd_test
from transferkit.audit.two_sample import SplitPair
from transferkit.metrics.intervals import wilson_interval

RNG = np.random.default_rng(0)
NAMES = ("normal", "pneumonia")


ALL = (ks_test, mmd_test, domain_classifier_test)


def compare(
    a, b, *, labels=None, groups=None, classes=("0", "1"), tests=ALL, **options
) -> list[ScopeShift]:
    pair = SplitPair.of(a, b, labels=labels, groups=groups)
    return corrected(shift_tests(pair, classes=classes, tests=tests, **options))


def shifted(scopes: list[ScopeShift]) -> bool:
    return any(scope.p_value <= 0.05 for scope in scopes)


def data(splits, group=None, *, bright="") -> AuditData:
    """Noise images with the given features and labels; those of the split ``bright`` are bright."""
    parts = {}
    for name, (features, labels) in splits.items():
        n = len(features)
        images = np.random.default_rng(0).integers(0, 100, (n, 16, 16, 1), dtype=np.uint8)
        images += np.uint8(100 if name == bright else 0)
        groups = [group] * n if isinstance(group, str) else group
        names = [f"{name}/{i}.png" for i in range(n)]
        parts[name] = SplitArrays(images, names, features, labels=labels, groups=groups)
    return AuditData(parts, ("0", "1"))


def pneumonia_blocks(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Means of 7 x 7 blocks and labels, per split."""
    with np.load(folder / "data" / "pneumoniamnist.npz") as data:
        return {
            name: (
                data[f"{name}_images"].reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(-1, 49),
                data[f"{name}_labels"].ravel(),
            )
            for name in ("train", "val", "test")
        }


def test_pneumoniamnist_shifts_to_test_in_class_normal_and_not_to_val(shared_path: Path) -> None:
    splits = pneumonia_blocks(shared_path)
    rows, labels = splits["train"]
    run = partial(compare, rows, classes=NAMES)
    val = run(splits["val"][0], labels=(labels, splits["val"][1]))
    assert not shifted(val)
    assert located(val, 0.05) == []
    assert val[0].tests[2].statistic == pytest.approx(0.51, abs=0.02)
    test = run(splits["test"][0], labels=(labels, splits["test"][1]))
    assert shifted(test)
    assert located(test, 0.05) == ["normal"]
    _, normal, pneumonia = test
    assert normal.effect > 2 * pneumonia.effect


def test_the_auc_of_trivial_statistics_is_the_known_one(shared_path: Path) -> None:
    with np.load(shared_path / "data" / "pneumoniamnist.npz") as data:
        arrays = {name: data[name] for name in data.files}
    rows, labels = {}, {}
    for name in ("train", "test"):
        flat = arrays[f"{name}_images"].reshape(len(arrays[f"{name}_images"]), -1)
        quantiles = np.percentile(flat, [5, 25, 50, 75, 95], axis=1).T
        rows[name] = np.column_stack([flat.mean(axis=1), flat.std(axis=1), quantiles])
        labels[name] = arrays[f"{name}_labels"].ravel()
    found = compare(
        rows["train"],
        rows["test"],
        labels=(labels["train"], labels["test"]),
        tests=[domain_classifier_test],
    )
    aucs = [scope.tests[0].statistic for scope in found]
    assert aucs == pytest.approx([0.59, 0.70, 0.57], abs=0.03)
    assert located(found, 0.05) == ["0"]


def planted(shift: tuple[float, float], shares: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    labels = (RNG.random(300) < shares).astype(int)
    rows = RNG.normal(size=(300, 6)) + 2 * labels[:, None] * np.eye(6)[0]
    rows[:, 3] += np.array(shift)[labels]
    return rows, labels


def test_a_shift_in_one_class_is_placed_there() -> None:
    a, labels_a = planted((0.0, 0.0))
    b, labels_b = planted((0.0, 1.0))
    found = compare(a, b, labels=(labels_a, labels_b), tests=ALL)
    assert located(found, 0.05) == ["1"]
    assert found[1].p_value > 0.05
    assert "feature[3]" in found[2].tests[0].note


def test_other_class_shares_alone_show_over_all_rows_and_in_no_class() -> None:
    a, labels_a = planted((0.0, 0.0), shares=0.2)
    b, labels_b = planted((0.0, 0.0), shares=0.8)
    found = compare(a, b, labels=(labels_a, labels_b))
    assert shifted(found)
    assert found[0].p_value <= 0.05
    assert located(found, 0.05) == []


def test_null_shifts_are_called_rarely() -> None:
    calls = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        a, b = np.maximum(rng.normal(size=(2, 40, 4)), 0)
        labels = (np.arange(40) % 2, np.arange(40) % 2)
        calls += shifted(compare(a, b, labels=labels, seed=seed))
    assert calls <= 6


def test_a_class_that_can_never_reject_is_left_out_and_the_finding_says_so() -> None:
    a, b = RNG.normal(size=(40, 2)), RNG.normal(size=(37, 2))
    labels = (np.array([0] * 38 + [1, 1]), np.array([0] * 35 + [1, 1]))
    found = compare(a, b, labels=labels, classes=("x", "y", "z"))
    assert [scope.class_name for scope in found] == [None, "x"]
    findings = list(distribution_shift(data({"a": (a, labels[0]), "b": (b, labels[1])})))
    assert {f.class_name for f in findings} == {None, "0"}
    assert all("1 of 2 classes hold too few" in f.message for f in findings if f.class_name is None)


def test_default_permutations_let_the_correction_reject() -> None:
    a = RNG.normal(size=(60, 3))
    labels = np.arange(60) % 10
    found = compare(a, a + 10, labels=(labels, labels), classes=range(10), tests=[mmd_test])
    assert found[0].p_value <= 0.05


def test_groups_are_respected_in_every_scope() -> None:
    code = np.arange(160) // 16
    rows = RNG.normal(size=(10, 3))[code] + 0.1 * RNG.normal(size=(160, 3))
    labels = np.arange(160) % 2
    groups = (code[:80], code[80:])
    split = (labels[:80], labels[80:])
    assert shifted(compare(rows[:80], rows[80:], labels=split))
    assert not shifted(compare(rows[:80], rows[80:], labels=split, groups=groups))


def test_a_shift_is_reported_with_its_columns_and_its_images() -> None:
    bright = data({"train": planted((0.0, 0.0)), "test": planted((0.0, 1.5))}, bright="test")
    found = {(f.check, f.class_name): f for f in distribution_shift(bright)}
    overall = found["embedding_shift", None]
    assert overall.severity != "info"
    assert "mostly in class 1" in overall.message
    assert found["embedding_shift", "0"].severity == "info"
    statistics = found["statistics_shift", None]
    assert "higher in the second split" in str(statistics.evidence[0])
    drivers = found["shift_drivers", None]
    assert {item.note for item in drivers.evidence} == {"typical of train", "typical of test"}
    assert all(item.names[0].startswith(item.note[11:]) for item in drivers.evidence)


def test_splits_of_one_group_are_not_compared() -> None:
    one = data({"a": (RNG.normal(size=(9, 2)), None), "b": (RNG.normal(size=(9, 2)), None)}, "p")
    assert [f.message for f in distribution_shift(one)] == [
        "a and b hold 1 and 1 groups, too few to show any shift."
    ]


def test_label_shift_names_the_class_that_changed_most() -> None:
    rows = np.zeros((200, 1))
    splits = {"a": (rows, np.arange(200) % 2), "b": (rows, (np.arange(200) % 10 == 0).astype(int))}
    (found,) = label_shift(data({**splits, "c": (rows, None)}))
    assert found.severity == "error"
    assert found.message == "Class shares differ: 0 makes up 50.0 % of a and 90.0 % of b."
    assert found.effect == pytest.approx(0.4)
    low, high = wilson_interval(20, 200)
    assert str(found.evidence[3]) == f"1: 10.0 % [{100 * low:.1f}, {100 * high:.1f}] of b"


def test_groups_widen_the_intervals_of_class_shares() -> None:
    labels = np.repeat([0, 1, 1, 0, 1], 40)
    splits = {"a": (np.zeros((200, 1)), labels), "b": (np.zeros((200, 1)), labels)}
    names = [str(i // 40) for i in range(200)]
    (alone,), (by_group,) = label_shift(data(splits)), label_shift(data(splits, names))
    assert str(alone.evidence[0]) == "0: 40.0 % [33.5, 46.9] of a"
    assert str(by_group.evidence[0]) == "0: 40.0 % [7.4, 84.7] of a"


def test_label_shift_of_few_images_is_seen_among_fifteen_splits() -> None:
    # Expected counts below 10: a permutation test, whose p-values 105 comparisons must not drown.
    rows = np.zeros((16, 1))
    splits = {f"s{i}": (rows, np.r_[0, np.ones(15, int)]) for i in range(15)}
    splits["s7"] = (rows, np.r_[1, np.zeros(15, int)])
    found = {f.splits: f for f in label_shift(data(splits))}
    assert len(found) == 105
    differ = {pair for pair, finding in found.items() if finding.p_value <= 0.05}
    assert differ == {pair for pair in found if "s7" in pair}
