from __future__ import annotations

import copy
import gc
import itertools
import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import transferkit as tk
from transferkit.data.image_data import ImageData
from transferkit.data.splits import Splits
from transferkit.errors import ConfigError, DataError, TrainingError, UnknownNameError
from transferkit.models.freezing import freeze, unfreeze
from transferkit.training.batches import shuffled_batches
from transferkit.training.trainer import Trainer
from transferkit.workflows.strategies import linear_probe

QUIET = {"progress": False, "device": "cpu"}


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)


def by_hand(model, data, *, epochs, batch_size, lr, seed, label_smoothing=0.0, weight=None):
    """The plain loop of a notebook: SGD with momentum, the same batches."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    losses = []
    for epoch in range(1, epochs + 1):
        model.train()
        total = 0.0
        for rows in shuffled_batches(len(data), batch_size, seed=seed, epoch=epoch):
            labels = torch.from_numpy(data.labels[rows])
            logits = model(data.batch(rows))
            loss = cross_entropy(logits, labels, label_smoothing=label_smoothing, weight=weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / len(data))
    return losses


def test_it_learns(small, train, val):
    model = small()
    history = Trainer(model, lr=1e-2, batch_size=8, **QUIET).fit(train, val, epochs=8)
    assert len(history) == 8
    assert history.records[-1].train_loss < history.records[0].train_loss
    assert history.summary().best_val_accuracy > 0.9
    assert history.records[-1].step == 8 * math.ceil(50 / 8)
    assert not model.training


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_it_equals_the_loop_written_by_hand(plain, train, smoothing):
    ours, theirs = plain(), plain()
    losses = by_hand(theirs, train, epochs=3, batch_size=8, lr=0.05, seed=3,
                     label_smoothing=smoothing)  # fmt: skip
    trainer = Trainer(ours, optimizer="sgd", lr=0.05, scheduler="constant", batch_size=8, seed=3,
                      label_smoothing=smoothing, **QUIET)  # fmt: skip
    history = trainer.fit(train, epochs=3)
    close(weights(ours), weights(theirs))
    assert [r.train_loss for r in history.records] == pytest.approx(losses, rel=1e-5)


def test_class_weights_are_those_of_torch(plain, train):
    ours, theirs = plain(), plain()
    by_hand(theirs, train, epochs=2, batch_size=10, lr=0.05, seed=0,
            weight=torch.tensor([1.0, 3.0]))  # fmt: skip
    Trainer(ours, optimizer="sgd", lr=0.05, scheduler="constant", batch_size=10,
            class_weights=[1.0, 3.0], **QUIET).fit(train, epochs=2)  # fmt: skip
    close(weights(ours), weights(theirs))


@pytest.mark.parametrize("options", [{}, {"class_weights": [0.5, 2.0]}])
def test_accumulation_takes_the_step_of_one_large_batch(plain, train, options):
    one, many = plain(), plain()
    common = dict(optimizer="sgd", lr=0.1, clip_norm=0.5, **options, **QUIET)
    a = Trainer(one, batch_size=20, **common).fit(train, epochs=2)
    b = Trainer(many, batch_size=5, accumulate=4, **common).fit(train, epochs=2)
    close(weights(one), weights(many))
    assert a.records[-1].step == b.records[-1].step == 6
    assert a.records[-1].train_loss == pytest.approx(b.records[-1].train_loss, rel=1e-4)


def test_clipping_bounds_the_step(plain, train):
    model = plain()
    before = weights(model)
    Trainer(model, optimizer="sgd", lr=1.0, momentum=0.0, scheduler="constant", clip_norm=1e-3,
            batch_size=50, **QUIET).fit(train, epochs=1)  # fmt: skip
    moved = sum(((weights(model)[k] - before[k]) ** 2).sum() for k in before).sqrt()
    assert 0 < moved <= 1.001e-3


def test_the_figures_are_means_over_samples(plain, train, val):
    """With a rate of almost nothing, the epoch's figures are those of the model as it stands."""
    model = plain()
    record = Trainer(model, lr=1e-12, batch_size=7, **QUIET).fit(train, val, epochs=1).records[0]
    for data, loss, accuracy in (
        (train, record.train_loss, record.train_accuracy),
        (val, record.val_loss, record.val_accuracy),
    ):
        logits = model(data.batch(np.arange(len(data)))).detach()
        labels = torch.from_numpy(data.labels)
        assert loss == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-5)
        assert accuracy == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_the_course_schedule_reaches_the_end(plain, train):
    history = Trainer(plain(), lr=0.1, batch_size=8, **QUIET).fit(train, epochs=30)
    assert history.records[-1].lr < 0.1 * 1e-3
    assert history.records[14].lr == pytest.approx(0.05, rel=0.02)


