from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transferkit.training.optimizer import plateau, rate_factor, warm_up_steps

LR = 0.2
TOTAL = 60


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)


def rates_of_torch(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(scheduler.optimizer.param_groups[0]["lr"] / LR)
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def ours(schedule, steps=TOTAL, total=TOTAL, **options) -> list[float]:
    return [rate_factor(schedule, step, total, **options) for step in range(steps)]


def test_cosine_equals_torch():
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer(), TOTAL)
    assert ours("cosine") == pytest.approx(rates_of_torch(theirs, TOTAL))


@pytest.mark.parametrize("total", [10, 57, 60])
def test_one_cycle_equals_torch(total):
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer(), max_lr=LR, total_steps=total, cycle_momentum=False
    )
    assert ours("one_cycle", total, total) == pytest.approx(rates_of_torch(theirs, total))


def test_step_equals_torch():
    theirs = torch.optim.lr_scheduler.StepLR(optimizer(), 20, gamma=0.1)
    assert ours("step") == pytest.approx(rates_of_torch(theirs, TOTAL))


def test_exponential_equals_torch():
    theirs = torch.optim.lr_scheduler.ExponentialLR(optimizer(), 0.01 ** (1 / TOTAL))
    assert ours("exponential") == pytest.approx(rates_of_torch(theirs, TOTAL))


def test_linear_warm_up_equals_torch():
    theirs = torch.optim.lr_scheduler.LinearLR(
        optimizer(), start_factor=1 / 10, end_factor=1.0, total_iters=9
    )
    assert ours("constant", warmup=10) == pytest.approx(rates_of_torch(theirs, TOTAL))


def test_warm_up_then_cosine_over_the_rest():
    rates = ours("cosine", warmup=10)
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:] == pytest.approx(ours("cosine", TOTAL - 10, TOTAL - 10))


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=30), st.booleans(), st.integers(0, 4))
def test_plateau_equals_torch(figures, maximize, patience):
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer(), "max" if maximize else "min", factor=0.1, patience=patience, eps=0
    )
    for count in range(1, len(figures) + 1):
        theirs.step(figures[count - 1])
        mine = plateau(figures[:count], maximize=maximize, patience=patience)
        assert mine == pytest.approx(theirs.get_last_lr()[0] / LR)


def test_a_run_with_a_plateau_looks_at_its_figures():
    gains, none = [0.1 * epoch for epoch in range(1, 9)], [0.5] * 8
    factors = [rate_factor("plateau", 0, 1, figures=f, maximize=True) for f in (gains, none)]
    assert factors == pytest.approx([1.0, 0.1])


def test_the_course_mistake_is_not_made():
    """T_max in steps but stepped by the epoch left the rate at 99.97 %; ours ends near 0."""
    assert rate_factor("cosine", 1499, 1500) < 1e-5


@given(st.sampled_from(["constant", "cosine", "one_cycle", "step", "exponential"]),
       st.integers(1, 500), st.floats(0, 0.5))  # fmt: skip
def test_every_multiplier_is_between_0_and_1(name, total, warmup):
    steps = warm_up_steps(warmup, total)
    values = [rate_factor(name, step, total, warmup=steps) for step in range(total)]
    assert all(0 <= value <= 1 + 1e-12 for value in values)


def test_warm_up_is_steps_or_a_share():
    assert warm_up_steps(7, 100) == 7
    assert warm_up_steps(0.1, 100) == 10


def test_a_function_of_the_users_own():
    assert ours(lambda step, total: step / total, 4, 4) == [0, 0.25, 0.5, 0.75]
