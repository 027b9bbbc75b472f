from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from transferkit.audit import forecast as module
from transferkit.audit.audit_data import AuditData, SplitArrays
from transferkit.audit.forecast import (
    Forecast,
    average_thresholded_confidence,
    difference_of_confidences,
    forecast_accuracy,
    forecasts,
    residual_shift,
    reweighted_accuracy,
    summary,
)
from transferkit.audit.label_shift import Scored

EQUAL = (1 / 3, 1 / 3, 1 / 3)


def forecast(source, labels, target, **options) -> tuple[Forecast, ...]:
    return forecast_accuracy(Scored(source, labels, target), **options)


def draw(
    n: int, shares: tuple[float, ...], seed: int, gap: float = 1.6
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(shares), p=shares, size=n)
    rows = rng.normal(size=(n, len(shares))) + gap * np.eye(len(shares))[labels]
    return softmax(1.6 * rows, axis=1), labels


def test_the_formulas_by_hand() -> None:
    source = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
    labels = np.array([0, 1, 1, 1])
    target = np.array([[0.95, 0.05], [0.55, 0.45]])
    # Accuracy 3/4: the threshold keeps the 3 most confident source rows, down to 0.7.
    assert average_thresholded_confidence(source, labels, target) == 0.5
    # Mean confidence falls from .75 to .75: the accuracy stays.
    assert difference_of_confidences(source, labels, target) == pytest.approx(0.75)
    # All of the target is predicted 0, whose share BBSE then puts at its largest.
    assert reweighted_accuracy(source, labels, target) == pytest.approx(1.0)


def test_on_the_source_itself_every_method_returns_its_accuracy() -> None:
    source, labels = draw(3000, EQUAL, 0)
    accuracy = np.mean(source.argmax(axis=1) == labels)
    for method in (average_thresholded_confidence, difference_of_confidences, reweighted_accuracy):
        assert method(source, labels, source) == pytest.approx(accuracy, abs=1e-3)


@pytest.mark.parametrize("shares", [EQUAL, (0.6, 0.3, 0.1)])
def test_intervals_hold_the_accuracy_of_these_images(shares: tuple[float, ...]) -> None:
    held = []
    for seed in range(120):
        source, labels = draw(400, EQUAL, 2 * seed)
        target, truth = draw(300, shares, 2 * seed + 1)
        found = forecast(source, labels, target, samples=60, seed=seed)
        accuracy = np.mean(target.argmax(axis=1) == truth)
        held.append([f.interval[0] <= accuracy <= f.interval[1] for f in found if f.interval])
    assert all(len(one) == 3 for one in held)
    assert (np.mean(held, axis=0) >= 0.86).all()


def test_outputs_that_class_shares_do_not_explain_make_it_abstain() -> None:
    source, labels = draw(1000, EQUAL, 0)
    blurred, _ = draw(1000, EQUAL, 1, gap=0.2)
    found = forecast(source, labels, blurred, samples=10)
    assert summary(found) is None
    assert "outputs shifted" in found[0].reason


def test_forecasts_that_contradict_each_other_are_withdrawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TOLERANCE", 0.5)
    source, labels = draw(1000, EQUAL, 0)
    blurred, _ = draw(1000, EQUAL, 1, gap=0.2)
    found = forecast(source, labels, blurred, samples=50)
    assert summary(found) is None
    assert "contradict" in found[1].reason


def test_a_change_of_class_shares_alone_is_no_residual() -> None:
    source, labels = draw(1000, EQUAL, 0)
    target, _ = draw(1000, (0.8, 0.15, 0.05), 1)
    scored = Scored(source, labels, target)
    weights = np.array([2.4, 0.45, 0.15])[labels]
    assert residual_shift(scored, weights) == 0
    assert residual_shift(scored, np.ones(1000)) > 0.1


def test_features_make_it_abstain_where_outputs_show_nothing() -> None:
    rng = np.random.default_rng(0)
    source, labels = draw(400, EQUAL, 0)
    target, _ = draw(400, EQUAL, 1)
    first, second = rng.normal(size=(400, 5)), rng.normal(size=(400, 5))
    calm = forecast(source, labels, target, features=(first, second), samples=10)
    assert summary(calm) is not None
    moved = forecast(source, labels, target, features=(first, second + 2), samples=10)
    assert summary(moved) is None
    assert "features shifted" in moved[2].reason


def test_methods_abstain_alone_where_the_source_cannot_settle_them() -> None:
    labels = np.array([0, 1] * 40)
    perfect = np.where(labels[:, None] == [0, 1], 0.9, 0.1)
    found = forecast(perfect, labels, perfect, samples=10)
    assert [f.accuracy is None for f in found] == [True, False, False]
    assert "settle no threshold" in found[0].reason
    blind = np.tile([[0.6, 0.4]], (80, 1))
    reasons = [f.reason for f in forecast(blind, labels, blind, samples=10)]
    assert "singular" in reasons[2]
    few = forecast(perfect[:12], labels[:12], perfect, samples=10)
    assert "6 source images" in few[2].reason


def test_on_pneumoniamnist_it_abstains_rather_than_promise_too_much(shared_path: Path) -> None:
    with np.load(shared_path / "data" / "pneumoniamnist.npz") as data:
        arrays = {name: data[name] for name in data.files}
    rows = {
        name: arrays[f"{name}_images"].reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(-1, 49)
        for name in ("train", "val", "test")
    }
    labels = {name: arrays[f"{name}_labels"].ravel() for name in rows}
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(rows["train"], labels["train"])
    outputs = {name: model.predict_proba(rows[name]) for name in rows}
    accuracy = np.mean(outputs["test"].argmax(axis=1) == labels["test"])
    blind = forecast(outputs["val"], labels["val"], outputs["test"], samples=50)
    expected = summary(blind)
    assert expected is not None
    assert expected[0] > accuracy + 0.03
    seeing = forecast(
        outputs["val"],
        labels["val"],
        outputs["test"],
        features=(rows["val"], rows["test"]),
        samples=50,
    )
    assert summary(seeing) is None


def test_class_shares_are_estimated_only_where_the_forecast_speaks() -> None:
    rng = np.random.default_rng(0)

    def split(n: int, moved: float, labels: bool) -> SplitArrays:
        truth = np.arange(n) % 2
        features = rng.normal(size=(n, 4)) + moved
        features[:, 0] += 3 * truth
        images, names = np.zeros((n, 8, 8, 1), np.uint8), [f"{rng.random()}" for _ in range(n)]
        return SplitArrays(images, names, features, labels=truth if labels else None)

    for moved, said in ((0.0, "Estimated class shares of test"), (2.0, "No estimate")):
        parts = {"train": split(300, 0, True), "val": split(300, 0, True)}
        data = AuditData({**parts, "test": split(300, moved, False)}, ("a", "b"))
        accuracy, shares = forecasts(data)
        assert accuracy.message.startswith("Expected accuracy" if not moved else "No forecast")
        assert shares.message.startswith(said)