def test_same_seed_same_weights(small, train, val):
    runs = []
    for seed in (5, 5, 6):
        model = small()
        torch.manual_seed(len(runs))
        Trainer(model, seed=seed, batch_size=8, **QUIET).fit(train, val, epochs=2)
        runs.append(weights(model))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_the_callers_random_numbers_are_left_alone(small, train, val):
    torch.manual_seed(7)
    expected = torch.rand(6)
    torch.manual_seed(7)
    run = Trainer(small(), batch_size=8, **QUIET).epochs(train, val, epochs=3)
    drawn = [torch.rand(2) for _ in run]
    assert torch.equal(torch.cat(drawn), expected)


def test_draws_between_epochs_do_not_disturb_the_run(small, train):
    quiet, disturbed = small(), small()
    Trainer(quiet, batch_size=8, **QUIET).fit(train, epochs=3)
    for _ in Trainer(disturbed, batch_size=8, **QUIET).epochs(train, epochs=3):
        torch.rand(17)
    assert same(weights(quiet), weights(disturbed))


def test_the_best_epoch_comes_back(small, train, val):
    model = small()
    seen = {}
    trainer = Trainer(model, lr=0.3, batch_size=8, scheduler="constant", **QUIET)
    for epoch in trainer.epochs(train, val, epochs=6):
        seen[epoch.epoch] = weights(model)
    assert same(weights(model), seen[trainer.history.best_epoch])


def test_without_restore_or_val_the_last_epoch_stays(small, train, val):
    for options, judged in (({"restore_best": False}, val), ({}, None)):
        model = small()
        last = {}
        for _ in Trainer(model, lr=0.3, batch_size=8, **options, **QUIET).epochs(
            train, judged, epochs=4
        ):
            last = weights(model)
        assert same(weights(model), last)


def test_break_stops_and_restores(small, train, val):
    model = small()
    trainer = Trainer(model, lr=0.3, batch_size=8, **QUIET)
    seen = {}
    for epoch in trainer.epochs(train, val, epochs=50):
        seen[epoch.epoch] = weights(model)
        if epoch.epoch == 3:
            break
    assert len(trainer.history) == 3
    assert same(weights(model), seen[trainer.history.best_epoch])
    assert not model.training


def test_patience(plain, train, val):
    history = Trainer(plain(), lr=1e-12, patience=3, **QUIET).fit(train, val, epochs=50)
    assert history.best_epoch == 1
    assert len(history) == 4


def test_patience_needs_val(plain, train):
    with pytest.raises(ConfigError, match="patience"):
        Trainer(plain(), patience=3, **QUIET).fit(train, epochs=5)


def test_plateau_lowers_the_rate(plain, train, val):
    history = Trainer(plain(), lr=1e-9, scheduler="plateau", monitor="val_loss", **QUIET).fit(
        train, val, epochs=7
    )
    assert history.records[0].lr == 1e-9
    assert history.records[-1].lr == pytest.approx(1e-10)


def test_a_loss_that_turns_nan_keeps_the_last_good_epoch(small, train, val):
    model = small()

    def poison(images):
        if trainer._run.step == 12:
            with torch.no_grad():
                next(model.head.parameters()).fill_(math.nan)
        return images

    trainer = Trainer(model, batch_size=10, augment=poison, **QUIET)
    run = trainer.epochs(train, val, epochs=9)
    seen = {next(run).epoch: weights(model) for _ in range(2)}
    with pytest.raises(TrainingError, match=r"nan at epoch 3, step 3"):
        next(run)
    assert same(weights(model), seen[2])
    assert len(trainer.history) == 2
    assert trainer.history.records[-1].step == 10
    assert not model.training


def test_a_diverging_rate_is_an_error_and_leaves_finite_weights(small, train):
    model = small()
    with pytest.raises(TrainingError, match="lower lr"):
        Trainer(model, optimizer="sgd", lr=1e30, scheduler="constant", **QUIET).fit(train, epochs=5)
    assert all(torch.isfinite(tensor).all() for tensor in weights(model).values())


