from __future__ import annotations

import numpy as np
import pytest

from transferkit.audit.finding import AuditConfig
from transferkit.audit.gap import Estimate, GapReport, gap_findings
from transferkit.audit.reshuffle import reshuffle, right_by_strength, swap
from transferkit.errors import DataError
from transferkit.metrics.logistic_regression import fit_probe


def blobs(n, seed, shift=0.0, width=4):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    features = rng.normal(size=(n, width))
    features[:, 0] += 3.0 * labels + shift
    return features, labels


def three(shift=0.0):
    parts = {"train": blobs(400, 0), "val": blobs(120, 1), "test": blobs(120, 2, shift)}
    return {k: v[0] for k, v in parts.items()}, {k: v[1] for k, v in parts.items()}


def test_the_probe_finds_the_line_and_standardises():
    features, labels = blobs(400, 0)
    probe = fit_probe(features * 1000 + 5, labels, num_classes=3)
    assert (probe.predict(features * 1000 + 5) == labels).mean() > 0.9
    assert np.isneginf(probe.scores(features)[:, 2]).all()


def test_the_probe_takes_constant_features_and_more_features_than_images():
    features, labels = blobs(20, 0, width=100)
    features[:, 5] = 7.0
    assert (fit_probe(features, labels, num_classes=2).predict(features) == labels).all()


def test_the_probe_refuses_a_single_class():
    with pytest.raises(DataError, match="two classes"):
        fit_probe(np.zeros((4, 2)), np.zeros(4, int), num_classes=2)


def test_a_shifted_test_split_comes_back_and_an_unshifted_one_does_not():
    shifted = reshuffle(*three(shift=2.0), num_classes=2, seeds=range(6))
    assert shifted.official.test[0] < shifted.reshuffled.interval[0]
    alike = reshuffle(*three(), num_classes=2, seeds=range(6))
    low, high = alike.reshuffled.interval
    assert low - 0.02 < alike.official.test[0] < high + 0.02
    assert alike.by_group is None
    assert alike.group_gain is None


def test_patients_on_both_sides_are_what_a_random_split_gains():
    rng = np.random.default_rng(0)
    patients, per = 120, 5
    identity = rng.normal(size=(patients, 40)) * 3
    label = rng.integers(0, 2, patients)  # nothing but the patient tells it
    features = np.repeat(identity, per, axis=0) + 0.1 * rng.normal(size=(patients * per, 40))
    labels = np.repeat(label, per)
    groups = np.repeat(np.arange(patients).astype(str), per)
    cut = {"train": slice(0, 400), "val": slice(400, 500), "test": slice(500, 600)}
    result = reshuffle(
        {k: features[v] for k, v in cut.items()},
        {k: labels[v] for k, v in cut.items()},
        groups={k: groups[v].tolist() for k, v in cut.items()},
        num_classes=2,
        seeds=range(8),
    )
    assert result.group_gain.interval[0] > 0.1
    assert result.reshuffled_by_group.score < 0.7


def test_the_swap_turns_the_gap_around():
    result = swap(right_by_strength(*three(shift=2.0), 2))
    assert result.chosen_on_val < result.chosen_on_test
    assert result.best_on_val >= result.chosen_on_test
    assert set(result.to_dict()) == {
        "chosen_on_val",
        "chosen_on_test",
        "best_on_val",
        "best_on_test",
    }


def test_one_seed_has_no_interval():
    assert np.isnan(reshuffle(*three(), num_classes=2, seeds=[0]).reshuffled.interval[0])


def by_patient(seed, *, straddling=False, signal=0.4, foreign=False):
    """60, 20 and 20 patients of 8 images; each has a look of its own beside that of its class."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(100), 8)
    own = rng.integers(0, 2, 100)
    looks = 1.5 * rng.normal(size=(100, 40)) + signal * (own[:, None] - 0.5)
    features = looks[patients] + 0.3 * rng.normal(size=(800, 40))
    labels = own[patients]
    order = rng.permutation(800) if straddling else np.arange(800)
    rows = dict(zip(("train", "val", "test"), np.split(order, [480, 640]), strict=True))
    if foreign:  # the class shows the other way round
        features[rows["test"]] *= -1
    return reshuffle(
        {name: features[r] for name, r in rows.items()},
        {name: labels[r] for name, r in rows.items()},
        groups={name: patients[r].astype(str).tolist() for name, r in rows.items()},
        num_classes=2,
        seeds=range(8),
    )


def severities(experiment):
    low = (0.0, 1.0)
    report = GapReport(
        0.9, low, 0.9, low, Estimate(0, low), {}, "a", (), Estimate(0, low), 0.1,
        experiment=experiment, group_gain=experiment.group_gain,
    )  # fmt: skip
    found = {f.check: f for f in gap_findings(report, AuditConfig())}
    return found["reshuffle"].severity, found["reshuffle_by_group"].severity


def test_honest_splits_by_patient_are_not_condemned():
    alarms = [severities(by_patient(seed)) for seed in range(20)]
    assert sum(reshuffled != "info" for reshuffled, _ in alarms) <= 3
    assert all(gain == "info" for _, gain in alarms)


def test_patients_in_two_splits_and_another_source_are_found():
    leaky = by_patient(0, straddling=True)
    assert leaky.straddling
    reshuffled, gain = severities(leaky)
    assert reshuffled == "info" != gain
    assert severities(by_patient(0, signal=2.0, foreign=True))[0] == "error"
