from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from transferkit.audit.checks_shift import bbsd_test, shift_test
from transferkit.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
NAMES = ("normal", "pneumonia")


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
    run = partial(shift_test, rows, classes=NAMES, permutations=199)
    val = run(splits["val"][0], labels=(labels, splits["val"][1]))
    assert not val.shifted
    assert val.located == ()
    assert val.overall.classifier is not None
    assert val.overall.classifier.auc == pytest.approx(0.51, abs=0.02)
    test = run(splits["test"][0], labels=(labels, splits["test"][1]))
    assert test.shifted
    assert test.located == ("normal",)
    _, normal, pneumonia = test.scopes
    assert normal.effect > 2 * pneumonia.effect
    assert "mostly in class normal" in str(test)


def test_the_auc_of_trivial_statistics_is_the_known_one(shared_path: Path) -> None:
    with np.load(shared_path / "data" / "pneumoniamnist.npz") as data:
        arrays = {name: data[name] for name in data.files}
    rows, labels = {}, {}
    for name in ("train", "test"):
        flat = arrays[f"{name}_images"].reshape(len(arrays[f"{name}_images"]), -1)
        quantiles = np.percentile(flat, [5, 25, 50, 75, 95], axis=1).T
        rows[name] = np.column_stack([flat.mean(axis=1), flat.std(axis=1), quantiles])
        labels[name] = arrays[f"{name}_labels"].ravel()
    found = shift_test(
        rows["train"],
        rows["test"],
        labels=(labels["train"], labels["test"]),
        tests=("domain_classifier",),
        permutations=99,
    )
    aucs = [scope.tests[0].statistic for scope in found.scopes]
    assert aucs == pytest.approx([0.59, 0.70, 0.57], abs=0.03)
    assert found.located == ("0",)


def planted(shift: tuple[float, float], shares: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    labels = (RNG.random(300) < shares).astype(int)
    rows = RNG.normal(size=(300, 6)) + 2 * labels[:, None] * np.eye(6)[0]
    rows[:, 3] += np.array(shift)[labels]
    return rows, labels


def test_a_shift_in_one_class_is_placed_there() -> None:
    a, labels_a = planted((0.0, 0.0))
    b, labels_b = planted((0.0, 1.0))
    found = shift_test(
        a, b, labels=(labels_a, labels_b), tests=("ks", "mmd", "energy", "domain_classifier")
    )
    assert found.located == ("1",)
    assert found.scopes[1].p_value > 0.05
    assert found.scopes[2].features is not None
    assert found.scopes[2].features.strongest == 3


def test_other_class_shares_alone_show_over_all_rows_and_in_no_class() -> None:
    a, labels_a = planted((0.0, 0.0), shares=0.2)
    b, labels_b = planted((0.0, 0.0), shares=0.8)
    found = shift_test(a, b, labels=(labels_a, labels_b))
    assert found.shifted
    assert found.overall.p_value <= 0.05
    assert found.located == ()


def test_null_shifts_are_called_rarely() -> None:
    calls = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        a, b = np.maximum(rng.normal(size=(2, 40, 4)), 0)
        labels = (np.arange(40) % 2, np.arange(40) % 2)
        calls += shift_test(a, b, labels=labels, seed=seed).shifted
    assert calls <= 6


def test_a_class_of_one_row_or_none_is_skipped_and_says_so() -> None:
    a, b = RNG.normal(size=(9, 2)), RNG.normal(size=(8, 2))
    labels = ([0] * 8 + [1], [0] * 8)
    found = shift_test(a, b, labels=labels, classes=("x", "y", "z"), permutations=19)
    assert [scope.skipped[:7] for scope in found.scopes] == ["", "", "1 and 0", "0 and 0"]
    assert "skipped" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["scopes"][2]["class_name"] == "y"


def test_default_permutations_let_the_correction_reject() -> None:
    a = RNG.normal(size=(60, 3))
    labels = np.arange(60) % 10
    found = shift_test(a, a + 10, labels=(labels, labels), tests=("mmd",))
    assert found.overall.p_value <= 0.05


def test_units_matter_only_where_asked() -> None:
    a, b = RNG.normal(size=(200, 2)), RNG.normal(size=(200, 2))
    a[:, 0] *= 1e6
    b[:, 0] *= 1e6
    b[:, 1] += 1
    raw = shift_test(a, b, tests=("mmd",))
    scaled = shift_test(a, b, tests=("mmd",), standardise=True)
    assert scaled.shifted
    assert raw.overall.p_value > 0.05


def test_groups_are_respected_in_every_scope() -> None:
    code = np.arange(160) // 16
    rows = RNG.normal(size=(10, 3))[code] + 0.1 * RNG.normal(size=(160, 3))
    labels = np.arange(160) % 2
    groups = (code[:80], code[80:])
    split = (labels[:80], labels[80:])
    assert shift_test(rows[:80], rows[80:], labels=split).shifted
    assert not shift_test(rows[:80], rows[80:], labels=split, groups=groups).shifted


def test_bbsd_tests_each_output_once() -> None:
    a = RNG.dirichlet([1, 1, 1], size=100)
    b = RNG.dirichlet([4, 1, 1], size=100)
    assert bbsd_test(a, b, classes=("x", "y", "z")).summary().p_value < 0.01
    two = np.column_stack([a[:, 0], 1 - a[:, 0]])
    found = bbsd_test(two, two, classes=NAMES)
    assert found.names == ("p(pneumonia)",)
    assert found.p_values.tolist() == [1]
    with pytest.raises(DataError, match="same classes"):
        bbsd_test(a, two)
    with pytest.raises(DataError, match="softmax"):
        bbsd_test(a * 3, b)


def test_bad_input_is_refused() -> None:
    a = RNG.normal(size=(5, 2))
    with pytest.raises(ConfigError, match="tests must be some of"):
        shift_test(a, a, tests=("ks", "tea"))  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="tests must be some of"):
        shift_test(a, a, tests=())
    with pytest.raises(DataError, match="1 row"):
        shift_test(a[:1], a)
    with pytest.raises(DataError, match="its_labels has 4"):
        shift_test(a, a, labels=([0] * 4, [0] * 5))
    with pytest.raises(DataError, match="different class names"):
        shift_test(a, a, labels=([0] * 5, [0] * 5), classes=("x", "x"))
    bad = a.copy()
    bad[3, 1] = np.nan
    with pytest.raises(DataError, match="sharpness of row 3 of the second"):
        shift_test(a, bad, names=("brightness", "sharpness"))