def test_ctrl_c_leaves_a_whole_epoch(small, train, val):
    model, broken = small(), False

    def interrupt(images):
        if trainer._run.step == 7 and not broken:
            raise KeyboardInterrupt
        return images

    trainer = Trainer(model, batch_size=10, augment=interrupt, **QUIET)
    run = trainer.epochs(train, val, epochs=9)
    seen = {next(run).epoch: weights(model)}
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert same(weights(model), seen[1])
    broken = True
    trainer.fit(train, val, epochs=3)
    assert [r.epoch for r in trainer.history.records] == [1, 2, 3]
    assert trainer.history.records[-1].step == 15


def test_frozen_weights_do_not_move_and_are_not_optimized(small, train, val):
    model = small()
    freeze(model)
    before = weights(model)
    trainer = Trainer(model, lr=0.1, batch_size=8, **QUIET)
    trainer.fit(train, val, epochs=3)
    after = weights(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith("head.")}
    held = [p for group in trainer._run.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.head.parameters()}


def test_unfreezing_between_epochs(small, train, val):
    model = small()
    freeze(model)
    start = weights(model)
    trainer = Trainer(model, lr=0.05, batch_size=8, scheduler="constant", **QUIET)
    seen = {}
    for epoch in trainer.epochs(train, val, epochs=4):
        seen[epoch.epoch] = trainer.state.weights
        if epoch.epoch == 2:
            held = trainer._run.optimizer.state[model.head.get_parameter("weight")] if hasattr(
                model.head, "weight") else None  # fmt: skip
            unfreeze(model)
    kernel = next(name for name in start if "stem.0.weight" in name)
    assert torch.equal(seen[2][kernel], start[kernel])
    assert not torch.equal(seen[3][kernel], start[kernel])
    optimizer = trainer._run.optimizer
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    if held is not None:
        assert optimizer.state[model.head.weight]["step"] == 4 * 7
    assert same(weights(model), seen[trainer.history.best_epoch])


def test_everything_frozen_is_an_error(small, train):
    model = small().requires_grad_(False)
    with pytest.raises(TrainingError, match="frozen"):
        Trainer(model, **QUIET).fit(train, epochs=1)


def test_augmentation_sees_uint8_batches_and_only_of_train(small, train, val):
    seen = []

    def look(images):
        seen.append((images.dtype, len(images)))
        return images ^ torch.randint(0, 2, images.shape, dtype=torch.uint8)

    trainer = Trainer(small(), augment=look, batch_size=25, **QUIET)
    next(trainer.epochs(train, val, epochs=2))
    seen.clear()  # the first batch was also tried
    trainer.fit(train, val, epochs=2)
    assert seen == [(torch.uint8, 25)] * 2


def test_bfloat16_on_request(small, train, val):
    history = Trainer(small(), precision="bfloat16", batch_size=8, **QUIET).fit(
        train, val, epochs=2
    )
    assert math.isfinite(history.records[-1].train_loss)


def test_auxiliary_heads_weigh_0_3(plain, train):
    model, ways = plain(), {}
    ways["plain"] = Trainer(copy.deepcopy(model), lr=1e-12, **QUIET).fit(train, epochs=1)
    twice = copy.deepcopy(model)
    twice.outputs = lambda images: (twice(images), twice(images), twice(images))
    ways["aux"] = Trainer(twice, lr=1e-12, **QUIET).fit(train, epochs=1)
    ratio = ways["aux"].records[0].train_loss / ways["plain"].records[0].train_loss
    assert ratio == pytest.approx(1.6, rel=1e-5)


def last_and_best(trainer, run, until):
    """Break off a named iterator after some epochs; the weights of each epoch."""
    seen = {}
    for epoch in run:
        record = epoch[0] if isinstance(epoch, tuple) else epoch
        seen[record.epoch] = trainer.state.weights
        if record.epoch == until:
            break
    return seen


@pytest.mark.parametrize(
    "wrap",
    [
        lambda run: run,
        lambda run: tqdm(run, disable=True),
        lambda run: zip(run, range(99), strict=False),
        lambda run: itertools.islice(run, 4),
        lambda run: (record for record in run),
    ],
)
@pytest.mark.parametrize("restore_best", [True, False])
def test_break_restores_though_the_generator_lives_on(small, train, val, wrap, restore_best):
    model = small()
    trainer = Trainer(model, lr=0.3, batch_size=8, restore_best=restore_best, **QUIET)
    named = wrap(trainer.epochs(train, val, epochs=50))  # its name keeps the generator alive
    seen = last_and_best(trainer, named, until=4)
    wanted = seen[trainer.history.best_epoch if restore_best else 4]
    assert same(weights(model), wanted)
    assert not model.training
    other = {name: tensor + 1 for name, tensor in wanted.items()}
    model.load_state_dict(other)
    del named  # an end that comes late must not undo what the user has done since
    gc.collect()
    assert same(weights(model), other)


