"""Figures show the numbers they are given, name their axes, and leave no global state."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import transferkit.plots as plots
from transferkit.errors import DataError, MissingDependencyError, OutputError
from transferkit.metrics.evaluation import Evaluation, evaluate_probabilities
from transferkit.plots import _style as style
from transferkit.training.history import EpochRecord, History

pytest.importorskip("matplotlib", reason="the figures need the extra 'plots'")


def judged(
    num_classes: int, *, n: int = 120, long_names: bool = False, seed: int = 0
) -> Evaluation:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % num_classes
    rows = rng.dirichlet(np.ones(num_classes), n) + 0.8 * np.eye(num_classes)[labels]
    names = [f"a very long <class> $name$ number {k}" for k in range(num_classes)]
    probabilities = rows / rows.sum(axis=1, keepdims=True)
    return evaluate_probabilities(probabilities, labels, classes=names if long_names else None)


def run(epochs: int, *, val: bool = True) -> History:
    records = [
        EpochRecord(
            epoch=e,
            step=10 * e,
            lr=1e-3,
            train_loss=1 / e,
            train_accuracy=1 - 0.5 / e,
            val_loss=1.2 / e if val else None,
            val_accuracy=1 - 0.6 / e if val else None,
            seconds=1.0,
        )
        for e in range(1, epochs + 1)
    ]
    return History(tuple(records))


def models() -> dict[str, Evaluation]:
    return {f"model {i}": judged(2, seed=i) for i in range(3)}


FIGURES = {
    "learning": lambda ax=None: plots.learning_curves(run(5), ax=ax),
    "learning-one-epoch": lambda ax=None: plots.learning_curves(run(1), ax=ax),
    "learning-no-val": lambda ax=None: plots.learning_curves(run(30, val=False), ax=ax),
    "learning-many": lambda ax=None: plots.learning_curves(
        {f"a long name of a run {i}": run(4 + i, val=i > 0) for i in range(10)}, ax=ax
    ),
    "confusion-2": lambda ax=None: plots.confusion_matrix(judged(2, long_names=True), ax=ax),
    "confusion-9": lambda ax=None: plots.confusion_matrix(judged(9, long_names=True), ax=ax),
    "confusion-50": lambda ax=None: plots.confusion_matrix(judged(50), ax=ax),
    "roc-2": lambda ax=None: plots.roc(judged(2, long_names=True), ax=ax),
    "roc-4": lambda ax=None: plots.roc(judged(4), ax=ax),
    "roc-20": lambda ax=None: plots.roc(judged(20), ax=ax),
    "roc-named": lambda ax=None: plots.roc({"val": judged(2), "test": judged(2, seed=1)}, ax=ax),
    "roc-undefined": lambda ax=None: plots.roc(evaluate_probabilities([[0.4, 0.6]], [0]), ax=ax),
    "reliability-2": lambda ax=None: plots.reliability(judged(2), ax=ax),
    "reliability-10": lambda ax=None: plots.reliability(judged(10), bins=5, ax=ax),
    "intervals": lambda ax=None: plots.accuracy_intervals(models(), ax=ax),
    "intervals-splits": lambda ax=None: plots.accuracy_intervals(
        {name: {"val": e, "test": e} for name, e in models().items()}, ax=ax
    ),
    "time": lambda ax=None: plots.accuracy_vs_time(
        models(), {"model 0": 3.0, "model 1": 40.0, "model 2": 41.0}, ax=ax
    ),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())
def test_every_figure_is_written_and_fits_its_page(draw, tmp_path) -> None:
    drawn = draw()
    path = plots.save(drawn, tmp_path / "new folder" / "figure.png", dpi=50)
    assert path.read_bytes().startswith(b"\x89PNG")
    figure = drawn.get_figure()
    box, page = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 <= page[0] + 0.01
    assert box.y1 <= page[1] + 0.01


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())
def test_every_figure_draws_on_axes_it_is_given(draw) -> None:
    own = style.axes_or_new(None, size=(4, 3))
    assert draw(ax=own) is own


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())
def test_every_panel_is_titled_and_labelled(draw) -> None:
    drawn = draw()
    for panel in drawn.child_axes or [drawn]:
        assert panel.get_title(loc="left")
        assert panel.get_xlabel()
        assert panel.get_ylabel() or panel.get_yticklabels()


def test_learning_curves_show_the_records() -> None:
    loss, accuracy = plots.learning_curves(run(3)).child_axes
    lines = {line.get_label(): line.get_ydata() for line in loss.lines}
    np.testing.assert_allclose(lines["train"], [1, 1 / 2, 1 / 3])
    np.testing.assert_allclose(lines["val"], [1.2, 0.6, 0.4])
    assert "best val accuracy: epoch 3" in [line.get_label() for line in accuracy.lines]
    assert (loss.get_title(loc="left"), accuracy.get_title(loc="left")) == ("Loss", "Accuracy")


def test_confusion_matrix_writes_counts_and_names() -> None:
    result = evaluate_probabilities(np.eye(2)[[0, 0, 1]], [0, 1, 1], classes=["normal", "ill"])
    drawn = plots.confusion_matrix(result)
    texts = [text.get_text() for text in drawn.texts]
    assert "1\n50.0 %" in texts
    assert "2 of 3 images right (66.7 %)" in texts
    assert [label.get_text() for label in drawn.get_yticklabels()] == ["normal", "ill"]


@pytest.mark.parametrize("draw", [plots.confusion_matrix, plots.roc, plots.reliability])
def test_a_figure_says_what_was_evaluated_and_on_how_many_images(draw) -> None:
    drawn = draw(judged(2), name="test")
    assert drawn.get_title(loc="left").endswith(", test")
    assert any("120 images" in text.get_text() for text in drawn.texts)


def test_roc_gives_the_area() -> None:
    result = judged(2)
    labels = [text.get_text() for text in plots.roc(result).get_legend().get_texts()]
    assert f"AUROC {result.auroc:.3f}" in labels
    several = judged(4)
    labels = [text.get_text() for text in plots.roc(several).get_legend().get_texts()]
    assert f"mean of classes, AUROC {several.auroc:.3f}" in labels
    assert len(labels) == 6


def test_reliability_gives_the_error_and_the_share_of_images() -> None:
    result = judged(2)
    drawn = plots.reliability(result)
    assert any(f"{100 * result.ece:.1f} %" in text.get_text() for text in drawn.texts)
    assert sum(bar.get_height() for bar in drawn.patches) == pytest.approx(1)


def test_models_that_no_other_beats_are_joined() -> None:
    results = models()
    seconds = {"model 0": 5.0, "model 1": 1.0, "model 2": 9.0}
    line = plots.accuracy_vs_time(results, seconds).lines[0]
    heights = list(line.get_ydata())
    assert heights == sorted(set(heights))
    assert max(heights) == max(result.accuracy for result in results.values())


def test_long_names_keep_both_ends() -> None:
    names = ["cat", "the beginning of it and the very end", "$5 or $6"]
    assert style.shorten(names, width=15) == ["cat", "the beg…ery end", r"\$5 or \$6"]


def test_short_names_stay_different() -> None:
    net = "transferkit/formula_resnet18"
    rows = [f"{net}, fixed", f"{net}, fixed, augmented", f"{net}, fine-tuned, augmented"]
    assert style.shorten(rows) == ["fixed", "fixed, augmented", "fine-tuned, augmented"]
    several = [f"{net}, fixed, augmented", f"{net}_two, fixed, augmented"]
    assert len(set(style.shorten(several))) == 2
    assert style.shorten([rows[0]], width=60) == [rows[0]]


def test_formats_follow_the_suffix(tmp_path) -> None:
    assert b"<svg" in plots.save(plots.roc(judged(2)), tmp_path / "roc.svg").read_bytes()


def test_the_whole_figure_is_written_from_any_part_of_it(tmp_path) -> None:
    figure = style.axes_or_new(None, size=(9, 4)).get_figure()
    figure.clear()
    part = figure.subfigures(1, 2)[1]
    drawn = plots.roc(judged(2), ax=part.add_subplot())
    for written in (drawn, part, figure):
        page = plots.save(written, tmp_path / "x.png", dpi=40).read_bytes()
        assert (int.from_bytes(page[16:20]), int.from_bytes(page[20:24])) == (360, 160)
    drawn.remove()
    with pytest.raises(OutputError, match="left their figure"):
        plots.save(drawn, tmp_path / "x.png")


def test_refusals(tmp_path) -> None:
    with pytest.raises(DataError, match="at least one finished epoch"):
        plots.learning_curves(History())
    with pytest.raises(DataError, match="nothing to draw"):
        plots.accuracy_intervals({})
    with pytest.raises(DataError, match="a time for each model"):
        plots.accuracy_vs_time(models(), {"other": 1.0})
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "roc.png", tmp_path / "roc.nonsense"):
        with pytest.raises(OutputError, match="Cannot write the figure"):
            plots.save(plots.roc(judged(2)), path)


def test_without_matplotlib_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.layout_engine", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'transferkit\[plots\]'"):
        plots.roc(judged(2))


def test_pyplot_is_never_imported(tmp_path) -> None:
    program = (
        "import sys, transferkit.plots as plots; "
        "assert not any(name.startswith('matplotlib') for name in sys.modules); "
        "from transferkit.metrics.evaluation import evaluate_probabilities as judge; "
        "drawn = plots.confusion_matrix(judge([[.4, .6], [.7, .3]], [1, 0])); "
        f"plots.save(drawn, {str(tmp_path / 'figure.png')!r}); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_namespace_holds_functions_only() -> None:
    public = {name for name in dir(plots) if not name.startswith("_")}
    assert public == set(plots.__all__)
    assert all(callable(getattr(plots, name)) for name in public)


def test_a_comparison_is_drawn_by_row_and_split() -> None:
    class Compared:
        def scores(self, split: str) -> dict[str, Evaluation]:
            return {"a": judged(2), "b": judged(2, seed=1)} if split == "val" else {"a": judged(2)}

    drawn = plots.comparison(Compared())
    assert [label.get_text() for label in drawn.get_yticklabels()] == ["a", "b"]
    assert [len(bar.lines[0].get_xdata()) for bar in drawn.containers] == [2, 1]
    with pytest.raises(DataError, match=r"tk\.compare"):
        plots.comparison(judged(2))
