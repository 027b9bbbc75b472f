"""Strategies: each way to train, as a function and as a value."""

from __future__ import annotations

import json
import pickle
from dataclasses import fields, replace
from typing import get_args

import numpy as np
import pytest
import torch

import transferkit as tk
from transferkit.data.augment import Augment
from transferkit.data.image_data import ImageData
from transferkit.data.splits import Splits
from transferkit.errors import ConfigError, DataError, UnknownNameError
from transferkit.models import prefix_cache as encoding
from transferkit.models.classifier import create_classifier
from transferkit.models.prefix_cache import Cache, encode
from transferkit.training import evaluate as evaluating
from transferkit.training.history import EpochRecord, History
from transferkit.workflows.audit import explain_gap
from transferkit.workflows.strategies import (
    boundaries,
    fine_tune,
    joined,
    linear_probe,
    lp_ft,
)
from transferkit.workflows.strategy import Method

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


# several phases in one run


def record(epoch, step, accuracy=0.5):
    return EpochRecord(epoch, step, 0.1, 1.0, 0.5, 1.0, accuracy, 2.0)


def test_joined_histories_count_on():
    first = History((record(1, 5), record(2, 10, 0.9)))
    second = History((record(1, 4), record(2, 8)))
    whole = joined(first, second)
    assert [r.epoch for r in whole.records] == [1, 2, 3, 4]
    assert [r.step for r in whole.records] == [5, 10, 14, 18]
    assert whole.best_epoch == 2
    assert whole.summary().seconds == 8


class Counted(tk.ImageData):
    reads = 0

    def batch(self, indices):
        type(self).reads += len(np.atleast_1d(indices))
        return super().batch(indices)


@pytest.mark.parametrize(
    "job",
    [
        lambda model, data: tk.lp_ft(model, data, probe_epochs=2, epochs=2, lr=0.01, **QUIET),
        lambda model, data: tk.gradual_unfreeze(model, data, steps=3, epochs=4, lr=0.01, **QUIET),
    ],
)
def test_scores_are_those_of_the_best_epoch_and_test_is_read_once(network, pictures, job):
    test = pictures["test"]
    Counted.reads = 0
    parts = {**pictures, "test": Counted(test.images, test.labels, classes=test.classes)}
    result = job(network(), parts)
    assert Counted.reads == len(test)
    assert len(result.history) == 4
    best = result.history.records[result.history.best_epoch - 1]
    assert result.val.accuracy == pytest.approx(best.val_accuracy)
    assert result.val.log_loss == pytest.approx(best.val_loss, rel=1e-3)


def test_lp_ft_is_the_probe_and_then_fine_tuning(network, pictures):
    by_hand = network()
    tk.linear_probe(by_hand, pictures, epochs=2, lr=0.02, **QUIET)
    tuned = tk.fine_tune(by_hand, pictures, epochs=3, lr=0.01, **QUIET)
    options = {"probe_epochs": 2, "probe_lr": 0.02, "epochs": 3, "lr": 0.01}
    result = tk.lp_ft(network(), pictures, **options, **QUIET)
    assert len(result.history) == 5
    losses = [r.val_loss for r in result.history.records[2:]]
    assert losses == [r.val_loss for r in tuned.history.records]
    if result.history.best_epoch > 2:
        for name, tensor in by_hand.state_dict().items():
            assert torch.equal(tensor, result.classifier.state_dict()[name])


def test_where_fine_tuning_only_harms_the_probe_stays(network, pictures):
    probe = network()
    alone = tk.linear_probe(probe, pictures, epochs=12, lr=0.05, **QUIET)
    result = tk.lp_ft(
        network(), pictures, probe_epochs=12, probe_lr=0.05, epochs=2, lr=1e-9, **QUIET
    )
    assert result.history.best_epoch <= 12 == result.history.probe_epochs
    best = f"14 epochs; best val accuracy in epoch {result.history.best_epoch}"
    assert f"{best}, an epoch of the probe, which fine-tuning did not beat" in str(result)
    assert "probe" not in str(alone)
    assert result.val.accuracy == alone.val.accuracy
    for name, tensor in probe.state_dict().items():
        assert torch.equal(tensor, result.classifier.state_dict()[name])


def test_gradual_unfreezing_goes_back_stage_by_stage(network, pictures, monkeypatch):
    model, seen = network(), []
    original = tk.Trainer.epochs

    def watched(self, *args, **options):
        for one in original(self, *args, **options):
            learning = {n.split(".")[0] for n, p in model.backbone.named_parameters()
                        if p.requires_grad}  # fmt: skip
            seen.append(learning)
            yield one

    monkeypatch.setattr(tk.Trainer, "epochs", watched)
    tk.gradual_unfreeze(model, pictures, steps=["head", "last", "stem"], epochs=5, **QUIET)
    assert seen == [set(), {"last"}, {"last"}, {"stem", "body", "last"}, {"stem", "body", "last"}]