def test_within_the_loop_the_model_is_as_it_would_be_left(small, train, val):
    model, seen = small(), {}
    trainer = Trainer(model, lr=0.3, batch_size=8, **QUIET)
    for epoch in trainer.epochs(train, val, epochs=6):
        seen[epoch.epoch] = trainer.state.weights
        assert not model.training
        assert same(weights(model), seen[trainer.history.best_epoch])


def test_looking_at_the_best_weights_does_not_change_the_run(small, train, val):
    histories = []
    for restore_best in (True, False):
        trainer = Trainer(small(), lr=0.3, batch_size=8, restore_best=restore_best, **QUIET)
        histories.append(trainer.fit(train, val, epochs=6))
    first, second = ([r.val_loss for r in history.records] for history in histories)
    assert first == second


@pytest.mark.parametrize("between", ["fits", "epochs"])
@pytest.mark.parametrize("frozen", [False, True])
def test_weights_loaded_between_two_epochs_count(plain, train, val, between, frozen):
    model, expected = plain(), plain(seed=5)
    loaded = weights(expected)
    if frozen:
        freeze(model)
        freeze(expected)
    trainer = Trainer(
        model, optimizer="sgd", momentum=0.0, scheduler="constant", lr=0.05, batch_size=8, **QUIET
    )
    if between == "fits":
        trainer.fit(train, val, epochs=2)
        model.load_state_dict(loaded)
        trainer.fit(train, val, epochs=3)
    else:
        for epoch in trainer.epochs(train, val, epochs=3):
            if epoch.epoch == 2:
                model.load_state_dict(loaded)
    optimizer = torch.optim.SGD([p for p in expected.parameters() if p.requires_grad], lr=0.05)
    for rows in shuffled_batches(len(train), 8, seed=0, epoch=3):
        optimizer.zero_grad()
        cross_entropy(expected(train.batch(rows)), torch.from_numpy(train.labels[rows])).backward()
        optimizer.step()
    close(trainer.state.weights, weights(expected))


def test_a_model_whose_modules_changed_is_refused(small, train, val):
    model = small()
    trainer = Trainer(model, batch_size=8, **QUIET)
    trainer.fit(train, val, epochs=1)
    model.head = torch.nn.Sequential(torch.nn.Flatten(), model.head)
    with pytest.raises(TrainingError, match=r"head.*new Trainer"):
        trainer.fit(train, val, epochs=2)


def test_patience_that_is_used_up_is_said(plain, train, val):
    trainer = Trainer(plain(), lr=1e-12, patience=3, **QUIET)
    trainer.fit(train, val, epochs=50)
    with pytest.raises(ConfigError, match=r"stopped after epoch 4.*patience=3"):
        trainer.fit(train, val, epochs=50)
    more = Trainer(plain(), lr=1e-12, patience=5, **QUIET)
    more.resume(trainer.state)
    assert len(more.fit(train, val, epochs=50)) == 6


@pytest.mark.parametrize("warmup", [14, 99, 0.99])
@pytest.mark.parametrize("scheduler", ["constant", "one_cycle", "cosine"])
def test_a_warm_up_as_long_as_the_run_is_refused(plain, train, warmup, scheduler):
    trainer = Trainer(plain(), warmup=warmup, scheduler=scheduler, batch_size=8, **QUIET)
    with pytest.raises(ConfigError, match=r"warmup=.*the whole run has 14"):
        trainer.fit(train, epochs=2)


CONTEXTS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("frozen", [False, True])
def test_training_has_its_own_context(small, train, val, tmp_path, context, frozen):
    models = []
    for within in (nullcontext, CONTEXTS[context]):
        model = small()
        if frozen:
            freeze(model)
        with within():
            trainer = Trainer(model, batch_size=8, **QUIET)
            for epoch in trainer.epochs(train, val, epochs=4):
                if epoch.epoch == 2:
                    break
            trainer.state.save(tmp_path / "state.safetensors")
            again = Trainer(model, batch_size=8, **QUIET)
            again.resume(tmp_path / "state.safetensors")
            again.fit(train, val, epochs=4)
        models.append(weights(model))
    assert same(*models)


