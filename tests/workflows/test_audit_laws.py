"""What holds for every audit: in any order of classes, and in any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

import transferkit as tk
from transferkit.data.image_data import ImageData

NAMES = ("a", "b", "c")
DRAWN_BY_CLASS = ("reshuffle", "reshuffle_by_group")


def thirds(images):
    """Stand in for a backbone: brightness of each third of the picture, and of its rows."""
    rows = images[..., 0].mean(axis=2)
    return np.hstack([rows[:, ::4], rows.reshape(len(rows), 3, -1).mean(axis=2)])


def split(count, seed, classes):
    rng = np.random.default_rng(seed)
    truth = np.arange(count) % 3
    images = rng.normal(100, 30, (count, 24, 24, 1))
    images[:, :8] += 30 * truth[:, None, None, None]
    return ImageData(
        np.clip(images, 0, 255).astype(np.uint8),
        np.array([classes.index(NAMES[k]) for k in truth]),
        classes=classes,
        names=[f"{seed}/{i}.png" for i in range(count)],
        groups=[f"{seed}/{i // 2}" for i in range(count)],
    )


def findings(classes):
    sizes = {"train": 90, "val": 45, "test": 60}
    splits = {name: split(n, seed, classes) for seed, (name, n) in enumerate(sizes.items())}
    splits["val"].images[3] = splits["train"].images[4]
    report = tk.audit_splits(splits, model=thirds, seeds=[0, 1], near_duplicates=False)
    return {(f.check, f.splits, f.class_name): f for f in report.results}


@pytest.fixture(scope="module")
def expected():
    return findings(list(NAMES))


@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.permutations(NAMES))
def test_the_order_of_the_classes_changes_no_finding(expected, classes):
    found = findings(classes)
    assert found.keys() == expected.keys()
    for key, finding in found.items():
        other = expected[key]
        if finding.check in DRAWN_BY_CLASS:  # the draws take class after class
            continue
        assert finding.severity == other.severity, key
        for field in ("statistic", "p_value", "effect"):
            assert getattr(finding, field) == pytest.approx(getattr(other, field)), (key, field)
        assert {str(e) for e in finding.evidence if e.names} == {
            str(e) for e in other.evidence if e.names
        }


def test_threads_that_audit_with_one_model_get_one_report_and_leave_no_mark():
    splits = tk.phantom_splits(sizes={"train": 24, "test": 16}, image_size=32, seed=0)
    model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, seed=0)
    torch.nn.init.normal_(model.head.weight)  # others than at the start: as if trained
    model.classes = splits.classes
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    threads_before = [pool["num_threads"] for pool in threadpool_info()]

    def audit(_):
        return tk.audit_splits(splits, model=model, near_duplicates=False).to_json()

    alone = audit(0)
    with ThreadPoolExecutor(8) as pool:
        reports = list(pool.map(audit, range(16)))
    assert set(reports) == {alone}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [pool["num_threads"] for pool in threadpool_info()] == threads_before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_another_precision_is_audited(dtype: torch.dtype) -> None:
    splits = tk.phantom_splits(sizes=(40, 24, 24), image_size=32, seed=0)
    model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, seed=0)
    tk.linear_probe(model, splits, epochs=2, progress=False)
    gap = tk.explain_gap(splits, model=model.to(dtype), seeds=range(2), samples=50)
    assert gap.val_score == tk.evaluate(model, splits["val"]).accuracy


def test_the_autocast_of_the_caller_changes_no_number() -> None:
    splits = tk.phantom_splits(sizes=(60, 30, 30), image_size=32, seed=0)
    plain = tk.explain_gap(splits, seeds=range(2), samples=50)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert tk.explain_gap(splits, seeds=range(2), samples=50) == plain


def patients(count, seed, *, brighter=0.0, shares=(0.5, 0.5)):
    """Patients of one to three images, alike in brightness and label."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), rng.integers(1, 4, count))
    labels = rng.choice(2, count, p=shares)[groups]
    level = brighter + 15 * rng.normal(size=count)[groups] + 20 * labels
    images = 110 + level[:, None, None, None] + rng.normal(0, 25, (len(groups), 24, 24, 1))
    return ImageData(
        np.clip(images, 0, 255).astype(np.uint8),
        labels,
        classes=["a", "b"],
        names=[f"{seed}/{i}.png" for i in range(len(groups))],
        groups=[f"{seed}/{group}" for group in groups],
    )


def doubled(data):
    """Every image twice, the copy of the same patient."""
    rows = np.tile(np.arange(len(data)), 2)
    return ImageData(
        data.images[rows],
        data.labels[rows],
        classes=data.classes,
        names=[f"{i}.{data.names[row]}" for i, row in enumerate(rows)],
        groups=[data.groups[row] for row in rows],
    )


def of_the_classifier(finding):
    """Whether the domain classifier speaks: of two tests, the finding names the more telling."""
    return finding.effect == max(0.0, 2 * finding.statistic - 1)


GROUPED = ("statistics_shift", "embedding_shift", "label_shift")
"""Checks whose p-values and intervals count patients, not images."""


def test_copies_of_the_same_patient_lower_no_p_value_and_narrow_no_interval():
    p_values, widths = {name: [] for name in GROUPED}, {name: [] for name in GROUPED}
    for seed in range(0, 12, 3):
        splits = {
            "train": patients(50, seed),
            "val": patients(25, seed + 1, brighter=6),
            "test": patients(40, seed + 2, brighter=10, shares=(0.3, 0.7)),
        }
        copied = {name: doubled(data) for name, data in splits.items()}
        once, twice = (
            {
                (f.check, f.splits, f.class_name): f
                for f in tk.audit_splits(
                    part, model=thirds, seeds=[0], near_duplicates=False
                ).results
            }
            for part in (splits, copied)
        )
        for key, finding in twice.items():
            if key[0] in GROUPED and key in once:
                p_values[key[0]].append((once[key].p_value, finding.p_value))
                if of_the_classifier(finding) == of_the_classifier(once[key]):
                    widths[key[0]].append(np.ptp(finding.interval) / np.ptp(once[key].interval))
    for name in GROUPED:
        before, after = np.array(p_values[name]).T
        assert len(before) >= 12, name
        assert np.mean(after - before) > -0.03, name
        assert np.median(widths[name]) > 0.95, name
        assert min(widths[name]) > 0.75, name