def test_the_rate_falls_from_stage_to_stage(network, pictures):
    model = network()
    trainer_rates = {}
    group = tk.param_groups(model, 1.0, decay=0.5)
    for one in group:
        trainer_rates[one["name"].split(",")[0]] = one["lr"]
    names = list(tk.stages(model))
    assert [trainer_rates[n] for n in names] == [0.5**k for k in range(len(names))][::-1]


def test_steps_are_shared_out_evenly():
    names = ["a", "b", "c", "d", "head"]
    assert boundaries(names, 2, 9) == ["head", "a"]
    assert boundaries(names, 3, 9) == ["head", "c", "a"]
    assert boundaries(names, 99, 9) == names[::-1]
    assert boundaries(names, 4, 3) == ["head", "c", "a"]
    assert boundaries(names, ["head", "b"], 9) == ["head", "b"]


@pytest.mark.parametrize(("epochs", "begins"), [(12, [1, 5, 9]), (3, [1, 2, 3])])
def test_the_epochs_are_shared_out_evenly(network, pictures, monkeypatch, epochs, begins):
    model, sizes = network(), []
    original = tk.Trainer.epochs

    def watched(self, *args, **options):
        for one in original(self, *args, **options):
            sizes.append(sum(p.requires_grad for p in model.parameters()))
            yield one

    monkeypatch.setattr(tk.Trainer, "epochs", watched)
    tk.gradual_unfreeze(model, pictures, steps=3, epochs=epochs, **QUIET)
    starts = [i + 1 for i, size in enumerate(sizes) if i == 0 or size != sizes[i - 1]]
    assert starts == begins


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 1},
        {"steps": ["head"]},
        {"steps": ["head", "last", "body", "stem"], "epochs": 3},
        {"steps": 4, "epochs": 1},
        {"steps": "head"},
    ],
)
def test_steps_that_cannot_be(network, pictures, fields):
    with pytest.raises(tk.ConfigError, match="steps"):
        tk.Strategy("gradual_unfreeze", **fields)
    with pytest.raises(tk.ConfigError, match="steps"):
        tk.gradual_unfreeze(network(), pictures, **fields)


def test_an_unknown_stage_shows_before_training(network, pictures):
    with pytest.raises(tk.UnknownNameError, match="layer9"):
        tk.gradual_unfreeze(network(), pictures, steps=["head", "layer9"], epochs=4)


# a strategy as a value

FUNCTIONS = {
    "linear_probe": (tk.linear_probe, {}),
    "fine_tune": (tk.fine_tune, {"upto": "last"}),
    "lp_ft": (tk.lp_ft, {"probe_epochs": 2, "probe_lr": 0.02}),
    "gradual_unfreeze": (tk.gradual_unfreeze, {"steps": 2}),
}


@pytest.mark.parametrize("method", FUNCTIONS)
def test_a_function_is_run_with_one_method(network, pictures, method):
    function, own = FUNCTIONS[method]
    options = {**QUIET, "label_smoothing": 0.1, "warmup": 0.25, "weight_decay": 0.02}
    called, ran = network(), network()
    first = function(called, pictures, epochs=3, lr=0.01, **own, **options)
    strategy = tk.Strategy(method, epochs=3, lr=0.01, options=options, **own)
    second = tk.run(strategy, ran, pictures)
    assert [r.val_loss for r in first.history.records] == [
        r.val_loss for r in second.history.records
    ]
    tensors = zip(called.state_dict().values(), ran.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in tensors)


def test_the_probe_has_ten_epochs_unless_given(network, pictures):
    for result in (
        tk.lp_ft(network(), pictures, epochs=2, **QUIET),
        tk.run(tk.Strategy("lp_ft", epochs=2, options=QUIET), network(), pictures),
        tk.run(tk.Strategy("interpolate", epochs=2, options=QUIET), network(), pictures),
        tk.compare(["test-three"], ["lp_ft"], pictures, weights=None, epochs=2).cells[0],
    ):
        assert len(result.history) == 10 + 2


def test_every_method_runs_on_the_name_of_a_backbone(pictures):
    for method in get_args(Method):
        strategy = tk.Strategy(method, epochs=2, dropout=0.25, outputs=3, options=QUIET)
        if method in ("lp_ft", "interpolate"):
            strategy = replace(strategy, probe_epochs=1)
        result = tk.run(strategy, "test-three", pictures)
        assert result.classifier.num_classes == 3
        assert result.classifier.recipe.dropout == 0.25


