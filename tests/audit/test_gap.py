from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transferkit.audit.checks_gap import gap_findings
from transferkit.audit.finding import AuditConfig
from transferkit.audit.gap_parts import (
    ScoredSplit,
    best_offsets,
    choice_optimism,
    decompose,
    explain_scores,
)
from transferkit.errors import DataError
from transferkit.metrics.bootstrap import Tally


def drawn(n, shares, recalls, seed, groups=1):
    """A split whose images are right with the given probability by class, by group of images."""
    rng = np.random.default_rng(seed)
    count = len(shares)
    labels = rng.choice(count, n, p=shares)
    right = np.repeat(rng.random(-(-n // groups)), groups)[:n] < np.array(recalls)[labels]
    predicted = np.where(right, labels, (labels + 1) % count)
    named = [str(i // groups) for i in range(n)] if groups > 1 else None
    return ScoredSplit(labels, np.eye(count)[predicted], named)


def counted(images, right):
    return Tally(np.array(images, float), np.array(right, float))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_parts_add_up_exactly(data):
    count = data.draw(st.integers(1, 4))
    cells = st.lists(st.integers(0, 30), min_size=count, max_size=count)
    sides = []
    for _ in range(2):
        images = np.array(data.draw(cells.filter(any)), float)
        shares = st.lists(st.floats(0, 1), min_size=count, max_size=count)
        sides.append(Tally(images, np.floor(images * data.draw(shares))))
    prior, within = decompose(*sides)
    gap = sides[0].accuracy - sides[1].accuracy
    assert prior + within.sum() == pytest.approx(gap, abs=1e-12)


def test_pure_prior_shift_and_pure_recall_shift_are_told_apart():
    prior, within = decompose(counted([80, 20], [72, 12]), counted([20, 80], [18, 48]))
    assert prior == pytest.approx(0.84 - 0.66)
    np.testing.assert_allclose(within, 0, atol=1e-12)
    prior, within = decompose(counted([50, 50], [50, 45]), counted([50, 50], [30, 45]))
    assert prior == pytest.approx(0)
    np.testing.assert_allclose(within, [0.2, 0], atol=1e-12)


def test_a_class_on_one_side_only_counts_as_prior_shift():
    prior, within = decompose(counted([50, 0], [50, 0]), counted([50, 50], [50, 10]))
    np.testing.assert_allclose(within, 0, atol=1e-12)
    assert prior == pytest.approx(1 - 0.6)


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
}


@pytest.mark.parametrize("case", CASES)
def test_intervals_hold_the_truth(case):
    (n_val, n_test), shares, recalls = CASES[case]
    truth = decompose(
        *(counted(s, np.multiply(s, r)) for s, r in zip(shares, recalls, strict=True))
    )
    wanted = [float(truth[0]), *truth[1].tolist(), float(truth[0] + truth[1].sum())]
    hits, runs = np.zeros(4), 150
    for seed in range(runs):
        report = explain_scores(
            drawn(n_val, shares[0], recalls[0], 2 * seed),
            drawn(n_test, shares[1], recalls[1], 2 * seed + 1),
            classes=["a", "b"],
            samples=300,
            seed=seed,
        )
        found = [*report.parts.values(), report.gap]
        hits += [e.interval[0] <= t <= e.interval[1] for e, t in zip(found, wanted, strict=True)]
    # at least 93 % of the time, less three standard errors of 150 runs
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
            explain_scores(side, side, classes=["a", "b"], samples=300, seed=seed)
            .leakage["val"]
            .interval
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
    with pytest.raises(DataError, match="two groups"):
        choice_optimism(coins, groups=["a"] * 100)


def test_one_image_a_side_still_gives_a_report():
    one = ScoredSplit(np.zeros(1, int), np.array([[1.0, 0.0]]))
    report = explain_scores(one, one, classes=["a", "b"])
    assert report.gap.value == 0
    assert np.isnan(report.classes[1].val_recall)
    json.dumps(report.to_dict(), allow_nan=False)