def test_a_model_copied_in_inference_mode_is_refused(small, train):
    with torch.inference_mode():
        model = copy.deepcopy(small())
    with pytest.raises(TrainingError, match="inference_mode"):
        Trainer(model, **QUIET).fit(train, epochs=1)


def test_the_classes_of_the_data_stay_with_the_model(small, train, val):
    model = small()
    model.classes = ("0", "1")
    Trainer(model, **QUIET).fit(train, val, epochs=1)
    assert model.classes == train.classes


def imbalanced(count, rare, seed):
    """Two classes of stripes, ``rare`` images of the second."""
    rng = np.random.default_rng(seed)
    labels = np.array([0] * count + [1] * rare)
    images = rng.integers(0, 120, (len(labels), 16, 16, 3))
    images[labels == 1, 4:8] += 100
    return ImageData(images.astype(np.uint8), labels, classes=("c0", "c1"))


@pytest.mark.parametrize("solver", ["minibatch", "lbfgs"])
def test_balanced_weights_learn_the_right_classes_under_smoothing(small, solver):
    """50:1, smoothing 0.1: weighing the smoothing too would train towards the wrong class."""
    data = Splits({"train": imbalanced(300, 6, 0), "val": imbalanced(30, 30, 1)})
    options = {"class_weights": "balanced", "label_smoothing": 0.1}
    result = linear_probe(small(), data, solver=solver, epochs=40, lr=0.05, **options, **QUIET)
    assert result.val.accuracy > 0.9


@pytest.mark.parametrize("solver", ["minibatch", "lbfgs"])
def test_a_class_without_images_is_not_learnt(small, solver):
    two = imbalanced(60, 60, 0)
    data = {
        name: ImageData(one.images, one.labels, classes=("c0", "c1", "c2"))
        for name, one in {"train": two, "val": imbalanced(30, 30, 1)}.items()
    }
    options = {"class_weights": "balanced", "label_smoothing": 0.1}
    result = linear_probe(small(3), data, solver=solver, epochs=20, lr=0.05, **options, **QUIET)
    assert result.val.confusion[:, 2].sum() == 0


# bad input


def test_no_labels(small, train):
    with pytest.raises(DataError, match="labels"):
        Trainer(small(), **QUIET).fit(ImageData(train.images, classes=train.classes), epochs=1)


def test_one_class_only(small, train):
    rows = np.flatnonzero(train.labels == 1)
    with pytest.raises(DataError, match="c1"):
        Trainer(small(), **QUIET).fit(train.subset(rows), epochs=1)


def test_no_images(small, train, val):
    nothing = train.subset([])
    with pytest.raises(DataError, match="train split is empty"):
        Trainer(small(), **QUIET).fit(nothing, epochs=1)
    with pytest.raises(DataError, match="val split is empty"):
        Trainer(small(), **QUIET).fit(train, nothing, epochs=1)


def test_classes_that_differ_in_number(small, train, val):
    with pytest.raises(DataError, match="2 classes"):
        Trainer(small(3), **QUIET).fit(train, val, epochs=1)


def test_one_image_under_batch_norm(small, train):
    with pytest.raises(TrainingError, match="batch norm"):
        Trainer(small(), batch_size=1, **QUIET).fit(train, epochs=1)


def test_batches_of_one_are_fine_where_batch_norm_is_frozen(small, train):
    model = small()
    freeze(model)
    assert len(Trainer(model, batch_size=1, **QUIET).fit(train.subset(range(6)), epochs=1)) == 1


@pytest.mark.parametrize("epochs", [0, -1, 2.5, True])
def test_impossible_epochs(small, train, epochs):
    with pytest.raises(ConfigError, match="epochs"):
        Trainer(small(), **QUIET).fit(train, epochs=epochs)


def test_a_run_that_is_done_says_so(small, train):
    trainer = Trainer(small(), **QUIET)
    trainer.fit(train, epochs=1)
    with pytest.raises(ConfigError, match="done 1"):
        trainer.fit(train, epochs=1)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lr", 0.0),
        ("lr", math.nan),
        ("weight_decay", -1.0),
        ("momentum", 1.0),
        ("layer_decay", 0.0),
        ("warmup", 1.5),
        ("warmup", -1),
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("label_smoothing", 1.0),
        ("class_weights", [1.0, -1.0]),
        ("class_weights", "even"),
        ("clip_norm", 0.0),
        ("accumulate", 0),
        ("augment", "flip"),
        ("patience", 0),
        ("seed", -1),
    ],
)
def test_impossible_options_are_named(small, option, value):
    with pytest.raises(ConfigError, match=option):
        Trainer(small(), **{option: value})


