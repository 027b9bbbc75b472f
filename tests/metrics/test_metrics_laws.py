"""What must hold whatever the data: bounds, monotone changes, and clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from transferkit.errors import DataError
from transferkit.metrics.classification import auroc, average_precision
from transferkit.metrics.evaluation import Predictions, evaluate_probabilities

sizes = st.tuples(st.integers(1, 40), st.integers(2, 6))


@st.composite
def judged(draw: st.DrawFn):
    """Draw labels (N,) and probabilities (N, K), ties and zeros included."""
    n, k = draw(sizes)
    labels = draw(arrays(np.int64, n, elements=st.integers(0, k - 1)))
    grid = st.integers(0, 8).map(float)
    raw = draw(arrays(np.float64, (n, k), elements=grid)) + 1e-9
    return labels, raw / raw.sum(axis=1, keepdims=True)


@given(judged())
def test_scores_stay_within_their_bounds(pair) -> None:
    result = evaluate_probabilities(pair[1], pair[0])
    shares = [result.accuracy, result.balanced_accuracy, result.auroc, result.average_precision]
    assert all(np.isnan(s) or -1e-12 <= s <= 1 + 1e-12 for s in [*shares, result.ece])
    assert result.log_loss >= 0
    assert 0 <= result.brier <= (1 if len(result.classes) == 2 else 2)
    low, high = result.accuracy_interval
    assert 0 <= low <= result.accuracy <= high <= 1
    assert result.confusion.sum() == result.n
    assert sum(scores.support for scores in result.per_class) == result.n


def of_class_one(scores):
    """Scores (N,) of class 1 as columns (N, 2)."""
    return np.column_stack([-scores, scores])


@given(judged(), st.floats(0.1, 5))
def test_rankings_see_only_the_order(pair, factor) -> None:
    labels, probabilities = pair
    truth, scores = (labels == 0).astype(int), np.round(probabilities[:, 0], 6)
    for metric in (auroc, average_precision):
        before = metric(truth, of_class_one(scores))
        after = metric(truth, of_class_one(3 + factor * scores))
        assert after == pytest.approx(before, nan_ok=True)


@given(judged())
def test_auroc_of_the_opposite_is_the_complement(pair) -> None:
    truth, scores = (pair[0] == 0).astype(int), np.round(pair[1][:, 0], 6)
    total = auroc(truth, of_class_one(scores)) + auroc(truth, of_class_one(-scores))
    assert np.isnan(total) or total == pytest.approx(1)


@given(judged(), st.integers(0, 39))
def test_putting_one_image_right_never_lowers_a_score(pair, place) -> None:
    labels, probabilities = pair
    place %= len(labels)
    better = probabilities.copy()
    better[place] = np.eye(probabilities.shape[1])[labels[place]]
    before = evaluate_probabilities(probabilities, labels)
    after = evaluate_probabilities(better, labels)
    assert after.accuracy >= before.accuracy
    assert after.log_loss <= before.log_loss + 1e-12
    assert after.brier <= before.brier + 1e-12
    assert np.isnan(before.auroc) or after.auroc >= before.auroc - 1e-12


@given(judged())
def test_names_of_classes_do_not_matter(pair) -> None:
    labels, probabilities = pair
    order = np.arange(probabilities.shape[1])[::-1]
    renamed = evaluate_probabilities(probabilities[:, order], len(order) - 1 - labels)
    same = evaluate_probabilities(probabilities, labels)
    assert renamed.log_loss == pytest.approx(same.log_loss)
    assert renamed.brier == pytest.approx(same.brier)
    top_two = np.sort(probabilities, axis=1)[:, -2:]
    if (top_two[:, 0] < top_two[:, 1]).all():  # argmax breaks ties by order
        assert renamed.ece == pytest.approx(same.ece)
    if len(order) > 2:
        assert renamed.auroc == pytest.approx(same.auroc, nan_ok=True)


half = np.full((3, 2), 0.5)
BAD = {
    "nan": (np.array([[0.5, np.nan]] * 3), [0, 1, 0], r"must be finite.*probabilities\[0\]"),
    "logits": (np.array([[3.0, -1.0]] * 3), [0, 1, 0], "softmax"),
    "off one": (np.array([[0.5, 0.2]] * 3), [0, 1, 0], "must sum to 1"),
    "one column": (np.full((3, 1), 1.0), [0, 0, 0], "two classes"),
    "flat": (np.full(3, 0.5), [0, 1, 0], "two classes"),
    "empty": (np.empty((0, 2)), [], "an image"),
    "too few labels": (half, [0, 1], "labels has 2, probabilities has 3"),
    "label too high": (half, [0, 1, 2], r"got 2 as labels\[2\]"),
    "label below zero": (half, [0, -1, 1], r"got -1 as labels\[1\]"),
    "float labels": (half, [0.0, 1.0, 1.0], "must be integers"),
    "square labels": (half, [[0, 1, 1]], r"array \(N,\)"),
}


@pytest.mark.parametrize(("probabilities", "labels", "message"), BAD.values(), ids=BAD.keys())
def test_bad_arrays_are_refused(probabilities, labels, message) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_probabilities(probabilities, labels)
    with pytest.raises(DataError, match=message):
        Predictions.of(probabilities, labels=labels)


def test_wrong_names_are_refused() -> None:
    with pytest.raises(DataError, match="different class names"):
        evaluate_probabilities(half, [0, 1, 0], classes=["a", "a"])
    with pytest.raises(DataError, match="different class names"):
        evaluate_probabilities(half, [0, 1, 0], classes=["a", "b", "c"])