def test_from_scratch_needs_random_weights(pictures):
    name = "transferkit/formula_resnet18"
    pretrained = create_classifier(name, 2, image_size=32)
    strategy = tk.Strategy("from_scratch", epochs=1, options=QUIET)
    with pytest.raises(ConfigError, match="weights=None"):
        tk.run(strategy, pretrained, pictures)
    assert tk.run(strategy, name, pictures).classifier.recipe.weights is None


def test_a_strategy_and_a_classifier_with_other_dropout(network, pictures):
    with pytest.raises(ConfigError, match=r"dropout=0.5"):
        tk.run(tk.Strategy("fine_tune", dropout=0.5), network(), pictures)


@pytest.mark.parametrize(
    ("method", "field", "value", "says"),
    [
        ("linear_probe", "upto", "last", "fine_tune, lp_ft, interpolate"),
        ("from_scratch", "upto", "last", "fine_tune"),
        ("fine_tune", "steps", 3, "gradual_unfreeze"),
        ("fine_tune", "solver", "lbfgs", "linear_probe"),
        ("gradual_unfreeze", "probe_epochs", 3, "lp_ft, interpolate"),
        ("linear_probe", "probe_lr", 0.1, "lp_ft, interpolate"),
    ],
)
def test_a_field_that_the_method_does_not_use(network, pictures, method, field, value, says):
    with pytest.raises(ConfigError, match=f"{method} does not use {field}.*{says}"):
        tk.Strategy(method, **{field: value})
    if method in FUNCTIONS:
        with pytest.raises(ConfigError, match=f"{method} does not use {field}.*{says}"):
            FUNCTIONS[method][0](network(), pictures, **{field: value})


def test_a_wrong_name_of_an_option_is_answered_with_the_nearest(network, pictures):
    for job in (
        lambda: tk.Strategy("fine_tune", options={"wieght_decay": 0.1}),
        lambda: tk.fine_tune(network(), pictures, wieght_decay=0.1),
        lambda: tk.Trainer(network(), wieght_decay=0.1),
    ):
        with pytest.raises(UnknownNameError, match="Did you mean 'weight_decay'"):
            job()
    with pytest.raises(UnknownNameError, match="Did you mean 'epochs'"):
        tk.fine_tune(network(), pictures, epoch=3)
    with pytest.raises(ConfigError, match=r"lr stands beside options: fine_tune\(\.\.\., lr="):
        tk.Strategy("fine_tune", options={"lr": 0.1})
    with pytest.raises(ConfigError, match="dictionary"):
        tk.Strategy("fine_tune", options=[("lr", 0.1)])
    with pytest.raises(ConfigError, match="batch_size"):
        tk.Strategy("fine_tune", options={"batch_size": 0})


def test_a_strategy_as_data_is_complete_and_stable():
    def square(step: int, total: int) -> float:
        return (1 - step / total) ** 2

    options = {"warmup": 0.1, "augment": Augment(), "scheduler": square, "class_weights": (1, 2)}
    strategy = tk.Strategy("gradual_unfreeze", steps=["head", 0], options=options)
    data = json.loads(json.dumps(strategy.to_dict()))
    assert list(data) == [field.name for field in fields(strategy)]
    assert (data["name"], data["epochs"], data["lr"]) == ("gradual_unfreeze", 12, 1e-3)
    assert data["steps"] == ["head", 0]
    assert data["options"] == {
        "augment": repr(Augment()),
        "class_weights": [1, 2],
        "scheduler": f"{square.__module__}.{square.__qualname__}",
        "warmup": 0.1,
    }
    back = dict(reversed(options.items()))
    again = tk.Strategy("gradual_unfreeze", epochs=12, lr=1e-3, steps=("head", 0), options=back)
    assert json.dumps(again.to_dict()) == json.dumps(strategy.to_dict())
    options["warmup"] = 0.5
    assert strategy.options["warmup"] == 0.1
    assert hash(strategy) == hash(replace(strategy))
    assert pickle.loads(pickle.dumps(tk.Strategy("lp_ft"))) == tk.Strategy("lp_ft")


@pytest.mark.parametrize("method", FUNCTIONS)
def test_functions_and_strategies_have_the_same_defaults(method):
    keywords = dict(FUNCTIONS[method][0].__kwdefaults__)
    strategy = tk.Strategy(method)
    assert (keywords.pop("epochs"), keywords.pop("lr")) == (strategy.length, strategy.rate)
    assert keywords == {name: getattr(strategy, name) for name in keywords}


def test_seeds_of_a_comparison_are_not_overruled(pictures):
    seeded = tk.Strategy("fine_tune", options={"seed": 3})
    with pytest.raises(ConfigError, match="seeds"):
        tk.compare(["test-three"], [seeded], pictures)
