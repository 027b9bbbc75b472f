from __future__ import annotations

import numpy as np
import pytest

from transferkit.audit.reshuffle import reshuffle, swap
from transferkit.errors import ConfigError, DataError
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
    shifted = reshuffle(*three(shift=2.0), seeds=range(6))
    assert shifted.official.test[0] < shifted.reshuffled.interval[0]
    alike = reshuffle(*three(), seeds=range(6))
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
        seeds=range(8),
    )
    assert result.group_gain.interval[0] > 0.1
    assert result.reshuffled_by_group.score < 0.7


def test_the_swap_turns_the_gap_around():
    result = swap(*three(shift=2.0), num_classes=2)
    assert result.chosen_on_val < result.chosen_on_test
    assert result.best_on_val >= result.chosen_on_test
    assert set(result.to_dict()) == {
        "chosen_on_val",
        "chosen_on_test",
        "best_on_val",
        "best_on_test",
    }


def test_one_seed_has_no_interval_and_none_is_refused():
    assert np.isnan(reshuffle(*three(), seeds=[0]).reshuffled.interval[0])
    with pytest.raises(ConfigError, match="seed"):
        reshuffle(*three(), seeds=[])
    features, labels = three()
    del labels["test"]
    with pytest.raises(DataError, match="train, val and test"):
        reshuffle(features, labels)
