"""The result that every two-sample test returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from transferkit._typing import JSON
from transferkit.metrics._json import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoSampleResult:
    """Do two samples follow one distribution?

    Attributes:
        test: Name of the test.
        statistic: What it measured, in its own unit.
        p_value: Chance of a statistic at least as large where the distributions are equal.
        effect: Size of the difference, 0 (none) to 1 (disjoint).
        interval: Interval of ``effect``.
        n_a: Rows of the first sample.
        n_b: Rows of the second.
        permutations: Permutations behind the p-value; None if it comes from a formula.
        note: What the reader should know, such as that all features are constant.
    """

    test: str
    statistic: float
    p_value: float
    effect: float
    interval: tuple[float, float]
    n_a: int
    n_b: int
    permutations: int | None = None
    note: str = ""

    def to_dict(self) -> dict[str, JSON]:
        """Return plain values, ready for JSON."""
        return {key: plain(value) for key, value in asdict(self).items()}

    def __str__(self) -> str:
        low, high = self.interval
        note = f" ({self.note})" if self.note else ""
        return (
            f"{self.test}: statistic {self.statistic:.4g}, p = {self.p_value:.3g}, "
            f"effect {self.effect:.3f} [{low:.3f}, {high:.3f}], n = {self.n_a} and {self.n_b}{note}"
        )


def nothing_differs(test: str, n_a: int, n_b: int) -> TwoSampleResult:
    """Return the result where every feature is constant: there is nothing that could differ."""
    return TwoSampleResult(
        test=test,
        statistic=0.0,
        p_value=1.0,
        effect=0.0,
        interval=(0.0, 0.0),
        n_a=n_a,
        n_b=n_b,
        note="all features are constant",
    )
