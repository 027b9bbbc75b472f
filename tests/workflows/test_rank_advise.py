from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import transferkit as tk
from transferkit.metrics.intervals import wilson_interval
from transferkit.selection.probe import ProbeScore, probe_score
from transferkit.workflows.advise import STRATEGIES, _similarity
from transferkit.workflows.rank import Sample, _sizes


class Blind(nn.Module):
    """Features of the image's mean only, which says little."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.mix(images.mean(dim=(2, 3)) * 1e-3)
        return features


def sample_of(data: tk.ImageData) -> Sample:
    return Sample.of(data, 2000, 0, purpose="Ranking")


@pytest.fixture(scope="module")
def many():
    tk.register_backbone("test-blind", Blind, input_size=(3, 16, 16))
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 2
    images = rng.integers(0, 200, (240, 16, 16, 3))
    images[labels == 1, 4:6] += 40
    images = images - images.mean(axis=(1, 2, 3), keepdims=True) + 110  # the mean says nothing
    data = tk.ImageData(images.clip(0, 255).astype(np.uint8), labels)
    return tk.Splits({"train": data})


def test_a_backbone_that_sees_ranks_above_one_that_does_not(many):
    found = tk.rank_backbones(["test-blind", "test-three"], many, weights=None, finalists=2)
    assert found.names == ("user/test-three", "user/test-blind")
    best = found.rows[0]
    model = tk.create_classifier("test-three", 2, weights=None, seed=0)
    sample = sample_of(many["train"])
    features = tk.extract_features(model, sample.images).features
    assert best.probe == best.score == probe_score(features, sample.labels).accuracy
    assert best.best_share > 0.5
    assert 0 <= best.interval[0] < best.score < best.interval[1] <= 1
    assert best.images_per_second > 0
    assert best.num_params == sum(p.numel() for p in model.backbone.parameters())
    assert "images/s" in str(found)
    assert json.dumps(found.to_dict())


@pytest.mark.parametrize("by", ["logme", "knn", "h_score"])
def test_other_scores(many, by):
    found = tk.rank_backbones(["test-blind", "test-three"], many, by=by, weights=None)
    assert found.by == by
    assert found.rows[0].score >= found.rows[1].score


def test_halving_drops_the_worse_half_early(many):
    for seed in range(6):
        name = f"test-blind-{seed}"
        tk.register_backbone(name, Blind, input_size=(3, 16, 16))
    names = ["test-three", *(f"test-blind-{seed}" for seed in range(6))]
    found = tk.rank_backbones(names, many, weights=None, finalists=2)
    assert found.rounds == ((60, 7), (120, 4), (240, 2))
    assert [row.images for row in found.rows] == [240, 240, 120, 120, 60, 60, 60]
    assert found.rows[0].name == "user/test-three"
    assert found.rows[2].interval is None


def test_rounds_and_order():
    assert _sizes(1, 3, 1000, 32) == [1000]
    assert _sizes(8, 2, 1000, 32) == [250, 500, 1000]
    assert _sizes(7, 2, 1000, 32) == [250, 500, 1000]
    assert _sizes(8, 2, 100, 32) == [32, 50, 100]
    labels = np.array([0] * 30 + [1] * 60)
    sample = sample_of(tk.ImageData(np.zeros((90, 4, 4, 1), np.uint8), labels))
    assert len(sample.labels) == 90
    assert np.bincount(sample.labels[:30]).tolist() == [10, 20]


def test_a_backbone_that_fails_is_shown_and_the_rest_is_ranked(many, tmp_path):
    weights = {"test-blind": tmp_path / "absent.safetensors", "test-three": None}
    found = tk.rank_backbones(["test-blind", "test-three"], many, weights=weights)
    assert found.names == ("user/test-three",)
    assert "absent" in found.rows[1].error
    assert "absent" in str(found)
    with pytest.raises(tk.WeightsError, match="absent"):
        tk.rank_backbones(["test-blind"], many, weights=weights["test-blind"])


def test_bad_input(many):
    with pytest.raises(tk.UnknownNameError, match="logme"):
        tk.rank_backbones(["test-three"], many, by="logm")
    with pytest.raises(tk.UnknownNameError, match="test-three"):
        tk.rank_backbones(["test-tree"], many)
    for job in (tk.rank_backbones, lambda names, data: tk.advise(data, names[0])):
        with pytest.raises(tk.DataError, match="train"):
            job(["test-three"], {"val": many["train"]})
    for names in ([], "test-three"):
        with pytest.raises(tk.ConfigError, match="names"):
            tk.rank_backbones(names, many)


class Broken(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = images.mean(dim=(2, 3)) * float("nan")
        return features


class Constant(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(images), 4)


def test_features_that_tell_nothing_are_refused_by_name(many):
    tk.register_backbone("test-nan", Broken, input_size=(3, 16, 16))
    tk.register_backbone("test-constant", Constant, input_size=(3, 16, 16))
    for job in (
        lambda name: tk.rank_backbones([name], many, weights=None),
        lambda name: tk.advise(many, name, weights=None),
    ):
        with pytest.raises(tk.DataError, match="Features of user/test-nan must be finite"):
            job("test-nan")
        with pytest.raises(tk.DataError, match=r"user/test-constant gives all .* equal features"):
            job("test-constant")


def test_advice_from_measured_evidence(many):
    found = tk.advise(many, "test-three", weights=None)
    values = {e.name: e.value for e in found.evidence}
    assert found.size == "small"
    assert values["images of the smallest class"] == 120
    assert values["errors removed by pretraining"] == 0
    assert found.similarity == "dissimilar"
    assert (found.strategy, *found.alternatives) == STRATEGIES["small", "dissimilar"]
    assert values["gain per doubling"] == found.curve.gain_per_doubling
    assert found.quadrant in str(found)
    assert json.dumps(found.to_dict())


def test_weights_that_see_make_the_task_similar(many, tmp_path):
    tk.register_backbone("test-eyes", Eyes, input_size=(3, 16, 16))
    path = tmp_path / "eyes.pth"
    torch.save({"open": torch.ones(1)}, path)
    found = tk.advise(many, "test-eyes", weights=path)
    assert found.similarity == "similar"
    assert found.strategy == "linear_probe"


def test_at_the_ceiling_there_is_no_headroom():
    """Random features solve the task, so that pretraining has no errors left to remove."""
    labels = np.arange(160) % 2
    images = (
        np.random.default_rng(0).integers(90, 110, (160, 16, 16, 3))
        + 60 * labels[:, None, None, None]
    )
    splits = {"train": tk.ImageData(images.astype(np.uint8), labels)}
    found = tk.advise(splits, "test-three", weights=None)
    says = {e.name: e.says for e in found.evidence}
    assert "no headroom" in says["errors removed by pretraining"]
    assert (found.similarity, found.strategy) == ("similar", "linear_probe")


@pytest.mark.parametrize(
    ("known", "blank", "n", "expected"),
    [
        (0.99, 1.0, 200, "similar"),  # no headroom
        (0.995, 0.996, 2000, "similar"),
        (0.90, 0.90, 40, "dissimilar"),  # few errors of few images are no ceiling
        (0.95, 1.0, 200, "dissimilar"),  # pretraining does harm
        (0.95, 0.90, 2000, "similar"),
        (0.92, 0.90, 2000, "dissimilar"),
    ],
)
def test_similarity_is_the_share_of_errors_removed_unless_there_are_none(known, blank, n, expected):
    scores = (ProbeScore(share, wilson_interval(share * n, n)) for share in (known, blank))
    assert _similarity(*scores, n)[0] == expected


class Eyes(nn.Module):
    """Sees rows when open, which only the weights make it."""

    def __init__(self) -> None:
        super().__init__()
        self.open = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        noise = images[:, 0, 0, :4] * 1e-2
        rows: torch.Tensor = images.mean(dim=(1, 3))
        return torch.cat([rows * self.open, noise], dim=1)


def test_a_reference_that_looks_different_is_told_apart(many):
    dark = tk.ImageData((many["train"].images // 8).astype(np.uint8))
    values = {
        e.name: e.value
        for e in tk.advise(many, "test-three", weights=None, reference=dark).evidence
    }
    assert values["AUC against the reference"] > 0.95
    same = tk.ImageData(many["train"].images[::2])
    values = {
        e.name: e.value
        for e in tk.advise(many, "test-three", weights=None, reference=same).evidence
    }
    assert values["AUC against the reference"] < 0.7


def test_images_of_one_patient_are_never_on_both_sides(tmp_path):
    """Each patient has a pattern and a class, and nothing else tells the class: all is chance."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 8)
    labels = rng.permutation(np.arange(60) % 2)[patients]
    patterns = rng.integers(40, 200, (60, 16, 1, 3)).repeat(16, axis=2)
    images = patterns[patients] + rng.integers(-3, 4, (480, 16, 16, 3))
    named = [f"patient {number}" for number in patients]
    tk.register_backbone("test-eyes-open", Eyes, input_size=(3, 16, 16))
    path = tmp_path / "open.pth"
    torch.save({"open": torch.ones(1)}, path)
    leaky = tk.Splits({"train": tk.ImageData(images.astype(np.uint8), labels)})
    whole = tk.Splits({"train": tk.ImageData(images.astype(np.uint8), labels, groups=named)})
    for by, leaked in {"probe": 0.6, "knn": 0.95}.items():
        (row,) = tk.rank_backbones(["test-eyes-open"], leaky, by=by, weights=path).rows
        assert row.score > leaked
        (row,) = tk.rank_backbones(["test-eyes-open"], whole, by=by, weights=path).rows
        assert row.score == pytest.approx(0.5, abs=0.15)
        assert row.interval[0] < 0.5 < row.interval[1]
    advice = tk.advise(whole, "test-eyes-open", weights=path)
    values = {e.name: e.value for e in advice.evidence}
    assert values["probe on pretrained features"] == pytest.approx(0.5, abs=0.15)
    assert advice.curve.means[-1] == pytest.approx(0.5, abs=0.15)
    assert advice.similarity == "dissimilar"


def test_the_figures(many, tmp_path):
    ranking = tk.rank_backbones(["test-blind", "test-three"], many, weights=None)
    tk.plots.save(tk.plots.ranking(ranking), tmp_path / "ranking.png")
    curve = tk.advise(many, "test-three", weights=None).curve
    tk.plots.save(tk.plots.probe_curve(curve), tmp_path / "curve.png")
    assert len(list(tmp_path.iterdir())) == 2
