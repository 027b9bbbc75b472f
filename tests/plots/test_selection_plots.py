from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import transferkit as tk
from transferkit.plots._style import GREY, PALETTE
from transferkit.selection.probe import ProbeCurve
from transferkit.selection.ranking import Ranking, RankingRow


@dataclass(frozen=True)
class Scored:
    accuracy: float
    accuracy_interval: tuple[float, float]


def test_a_ranking_shows_the_best_at_the_top_and_those_that_left_in_grey() -> None:
    rows = (
        RankingRow(name="a", score=0.9, interval=(0.8, 0.95), images_per_second=100.0),
        RankingRow(name="b", score=0.7),
        RankingRow(name="c", error="no weights"),
    )
    axes = tk.plots.ranking(Ranking(by="probe", rows=rows, rounds=((10, 2),)))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.yaxis_inverted()
    assert [bar.lines[0].get_color() for bar in axes.containers] == [PALETTE[0], GREY]
    assert "100 images/s" in [text.get_text() for text in axes.texts]
    with pytest.raises(tk.DataError, match="score"):
        tk.plots.ranking(Ranking(by="probe", rows=rows[2:], rounds=()))


def test_a_probe_curve_shows_the_means_at_the_sizes() -> None:
    curve = ProbeCurve(np.array([10, 20, 40]), np.array([[0.5, 0.7], [0.7, 0.8], [0.8, 0.9]]), 30)
    axes = tk.plots.probe_curve(curve)
    (line,) = axes.get_lines()
    np.testing.assert_allclose(line.get_ydata(), [0.6, 0.75, 0.85])
    assert line.get_xdata().tolist() == [10, 20, 40]
    assert axes.get_xscale() == "log"


def test_anything_with_an_accuracy_and_its_interval_can_be_drawn() -> None:
    scores = {"a": Scored(0.8, (0.7, 0.9)), "b": Scored(0.6, (0.5, 0.7))}
    axes = tk.plots.accuracy_intervals({"a": {"val": scores["a"], "test": scores["b"]}})
    assert len(axes.containers) == 2
    assert tk.plots.accuracy_vs_time(scores, {"a": 1.0, "b": 2.0}) is not None
