from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from transferkit.data.augment import Augment
from transferkit.data.image_data import ImageData, Splits
from transferkit.errors import ConfigError, DataError, UnknownNameError
from transferkit.models import prefix_cache as encoding
from transferkit.models.classifier import create_classifier
from transferkit.models.prefix_cache import Cache, encode
from transferkit.training import evaluate as evaluating
from transferkit.workflows.audit import explain_gap
from transferkit.workflows.strategies import fine_tune, linear_probe, lp_ft

QUIET = {"progress": False, "device": "cpu", "batch_size": 8}


@pytest.fixture
def splits(pictures) -> Splits:
    return pictures


@pytest.fixture
def model(splits):
    return create_classifier("test-three", 2, weights=None, seed=0)


def moved(model, before) -> set[str]:
    after = model.state_dict()
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def copied(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_linear_probe_moves_the_head_only(model, splits):
    before = copied(model)
    result = linear_probe(model, splits, epochs=12, lr=0.05, **QUIET)
    assert moved(model, before) == {"head"}
    assert result.classifier is model
    assert result.val.accuracy > 0.8
    assert result.test.n == 24
    assert len(result.history) == 12
    assert model.classes == ("dark", "striped")


def test_fine_tune_moves_everything_or_from_a_stage_on(splits):
    for upto, expected in ((None, {"head", "backbone"}), ("head", {"head"})):
        model = create_classifier("test-three", 2, weights=None, seed=0)
        before = copied(model)
        result = fine_tune(model, splits, upto=upto, epochs=2, lr=0.01, **QUIET)
        assert moved(model, before) == expected
        assert result.history.best_epoch in {1, 2}


def test_the_scores_are_those_of_the_best_epoch(model, splits):
    result = fine_tune(model, splits, epochs=4, lr=0.05, **QUIET)
    best = result.history.records[result.history.best_epoch - 1]
    assert result.val.accuracy == pytest.approx(best.val_accuracy)
    assert result.val.log_loss == pytest.approx(best.val_loss, rel=1e-4)
    assert result.test.accuracy == evaluating.evaluate(model, splits["test"]).accuracy


def test_a_name_gets_a_classifier(splits):
    result = linear_probe("test-three", splits, epochs=1, **QUIET)
    assert result.classifier.name == "user/test-three"
    assert result.classifier.classes == ("dark", "striped")


def test_the_result_as_text_and_as_data(model, splits):
    result = linear_probe(model, splits, epochs=1, **QUIET)
    text = str(result)
    assert all(word in text for word in ("val", "test", "final train loss", "user/test-three"))
    data = json.loads(json.dumps(result.to_dict()))
    assert data["test"]["accuracy"] == result.test.accuracy
    assert data["history"]["best_epoch"] == 1


def test_a_test_split_may_be_absent_or_unlabelled(model, splits):
    without = {name: splits[name] for name in ("train", "val")}
    assert linear_probe(model, without, epochs=1, **QUIET).test is None
    blind = ImageData(splits["test"].images, classes=splits.classes)
    assert linear_probe(model, {**without, "test": blind}, epochs=1, **QUIET).test is None


def test_the_test_split_is_read_once(model, splits, monkeypatch):
    reads = []

    class Counted(ImageData):
        def batch(self, indices):
            reads.append(np.asarray(indices))
            return super().batch(indices)

    test = splits["test"]
    parts = {**splits, "test": Counted(test.images, test.labels, classes=test.classes)}
    fine_tune(model, parts, epochs=3, **QUIET)
    assert sorted(np.concatenate(reads)) == list(range(24))


@pytest.mark.parametrize("workflow", [linear_probe, fine_tune])
def test_bad_splits(model, splits, workflow):
    for name in ("train", "val"):
        rest = {key: data for key, data in splits.items() if key != name}
        with pytest.raises(DataError, match=name):
            workflow(model, rest, epochs=1)
        blind = ImageData(splits[name].images, classes=splits.classes)
        with pytest.raises(DataError, match="labels"):
            workflow(model, {**splits, name: blind}, epochs=1)
    three = create_classifier("test-three", 3, weights=None, seed=0)
    with pytest.raises(DataError, match="3 classes"):
        workflow(three, splits, epochs=1)
    with pytest.raises(UnknownNameError, match="test-there"):
        workflow("test-there", splits, epochs=1)


def test_an_unknown_stage_lists_the_stages(model, splits):
    with pytest.raises(UnknownNameError, match="head"):
        fine_tune(model, splits, upto="layer9", epochs=1)


def test_a_solved_probe_is_the_optimum_of_the_path(model, splits):
    before = copied(model)
    result = linear_probe(model, splits, solver="lbfgs", **QUIET)
    assert moved(model, before) == {"head"}
    penalties = [record.lr for record in result.history.records]
    assert penalties == sorted(penalties, reverse=True)
    losses = [record.train_loss for record in result.history.records]
    assert losses == sorted(losses, reverse=True)
    best = result.history.records[result.history.best_epoch - 1]
    assert best.val_accuracy == max(record.val_accuracy for record in result.history.records)
    assert result.val.accuracy == pytest.approx(best.val_accuracy)
    assert result.val.log_loss == pytest.approx(best.val_loss, rel=1e-3)
    assert result.val.accuracy > 0.8


def test_a_solved_probe_fits_better_than_a_stepped_one(model, splits):
    stepped = linear_probe(model, splits, epochs=30, **QUIET).history.records[-1]
    solved = linear_probe(model, splits, solver="lbfgs", **QUIET).history.records[-1]
    assert solved.train_loss < stepped.train_loss


def test_what_a_solved_probe_cannot_do(splits, model):
    dropout = create_classifier("test-three", 2, weights=None, dropout=0.5)
    with pytest.raises(ConfigError, match="one linear layer"):
        linear_probe(dropout, splits, solver="lbfgs")
    with pytest.raises(ConfigError, match="augment"):
        linear_probe(model, splits, solver="lbfgs", augment=Augment())
    with pytest.raises(UnknownNameError, match="solver"):
        linear_probe(model, splits, solver="newton")


def test_probes_share_the_features_on_disk(model, splits, tmp_path):
    cache = Cache(where="disk", folder=tmp_path)
    linear_probe(model, splits, epochs=1, cache=cache, **QUIET)
    assert len(cache.store().entries()) == 2
    seen = []
    model.backbone.stem.register_forward_hook(lambda *values: seen.append(len(values[-1])))
    linear_probe(model, splits, solver="lbfgs", cache=cache, **QUIET)
    assert len(cache.store().entries()) == 2
    judged = len(splits["val"]) + len(splits["test"])
    assert sum(seen) <= judged + 10  # a few images a split for its shape and its folding


def test_a_cache_is_shared_by_probes_rankings_audits_and_comparisons(model, splits, monkeypatch):
    """One pass over the images for all of them."""
    encoded = []

    def counted(prefix, data, **options):
        encoded.append(len(data))
        return encode(prefix, data, **options)

    monkeypatch.setattr(encoding, "encode", counted)
    cache = Cache(where="memory")
    lp_ft(model, splits, probe_epochs=1, epochs=1, upto="head", cache=cache, **QUIET)
    once = [len(splits["train"]), len(splits["val"])]
    assert sorted(encoded) == sorted(once)
    linear_probe(model, splits, epochs=1, cache=cache, **QUIET)
    fine_tune(model, splits, upto="head", epochs=1, cache=cache, **QUIET)
    assert sorted(encoded) == sorted(once)
    explain_gap(splits, model=model, cache=cache, seeds=(0,), samples=50)
    assert sorted(encoded) == sorted([*once, len(splits["test"])])
    assert len(cache.held) == 3


def test_held_gives_way_to_the_budget():
    held = Cache(where="memory").held
    for name in "abc":
        held.put(name, (torch.zeros(100),), 900)
        held.get("a")
    assert held.get("b") is None
    assert held.get("a") is not None
    assert held.get("c") is not None
    assert len(pickle.loads(pickle.dumps(held))) == 0
