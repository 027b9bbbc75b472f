"""The probability of a false claim: calibrated, exact where it can be, and by group."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from transferkit.metrics.intervals import Claim, judge_claim


def claim(wins: int, losses: int, n: int = 200, groups=None) -> Claim:
    first, second = np.zeros(n), np.zeros(n)
    first[:wins] = 1
    second[wins : wins + losses] = 1
    return judge_claim(first, second, groups, names=("a", "b"))


def test_of_all_claims_with_one_probability_that_share_is_false() -> None:
    """Truth drawn from the prior: the first wins a uniform share of the images that decide."""
    rng = np.random.default_rng(0)
    said, false = [], []
    for _ in range(2000):
        share, decide = rng.uniform(), rng.uniform(0.05, 0.3)
        wins, losses, _ = rng.multinomial(200, [decide * share, decide * (1 - share), 1 - decide])
        said.append(claim(wins, losses).false_probability)
        false.append(share <= 0.5)
    for low, high in ((0, 0.05), (0.05, 0.2), (0.2, 0.5), (0.5, 0.8), (0.95, 1.01)):
        chosen = (np.array(said) >= low) & (np.array(said) < high)
        expected = np.mean(np.array(said)[chosen])
        error = np.sqrt(expected * (1 - expected) / chosen.sum())
        assert np.mean(np.array(false)[chosen]) == pytest.approx(expected, abs=4 * error + 0.002)


def test_it_is_the_posterior_of_the_images_that_decide() -> None:
    assert claim(12, 5).false_probability == pytest.approx(beta.cdf(0.5, 13, 6))
    assert claim(5, 0).false_probability == pytest.approx(1 / 64)
    assert claim(0, 0).false_probability == 0.5
    assert claim(3, 3).images is None
    assert "only if" in str(claim(3, 7))


def test_so_many_images_bring_it_to_five_percent() -> None:
    """On fresh test sets of that size from the same shares, the middle claim is at 5 %."""
    needed = claim(14, 8).images
    assert needed is not None
    assert needed > 200
    rng = np.random.default_rng(1)
    draws = rng.multinomial(needed, [14 / 200, 8 / 200, 178 / 200], size=2000)[:, :2]
    found = beta.cdf(0.5, draws[:, 0] + 1, draws[:, 1] + 1)
    assert np.median(found) == pytest.approx(0.05, abs=0.01)
    assert f"{needed:,} such images would be needed" in str(claim(14, 8))
    assert "would have sufficed" in str(claim(40, 8))


def test_copies_in_a_group_add_no_certainty() -> None:
    once = claim(12, 5)
    first, second = np.zeros(200), np.zeros(200)
    first[:12], second[12:17] = 1, 1
    groups = np.repeat(np.arange(200), 3)
    often = judge_claim(np.repeat(first, 3), np.repeat(second, 3), groups, names=("a", "b"))
    assert often.false_probability == pytest.approx(once.false_probability)
    assert often.images == pytest.approx(3 * once.images, abs=3)
    free = judge_claim(np.repeat(first, 3), np.repeat(second, 3), None, names=("a", "b"))
    assert free.false_probability < once.false_probability


def test_means_over_seeds_are_as_sure_as_their_spread() -> None:
    """Truth in the frequency sense: two equal models, their claims are uniform on average."""
    rng = np.random.default_rng(2)
    said = []
    for _ in range(400):
        hits = rng.uniform(size=(2, 5, 300)) < rng.uniform(0.6, 1, size=300)
        said.append(
            judge_claim(*hits.mean(axis=1), None, names=("a", "b")).false_probability  # five seeds
        )
    assert np.mean(np.array(said) < 0.1) == pytest.approx(0.1, abs=0.05)
