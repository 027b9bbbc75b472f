"""LP-FT and gradual unfreezing: one run in several phases, one choice, one look at test."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import transferkit as tk
from transferkit.training.history import EpochRecord, History
from transferkit.workflows.strategies import boundaries, joined, starts

QUIET = {"progress": False, "device": "cpu", "batch_size": 8}


def record(epoch, step, accuracy=0.5):
    return EpochRecord(epoch, step, 0.1, 1.0, 0.5, 1.0, accuracy, 2.0)


def test_joined_histories_count_on():
    first = History((record(1, 5), record(2, 10, 0.9)))
    second = History((record(1, 4), record(2, 8)))
    whole = joined([first, second])
    assert [r.epoch for r in whole.records] == [1, 2, 3, 4]
    assert [r.step for r in whole.records] == [5, 10, 14, 18]
    assert whole.best_epoch == 2
    assert whole.summary().seconds == 8
    with pytest.raises(tk.DataError, match="no history"):
        joined([])


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
    assert result.history.best_epoch <= 12
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
    assert boundaries(names, 2) == ["head", "a"]
    assert boundaries(names, 3) == ["head", "c", "a"]
    assert boundaries(names, 99) == names[::-1]
    assert starts(3, 12) == [0, 4, 8]
    assert starts(4, 5) == [0, 1, 2, 3]
    for bad in (lambda: boundaries(names, 1), lambda: starts(4, 3)):
        with pytest.raises(tk.ConfigError):
            bad()


def test_an_unknown_stage_shows_before_training(network, pictures):
    with pytest.raises(tk.UnknownNameError, match="layer9"):
        tk.gradual_unfreeze(network(), pictures, steps=["head", "layer9"], epochs=4)
