from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from transferkit.audit import gap_parts
from transferkit.audit.finding import AuditConfig
from transferkit.audit.gap import Estimate, gap_findings
from transferkit.audit.gap_parts import (
    ScoredSplit,
    best_offsets,
    choice_optimism,
    decompose,
    explain_scores,
)
from transferkit.metrics.intervals import wilson_interval


def drawn(n, shares, recalls, seed, groups=1):
    """A split whose images are right with the given probability by class, by group of images."""
    rng = np.random.default_rng(seed)
    count = len(shares)
    labels = rng.choice(count, n, p=shares)
    right = np.repeat(rng.random(-(-n // groups)), groups)[:n] < np.array(recalls)[labels]
    predicted = np.where(right, labels, (labels + 1) % count)
    named = np.arange(n) // groups if groups > 1 else None
    return ScoredSplit(labels, np.eye(count)[predicted], named)


def shares_and_recalls(images, right):
    images, right = np.array(images, float), np.array(right, float)
    return images / images.sum(), np.where(images > 0, right / np.maximum(images, 1), np.nan)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_parts_add_up_exactly(data):
    count = data.draw(st.integers(1, 4))
    cells = st.lists(st.integers(0, 30), min_size=count, max_size=count)
    sides, accuracies = [], []
    for _ in range(2):
        images = np.array(data.draw(cells.filter(any)), float)
        shares = st.lists(st.floats(0, 1), min_size=count, max_size=count)
        right = np.floor(images * data.draw(shares))
        sides += shares_and_recalls(images, right)
        accuracies.append(right.sum() / images.sum())
    prior, within = decompose(*sides)
    assert prior + within.sum() == pytest.approx(accuracies[0] - accuracies[1], abs=1e-12)


def decomposed(val, test):
    return decompose(*shares_and_recalls(*val), *shares_and_recalls(*test))


def test_pure_prior_shift_and_pure_recall_shift_are_told_apart():
    prior, within = decomposed(([80, 20], [72, 12]), ([20, 80], [18, 48]))
    assert prior == pytest.approx(0.84 - 0.66)
    np.testing.assert_allclose(within, 0, atol=1e-12)
    prior, within = decomposed(([50, 50], [50, 45]), ([50, 50], [30, 45]))
    assert prior == pytest.approx(0)
    np.testing.assert_allclose(within, [0.2, 0], atol=1e-12)


def test_a_class_on_one_side_only_counts_as_prior_shift():
    prior, within = decomposed(([50, 0], [50, 0]), ([50, 50], [50, 10]))
    np.testing.assert_allclose(within, 0, atol=1e-12)
    assert prior == pytest.approx(1 - 0.6)


def test_a_class_absent_from_one_side_has_no_recall_there_and_no_part_of_its_own():
    val = drawn(100, [1.0, 0.0], [0.9, 0.5], 0)
    report = explain_scores(val, drawn(100, [0.5, 0.5], [0.9, 0.5], 1), classes=["a", "b"])
    assert np.isnan(report.classes[1].val_recall)
    assert set(report.parts) == {"prior shift", "within a"}
    assert sum(part.value for part in report.parts.values()) == pytest.approx(report.gap.value)
    assert report.to_dict()["classes"][1]["val_recall"] is None
    assert "nan" not in str(report)


def test_the_report_names_the_worst_class_and_is_json():
    report = explain_scores(
        drawn(600, [0.5, 0.5], [0.97, 0.96], 0),
        drawn(600, [0.5, 0.5], [0.65, 0.97], 1),
        classes=["NORMAL", "PNEUMONIA"],
    )
    assert report.worst_class == "NORMAL"
    assert sum(part.value for part in report.parts.values()) == pytest.approx(report.gap.value)
    assert report.val_score - report.test_score == pytest.approx(report.gap.value)
    assert report.parts["within NORMAL"].interval[0] > 0.1
    assert abs(report.parts["prior shift"].value) < 0.02
    json.dumps(report.to_dict(), allow_nan=False)
    assert "within NORMAL" in str(report)
    found = {finding.check: finding for finding in gap_findings(report, AuditConfig())}
    assert found["gap"].severity == "error"
    assert "class NORMAL" in found["gap"].message


def test_the_verdict_names_a_class_only_where_there_is_a_gap():
    good, bad = ([0.5, 0.5], [0.97, 0.96]), ([0.5, 0.5], [0.65, 0.97])
    names = ["a", "b"]
    lost = explain_scores(drawn(600, *good, 0), drawn(600, *bad, 1), classes=names)
    assert lost.verdict == "The gap lies mostly in class a."
    gained = explain_scores(drawn(600, *bad, 0), drawn(600, *good, 1), classes=names)
    assert "higher than on val" in gained.verdict
    (finding,) = gap_findings(gained, AuditConfig())
    assert finding.severity == "error"
    assert not finding.advice
    alike = explain_scores(drawn(100, *good, 0), drawn(100, *good, 1), classes=names)
    assert alike.gap.interval[0] < 0 < alike.gap.interval[1]
    assert alike.verdict == "There is no gap beyond the noise of the samples."
    assert alike.verdict in str(alike)


CASES = {
    "even": ((400, 400), ([0.5, 0.5], [0.5, 0.5]), ([0.95, 0.97], [0.65, 0.99])),
    "perfect": ((300, 200), ([0.5, 0.5], [0.7, 0.3]), ([1.0, 0.97], [0.9, 0.99])),
    "small": ((60, 40), ([0.5, 0.5], [0.5, 0.5]), ([0.9, 0.9], [0.7, 0.9])),
    "tiny": ((20, 20), ([0.5, 0.5], [0.5, 0.5]), ([0.95, 0.95], [0.8, 0.95])),
    "10 classes": ((410, 400), ([0.1] * 10, [0.1] * 10), ([0.95] * 10, [0.9] * 9 + [0.6])),
    "20 small classes": ((400, 400), ([0.05] * 20, [0.05] * 20), ([0.95] * 20, [0.93] * 20)),
    "100 classes": ((1000, 1000), ([0.01] * 100, [0.01] * 100), ([0.95] * 100, [0.9] * 100)),
    "large": ((4000, 4000), ([0.1] * 10, [0.1] * 10), ([0.97] * 10, [0.9] * 10)),
}


@pytest.fixture
def no_threshold(monkeypatch):
    """The threshold takes most of the time, and has its own tests."""
    nothing = Estimate(0.0, (0.0, 0.0))
    monkeypatch.setattr(gap_parts, "threshold_gain", lambda *a, **k: nothing)


@pytest.mark.usefixtures("no_threshold")
@pytest.mark.parametrize("case", CASES)
def test_intervals_hold_the_truth(case):
    (n_val, n_test), shares, recalls = CASES[case]
    count = len(shares[0])
    prior, within = decompose(*map(np.array, (shares[0], recalls[0], shares[1], recalls[1])))
    scores = [float(np.dot(s, r)) for s, r in zip(shares, recalls, strict=True)]
    wanted = [*scores, prior + within.sum(), prior, within[0], within[-1]]
    hits, runs = np.zeros(6), 200
    for seed in range(runs):
        report = explain_scores(
            drawn(n_val, shares[0], recalls[0], 2 * seed),
            drawn(n_test, shares[1], recalls[1], 2 * seed + 1),
            classes=list(map(str, range(count))),
        )
        found = [report.val_interval, report.test_interval, report.gap.interval]
        names = ("prior shift", "within 0", f"within {count - 1}")
        nothing = Estimate(0.0, (-1.0, 1.0))  # a class may have no image
        found += [report.parts.get(name, nothing).interval for name in names]
        hits += [low <= truth <= high for (low, high), truth in zip(found, wanted, strict=True)]
    # at least 93 % of the time, less three standard errors of 200 runs
    assert (hits / runs >= 0.93 - 3 * np.sqrt(0.05 * 0.95 / runs)).all()


def test_scores_of_many_classes_have_the_interval_of_wilson():
    labels = np.arange(400) % 20
    predicted = np.where(np.arange(400) < 20, (labels + 1) % 20, labels)
    side = ScoredSplit(labels, np.eye(20)[predicted])
    report = explain_scores(side, side, classes=list(map(str, range(20))))
    assert report.val_interval == pytest.approx(wilson_interval(380, 400))


def test_copies_in_a_group_do_not_narrow_the_intervals():
    once = [drawn(200, [0.5, 0.5], [0.9, 0.8], seed) for seed in (0, 1)]
    often = [
        ScoredSplit(
            np.repeat(side.labels, 10),
            np.repeat(side.scores, 10, axis=0),
            np.repeat(np.arange(200), 10),
        )
        for side in once
    ]
    found = [explain_scores(*sides, classes=["a", "b"]) for sides in (once, often)]
    for one, other in zip(*[[*f.parts.values(), f.gap, f.threshold] for f in found], strict=True):
        widths = [high - low for low, high in (one.interval, other.interval)]
        assert widths[1] >= 0.9 * widths[0]


@pytest.mark.usefixtures("no_threshold")
@pytest.mark.parametrize("together", [0.0, 0.5, 1.0])
def test_intervals_of_grouped_images_hold_the_truth(together):
    """Images of one patient are right together, or each on its own, or between."""
    hits, runs = np.zeros(3), 300
    for seed in range(runs):
        rng, sides = np.random.default_rng(seed), []
        for recall in (0.9, 0.8):
            patients = np.repeat(np.arange(60), 5)
            shared = rng.random(60)[patients] < recall
            alone = rng.random(300) < recall
            right = np.where((rng.random(60) < together)[patients], shared, alone)
            labels = rng.integers(0, 2, 60)[patients]
            predicted = np.where(right, labels, 1 - labels)
            sides.append(ScoredSplit(labels, np.eye(2)[predicted], patients))
        report = explain_scores(*sides, classes=["a", "b"])
        found = [(report.val_interval, 0.9), (report.test_interval, 0.8)]
        found.append((report.gap.interval, 0.1))
        hits += [low <= truth <= high for (low, high), truth in found]
    assert (hits / runs >= 0.93 - 3 * np.sqrt(0.05 * 0.95 / runs)).all()


def test_groups_widen_the_intervals():
    sides = [drawn(400, [0.5, 0.5], [0.9, 0.8], seed, groups=20) for seed in (0, 1)]
    alone = [ScoredSplit(side.labels, side.scores) for side in sides]
    wide = explain_scores(*sides, classes=["a", "b"]).gap.interval
    narrow = explain_scores(*alone, classes=["a", "b"]).gap.interval
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


def test_a_leak_that_moves_nothing_is_not_known_to_move_nothing():
    """Without an error among 40 kept images the leaked ones may still have added a little."""
    labels = np.repeat([0, 1], 40)
    leaked = np.tile([True, False], 40)
    side = ScoredSplit(labels, np.eye(2)[labels], None, leaked)
    leakage = explain_scores(side, side, classes=["a", "b"]).leakage["val"]
    assert leakage.value == 0
    assert 0.01 < leakage.interval[1] < 0.1


@pytest.mark.slow
def test_the_interval_of_a_leak_holds_the_truth():
    hits, runs, share = 0, 400, 0.3
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        labels, leaked = rng.integers(2, size=100), rng.random(100) < share
        right = leaked | (rng.random(100) < np.array([0.8, 0.9])[labels])
        side = ScoredSplit(labels, np.eye(2)[np.where(right, labels, 1 - labels)], None, leaked)
        low, high = (
            explain_scores(side, side, classes=["a", "b"], seed=seed).leakage["val"].interval
        )
        hits += low <= share * 0.15 <= high
    assert hits >= 0.925 * runs


def test_leaks_are_compared_class_by_class():
    labels = np.repeat([0, 1], 100)
    right = np.ones(200, bool)
    right[:50] = False  # class 0 is hard, wherever its images come from
    scores = np.eye(2)[np.where(right, labels, 1 - labels)]
    leaked = np.arange(200) >= 150  # only images of the easy class
    side = ScoredSplit(labels, scores, leaked=leaked)
    report = explain_scores(side, ScoredSplit(labels, scores), classes=["a", "b"])
    assert list(report.leakage) == ["val"]
    assert report.leakage["val"].value == pytest.approx(0)
    helped = np.zeros(200, bool)
    helped[50:100] = True  # the right half of the hard class had been seen
    side = ScoredSplit(labels, scores, leaked=helped)
    report = explain_scores(side, ScoredSplit(labels, scores), classes=["a", "b"])
    assert report.leakage["val"].value == pytest.approx(0.25)


def test_the_best_threshold_is_the_one_of_brute_force():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    scores = np.round(rng.normal(size=(60, 2)) + 0.8 * np.eye(2)[labels] + [0.7, 0], 1)
    lead = scores[:, 0] - scores[:, 1]
    cuts = np.append(np.unique(lead) - 0.05, lead.max() + 0.05)
    best = max(((lead > cut) == (labels == 0)).mean() for cut in cuts)
    moved = (scores + best_offsets(scores, labels)).argmax(axis=1) == labels
    assert moved.mean() == pytest.approx(best)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(1, 40), st.integers(0, 1000))
def test_moved_thresholds_never_do_worse(count, n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, count, n)
    scores = np.round(rng.normal(size=(n, count)), 1)
    plain = (scores.argmax(axis=1) == labels).mean()
    assert ((scores + best_offsets(scores, labels)).argmax(axis=1) == labels).mean() >= plain


def test_leads_that_rounding_sets_apart_are_one_threshold():
    """0.1 + 0.2 and 0.3 are one score: no threshold lies between an image right and one wrong."""
    lead = np.array([0.1 + 0.2, 0.3] * 20)
    scores, labels = np.column_stack([lead, 0 * lead]), np.array([1, 0] * 20)
    moved = (scores + best_offsets(scores, labels)).argmax(axis=1) == labels
    assert moved.mean() == 0.5


def test_a_threshold_gains_on_average_what_it_gains_on_other_images():
    """Scores whose best threshold is known to gain nothing: in-sample, 100 images gain 2 points."""
    gains, fitted, covered = [], [], 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = np.arange(100) % 2
        lead = rng.normal(size=100) + (2 * labels - 1)
        side = ScoredSplit(labels, np.column_stack([-lead, lead]) / 2)
        report = explain_scores(side, side, classes=["a", "b"])
        gains.append(report.threshold.value)
        covered += report.threshold.interval[0] <= 0 <= report.threshold.interval[1]
        moved = (side.scores + best_offsets(side.scores, labels)).argmax(axis=1) == labels
        fitted.append(moved.mean() - side.right.mean())
    assert np.mean(fitted) > 0.015
    assert -0.02 < np.mean(gains) < 0.005
    assert covered >= 54


def test_a_threshold_that_is_off_is_brought_back():
    rng = np.random.default_rng(0)
    labels = np.arange(1000) % 2
    lead = rng.normal(size=1000) + 1.5 * (2 * labels - 1)
    side = ScoredSplit(labels, np.column_stack([-lead - 1.5, lead + 1.5]) / 2)
    report = explain_scores(side, side, classes=["a", "b"])
    truth = norm.cdf(1.5) - (norm.cdf(0) + norm.cdf(3)) / 2
    assert report.threshold.value == pytest.approx(truth, abs=0.02)
    assert report.threshold.interval[0] < truth < report.threshold.interval[1]


def test_minus_infinity_for_an_unseen_class_is_no_trouble():
    scores = np.array([[0.0, -np.inf, 1.0], [1.0, -np.inf, 0.0]])
    assert np.isfinite(best_offsets(scores, np.array([1, 0]))).all()


def test_choosing_among_equals_flatters_and_a_clear_winner_does_not():
    rng = np.random.default_rng(0)
    coins = rng.random((30, 100)) < 0.8
    flattered = choice_optimism(coins)
    assert flattered.value > 0.04
    assert flattered.interval[0] > 0
    clear = np.vstack([np.zeros((5, 100), bool), np.ones((1, 100), bool)])
    assert choice_optimism(clear).value == pytest.approx(0, abs=1e-9)
    assert choice_optimism(coins, groups=np.zeros(100, int)) is None


def test_one_image_a_side_still_gives_a_report():
    one = ScoredSplit(np.zeros(1, int), np.array([[1.0, 0.0]]))
    report = explain_scores(one, one, classes=["a", "b"])
    assert report.gap.value == 0
    assert np.isnan(report.classes[1].val_recall)
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize("epochs", ["equal", "rising"])
def test_the_optimism_of_a_choice_is_that_of_many_draws(epochs):
    """200 images of shared difficulty: the truth is what the best epoch loses on new images."""
    levels = norm.ppf(np.full(20, 0.85) if epochs == "equal" else np.linspace(0.7, 0.9, 20))

    def drawn(seed):
        rng = np.random.default_rng(seed)
        difficulty = np.sqrt(0.8) * rng.normal(size=200)
        return difficulty + np.sqrt(0.2) * rng.normal(size=(20, 200)) < levels[:, None]

    lost = []
    for seed in range(2000):
        shares = drawn(seed).mean(axis=1)
        lost.append(shares.max() - norm.cdf(levels)[shares.argmax()])
    truth, runs = np.mean(lost), 60
    found = [choice_optimism(drawn(seed), samples=60, seed=seed) for seed in range(runs)]
    assert np.mean([estimate.value for estimate in found]) == pytest.approx(truth, abs=0.0035)
    held = sum(estimate.interval[0] <= truth <= estimate.interval[1] for estimate in found)
    assert held >= 0.93 * runs
