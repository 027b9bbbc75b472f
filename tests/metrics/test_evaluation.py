"""The one result: consistent with its parts, readable, exportable."""

from __future__ import annotations

import json

import numpy as np
import pytest

from transferkit.errors import DataError
from transferkit.metrics.evaluation import Predictions, evaluate_probabilities

PROBABILITIES = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.4, 0.6]])
LABELS = np.array([0, 1, 1, 1])


def test_scores_by_hand() -> None:
    result = evaluate_probabilities(PROBABILITIES, LABELS, classes=["normal", "pneumonia"])
    assert result.accuracy == 0.75
    assert result.balanced_accuracy == pytest.approx((1 + 2 / 3) / 2)
    assert result.auroc == 1.0
    assert result.brier == pytest.approx((0.01 + 0.36 + 0.04 + 0.16) / 4)
    assert result.ece == pytest.approx((0.1 + 0.2 + abs(0.5 - 0.6) * 2) / 4)
    np.testing.assert_array_equal(result.confusion, [[1, 0], [1, 2]])
    np.testing.assert_array_equal(result.correct, [True, False, True, True])
    first = result.per_class[0]
    assert (first.name, first.precision, first.recall, first.support) == ("normal", 0.5, 1.0, 1)


def test_text_has_the_interval_the_classes_and_the_matrix() -> None:
    text = str(evaluate_probabilities(PROBABILITIES, LABELS, classes=["normal", "pneumonia"]))
    assert "75.0 % [30.1, 95.4]" in text
    assert "truth \\ predicted  normal  pneumonia" in text
    assert all(name in text for name in ("AUROC", "Brier", "log loss", "calibration error"))
    assert max(map(len, text.splitlines())) < 80


def test_undefined_scores_say_so() -> None:
    result = evaluate_probabilities(PROBABILITIES, np.zeros(4, dtype=int))
    assert np.isnan(result.auroc)
    assert "undefined" in str(result)
    assert "nan" not in str(result)
    assert result.to_dict()["auroc"] is None


def test_many_classes_print_the_worst_only() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 100, 500)
    text = str(evaluate_probabilities(rng.dirichlet(np.ones(100), 500), labels))
    assert "lowest recall" in text
    assert "most confused" in text
    assert len(text.splitlines()) < 45
    perfect = str(evaluate_probabilities(np.eye(100)[labels], labels))
    assert "most confused" not in perfect


def test_dict_is_json_without_the_images() -> None:
    result = evaluate_probabilities(PROBABILITIES, LABELS)
    exported = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert exported["accuracy_interval"] == pytest.approx(list(result.accuracy_interval))
    assert exported["confusion"] == [[1, 0], [1, 2]]
    assert exported["per_class"][1]["f1"] == pytest.approx(0.8)
    assert not {"probabilities", "labels"} & exported.keys()
    assert "probabilities" not in repr(result)


def test_results_cannot_be_changed() -> None:
    result = evaluate_probabilities(PROBABILITIES, LABELS)
    with pytest.raises(AttributeError):
        result.accuracy = 1.0


def test_predictions_judge_themselves() -> None:
    predictions = Predictions.of(
        PROBABILITIES, labels=LABELS, classes=["n", "p"], names=list("abcd")
    )
    assert predictions.evaluation().accuracy == 0.75
    assert len(predictions) == 4
    assert "a      n               90.0 %" in str(predictions)
    exported = json.loads(json.dumps(predictions.to_dict()))
    assert exported["predicted"] == [0, 0, 1, 1]


def test_predictions_without_labels() -> None:
    predictions = Predictions.of(np.repeat(PROBABILITIES, 10, axis=0))
    assert str(predictions).endswith("and 20 more")
    with pytest.raises(DataError, match="without labels"):
        predictions.evaluation()
    with pytest.raises(DataError, match="4 names"):
        Predictions.of(PROBABILITIES, names=["a"])
    with pytest.raises(DataError, match="labels has 1"):
        Predictions.of(PROBABILITIES, labels=[0])