@pytest.mark.parametrize("option", ["optimizer", "scheduler", "precision", "monitor"])
def test_unknown_names(small, option):
    with pytest.raises(UnknownNameError, match=option):
        Trainer(small(), **{option: "nope"})


def test_class_weights_of_another_number(small, train):
    with pytest.raises(ConfigError, match="2 numbers"):
        Trainer(small(), class_weights=[1.0, 1.0, 1.0], **QUIET).fit(train, epochs=1)


def test_a_device_that_is_not_there(small):
    with pytest.raises(ConfigError, match="device"):
        Trainer(small(), device="cuda:77")


@pytest.mark.parametrize(
    ("monitor", "reference"),
    [
        ("val_balanced_accuracy", lambda y, p: balanced_accuracy_score(y, p.argmax(1))),
        ("val_auroc", lambda y, p: roc_auc_score(y, p[:, 1])),
        ("val_macro_f1", lambda y, p: f1_score(y, p.argmax(1), average="macro")),
    ],
)
def test_a_monitored_figure_is_that_of_scikit_learn(small, train, val, monitor, reference):
    model, figures = small(), []
    trainer = Trainer(model, monitor=monitor, restore_best=False, progress=False, lr=0.02)
    for record in trainer.epochs(train, val, epochs=5):
        figures.append(reference(val.labels, tk.predict(model, val).probabilities))
        assert getattr(record, monitor) == pytest.approx(figures[-1], abs=1e-6)
    history = trainer.history
    assert history.best_epoch == 1 + int(np.argmax(figures))
    assert monitor.replace("_", " ") in str(history)
    probe = tk.linear_probe(small(), {"train": train, "val": val}, solver="lbfgs", monitor=monitor)
    best = probe.history.records[probe.history.best_epoch - 1]
    of_best = reference(val.labels, probe.val.probabilities)
    assert getattr(best, monitor) == pytest.approx(of_best, abs=1e-6)
    assert of_best == pytest.approx(max(getattr(r, monitor) for r in probe.history.records))


def test_auroc_of_one_class_cannot_be_monitored(small, train, val):
    single = val.subset(np.flatnonzero(val.labels == 0))
    with pytest.raises(ConfigError, match=r"val_auroc.*one class only"):
        Trainer(small(), monitor="val_auroc", progress=False).fit(train, single, epochs=1)


def rare_positives():
    """Radiographs of which 9 % are positive, and hard to see."""
    splits = tk.phantom_splits(sizes=(600, 400, 400), image_size=32, opacity=0.5, shift=0, seed=3)
    rng = np.random.default_rng(0)

    def thinned(data):
        positive = np.flatnonzero(data.labels == 1)
        negative = np.flatnonzero(data.labels == 0)
        kept = rng.choice(positive, round(len(negative) * 0.1), replace=False)
        return data.subset(np.sort(np.concatenate([negative, kept])))

    return {name: thinned(data) for name, data in splits.items()}


def test_rare_positives_are_missed_with_a_warning_and_found_by_what_it_advises():
    splits, backbone = rare_positives(), "transferkit/formula_resnet18"
    with pytest.warns(UserWarning, match="predicts 'normal' for all .* class_weights='balanced'"):
        blind = tk.linear_probe(backbone, splits, epochs=2, progress=False)
    assert blind.test.per_class[1].recall == 0
    advised = {"class_weights": "balanced", "monitor": "val_balanced_accuracy"}
    balanced = tk.linear_probe(backbone, splits, epochs=8, progress=False, **advised)
    assert balanced.test.per_class[1].recall > 0.7
    assert balanced.test.balanced_accuracy > 0.8


def test_data_of_one_class_are_not_answered_with_a_model_of_one_class() -> None:
    images = np.zeros((6, 8, 8, 1), np.uint8)
    one = tk.ImageData(images, np.zeros(6, np.int64), classes=["normal"])
    model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, seed=0)
    with pytest.raises(tk.DataError, match="needs two classes or more"):
        tk.Trainer(model, progress=False).fit(one, one, epochs=1)
