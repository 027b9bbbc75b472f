from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from transferkit.audit.label_errors import (
    confident_errors,
    label_errors,
    noise_rate,
    out_of_fold_probabilities,
)


@pytest.fixture(scope="module")
def digits():
    return load_digits(return_X_y=True)


def flipped(labels, rate, seed):
    """Give a share of the labels another class at random; which ones (N,)."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(labels)) < rate
    return np.where(wrong, (labels + rng.integers(1, 10, len(labels))) % 10, labels), wrong


def test_the_confident_joint_is_that_of_its_definition():
    """Northcutt et al. (2021), equations 1 and 2; predicted labels are never errors."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    probabilities = rng.dirichlet(np.ones(4), 300)
    probabilities[np.arange(300), labels] += rng.random(300)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    expected = []
    for p, label in zip(probabilities, labels, strict=True):
        above = [k for k in range(4) if p[k] >= np.mean(probabilities[labels == k, k])]
        likely = max(above, key=lambda k: p[k]) if above else label
        expected.append(likely if np.argmax(p) != label else label)
    wrong, likely = confident_errors(probabilities, labels)
    assert 10 < wrong.sum() < 290
    assert np.where(wrong, likely, labels).tolist() == expected


@pytest.mark.parametrize(("rate", "precision", "recall"), [(0.01, 0.5, 0.7), (0.05, 0.8, 0.65)])
def test_planted_label_errors_are_found(digits, rate, precision, recall):
    features, labels = digits
    given, wrong = flipped(labels, rate, seed=0)
    alone = np.arange(len(labels))
    probabilities = out_of_fold_probabilities(features, given, 10, alone, seed=0)
    found, likely = confident_errors(probabilities, given)
    assert (found & wrong).sum() / found.sum() > precision
    assert (found & wrong).sum() / wrong.sum() > recall
    assert (likely == labels)[found & wrong].mean() > 0.9
    estimate = noise_rate(probabilities, given, alone)
    assert estimate.interval[0] <= rate <= estimate.interval[1]
    assert (estimate.p_value < 1e-4) == (rate > 0.01)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1])
def test_the_noise_rate_is_that_of_simulated_labels(rate):
    """Overlapping classes, a probe twice too sure of itself, labels flipped at a known rate."""
    estimates = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        score = rng.normal(size=2000) * 3
        truth = rng.random(2000) < 1 / (1 + np.exp(-score))
        given = (truth ^ (rng.random(2000) < rate)).astype(int)
        sure = 1 / (1 + np.exp(-2 * score))
        estimates.append(noise_rate(np.column_stack([1 - sure, sure]), given, np.arange(2000)))
    assert np.mean([e.value for e in estimates]) == pytest.approx(rate, abs=0.012)
    held = [e.interval[0] <= rate <= e.interval[1] for e in estimates]
    assert np.mean(held) >= 0.8
    if rate == 0:
        assert np.mean([e.p_value < 0.05 for e in estimates]) <= 0.1
    else:
        assert np.mean([e.p_value < 0.05 for e in estimates]) >= 0.8


def test_images_of_a_group_do_not_judge_each_other():
    """Labels at random, by patient: what is learnt from ten copies of a patient is no evidence."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 10)
    features = rng.normal(size=(60, 8))[patients] + 0.01 * rng.normal(size=(600, 8))
    labels = rng.integers(0, 2, 60)[patients]
    by_group, alone = (
        out_of_fold_probabilities(features, labels, 2, codes, seed=0).argmax(axis=1) == labels
        for codes in (patients, np.arange(600))
    )
    assert by_group.mean() < 0.65
    assert alone.mean() > by_group.mean()


def test_the_finding_names_the_images_and_clean_labels_are_no_fault(digits, audit_of):
    features, labels = (array[:1200] for array in digits)
    given, wrong = flipped(labels, 0.06, seed=1)
    images = np.zeros((1200, 2, 2, 1), np.uint8)

    def audited(labels):
        part = {"images": images[:600], "features": features[:600], "labels": labels[:600]}
        other = {"images": images[600:], "features": features[600:], "labels": labels[600:]}
        splits = {"train": part, "test": other}
        return list(label_errors(audit_of(splits, classes=[f"c{k}" for k in range(10)])))

    (found,) = audited(given)
    assert found.severity in ("warning", "error")
    assert found.interval[0] <= 0.06 <= found.interval[1]
    planted = [f"{'train' if row < 600 else 'test'}/{row % 600}.png" for row in range(1200)]
    planted = {name for name, error in zip(planted, wrong, strict=True) if error}
    assert np.mean([item.names[0] in planted for item in found.evidence]) > 0.9
    (clean,) = audited(labels)
    assert clean.severity == "info"
    assert list(label_errors(audit_of({"train": images[:5]}))) == []
