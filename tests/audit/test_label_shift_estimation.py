from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from transferkit.audit.label_shift_estimation import (
    Scored,
    bbse_shares,
    calibrated,
    calibration,
    mlls,
    mlls_shares,
    paired_draws,
)

TRUE = (0.6, 0.3, 0.1)


def draw(
    n: int, shares: tuple[float, ...], seed: int, *, hot: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and labels of a classifier that is calibrated for equal shares at ``hot`` = 1."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(shares), p=shares, size=n)
    rows = rng.normal(size=(n, len(shares))) + 1.6 * np.eye(len(shares))[labels]
    return softmax(hot * 1.6 * rows, axis=1), labels


@pytest.mark.parametrize("shares_of", [bbse_shares, mlls_shares])
def test_planted_shares_come_back(shares_of) -> None:
    source, labels = draw(20_000, (1 / 3, 1 / 3, 1 / 3), 0)
    target, _ = draw(20_000, TRUE, 1)
    assert shares_of(source, labels, target) == pytest.approx(TRUE, abs=0.02)


def test_mlls_needs_its_calibration_and_finds_it() -> None:
    source, labels = draw(5000, (1 / 3, 1 / 3, 1 / 3), 0, hot=3)
    target, _ = draw(5000, TRUE, 1, hot=3)
    found, _ = mlls(Scored(source, labels, target), samples=2)
    assert found == pytest.approx(TRUE, abs=0.03)
    raw = mlls_shares(source, labels, target)
    assert np.abs(found - TRUE).sum() < np.abs(raw - TRUE).sum()


def test_calibration_undoes_a_known_temperature() -> None:
    source, labels = draw(20_000, (1 / 3, 1 / 3, 1 / 3), 0, hot=2.5)
    scale = calibration(source, labels)
    assert scale[0] == pytest.approx(1 / 2.5, rel=0.05)
    assert log_loss(labels, calibrated(source, scale)) < log_loss(labels, source)


def test_intervals_cover() -> None:
    held = []
    for seed in range(40):
        source, labels = draw(300, (1 / 3, 1 / 3, 1 / 3), 2 * seed)
        target, _ = draw(250, TRUE, 2 * seed + 1)
        scored = Scored(source, labels, target)
        low, high = mlls(scored, samples=60, seed=seed)[1][0]
        held.append(low <= TRUE[0] <= high)
    assert np.mean(held) >= 0.85


def test_every_draw_of_the_bootstrap_is_calibrated_anew() -> None:
    source, labels = draw(100, (0.5, 0.5), 0, hot=3)
    target, _ = draw(250, (0.7, 0.3), 1, hot=3)
    scored = Scored(source, labels, target)
    by_hand = []
    for i, j in paired_draws(scored, 40, 7):
        scale = calibration(source[i], labels[i])
        drawn = calibrated(source[i], scale), labels[i], calibrated(target[j], scale)
        by_hand.append(mlls_shares(*drawn))
    low, high = mlls(scored, samples=40, seed=7)[1].T
    assert low == pytest.approx(np.quantile(by_hand, 0.025, axis=0), abs=2e-3)
    assert high == pytest.approx(np.quantile(by_hand, 0.975, axis=0), abs=2e-3)
