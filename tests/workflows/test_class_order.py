"""Permuting the classes of the data changes no score: labels follow the names, not the numbers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import transferkit as tk

QUIET = {"progress": False, "device": "cpu", "batch_size": 8}
CLASSES = ("dark", "low", "high")


def images_of(count: int, seed: int) -> tk.ImageData:
    """Noise, with a bright stripe at one of two heights in two of the classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 160, (count, 16, 16, 3))
    images[labels == 1, 9:13] += 60
    images[labels == 2, 2:6] += 60
    return tk.ImageData(images.astype(np.uint8), labels, classes=CLASSES)


def permuted(data: tk.ImageData, order: list[int]) -> tk.ImageData:
    """The same images of the same classes, listed in another order."""
    names = tuple(data.classes[k] for k in order)
    labels = np.argsort(order)[data.labels]
    return tk.ImageData(data.images, labels, classes=names, names=data.names)


@pytest.fixture(scope="module")
def three() -> dict[str, tk.ImageData]:
    return {name: images_of(36, seed) for seed, name in enumerate(("train", "val", "test"))}


@pytest.fixture(scope="module")
def swapped(three) -> dict[str, tk.ImageData]:
    return {name: permuted(data, [2, 0, 1]) for name, data in three.items()}


def new() -> tk.Classifier:
    return tk.create_classifier("test-three", 3, weights=None, seed=0)


@pytest.fixture(scope="module")
def trained(networks, three) -> tk.Classifier:
    return tk.linear_probe(new(), three, epochs=4, lr=0.1, **QUIET).classifier


def figures(evaluation: tk.Evaluation) -> tuple[float, ...]:
    recalls = {scores.name: scores.recall for scores in evaluation.per_class}
    return (evaluation.accuracy, evaluation.log_loss, evaluation.auroc,
            *(recalls[name] for name in CLASSES))  # fmt: skip


@settings(max_examples=10, deadline=None)
@given(order=st.permutations([0, 1, 2]))
def test_scores_are_those_of_the_names(trained, three, order) -> None:
    data = permuted(three["test"], order)
    expected = tk.evaluate(trained, three["test"])
    assert figures(tk.evaluate(trained, data)) == figures(expected)
    predictions = tk.predict(trained, data)
    assert predictions.classes == trained.classes == CLASSES
    assert predictions.labels.tolist() == three["test"].labels.tolist()
    assert figures(predictions.evaluation()) == figures(expected)


@pytest.mark.parametrize("method", ["linear_probe", "fine_tune", "lp_ft", "interpolate"])
def test_a_trained_model_goes_on_with_its_own_classes(trained, three, swapped, method) -> None:
    recipe = tk.Strategy(method, epochs=2, options={**QUIET})
    if method in ("lp_ft", "interpolate"):
        recipe = tk.Strategy(method, epochs=2, probe_epochs=2, options={**QUIET})
    found = [tk.run(recipe, copy.deepcopy(trained), splits) for splits in (three, swapped)]
    for result in found:
        assert result.classifier.classes == CLASSES
    assert figures(found[0].val) == figures(found[1].val)
    assert figures(found[0].test) == figures(found[1].test)


def test_lbfgs_goes_on_with_the_models_own_classes(trained, three, swapped) -> None:
    a, b = (
        tk.linear_probe(copy.deepcopy(trained), splits, solver="lbfgs", **QUIET)
        for splits in (three, swapped)
    )
    assert figures(a.test) == figures(b.test)


def test_the_trainer_and_lr_find_too(trained, three, swapped) -> None:
    losses = []
    for train, val in ((three, three), (swapped, three), (swapped, swapped)):
        trainer = tk.Trainer(copy.deepcopy(trained), lr=1e-3, **QUIET)
        history = trainer.fit(train["train"], val["val"], epochs=2)
        losses.append([(record.train_loss, record.val_loss) for record in history.records])
        assert trainer.model.classes == CLASSES
    assert losses[0] == losses[1] == losses[2]
    options = {"steps": 12, "batch_size": 8, "device": "cpu"}
    curves = [tk.lr_find(trained, splits, **options).losses for splits in (three, swapped)]
    assert curves[0].tolist() == curves[1].tolist()


def test_interpolation_is_chosen_by_the_names(trained, three, swapped) -> None:
    second = copy.deepcopy(trained)
    tk.fine_tune(second, three, epochs=1, **QUIET)
    a, b = (tk.interpolate(trained, second, splits, device="cpu") for splits in (three, swapped))
    assert a.alpha == b.alpha
    assert [figures(scores) for scores in a.val_scores] == [figures(s) for s in b.val_scores]
    second.classes = ("high", "dark", "low")
    with pytest.raises(tk.ConfigError, match="order"):
        tk.interpolate(trained, second, three)


def test_the_gap_and_the_audit_are_those_of_the_names(trained, three, swapped) -> None:
    options = {"seeds": range(1), "model": trained}
    epochs = np.random.default_rng(0).integers(0, 3, (4, len(three["val"])))  # as the model counts
    a, b = (
        tk.explain_gap(splits, epoch_predictions=epochs, **options) for splits in (three, swapped)
    )
    assert (a.val_score, a.test_score, a.optimism) == (b.val_score, b.test_score, b.optimism)
    assert a.val_score == pytest.approx(tk.evaluate(trained, three["val"]).accuracy)
    a, b = (
        tk.audit_splits(splits, near_duplicates=False, **options).gap for splits in (three, swapped)
    )
    assert (a.val_score, a.test_score) == (b.val_score, b.test_score)


def test_splits_take_the_order_of_the_first(three, swapped) -> None:
    mixed = tk.Splits({"train": three["train"], "val": swapped["val"]})
    assert mixed.classes == CLASSES
    assert mixed["val"].labels.tolist() == three["val"].labels.tolist()


def test_other_classes_are_refused_and_both_are_named(trained, three) -> None:
    test = three["test"]
    other = tk.ImageData(test.images, test.labels, classes=("cat", "dog", "owl"))
    splits = {name: tk.ImageData(d.images, d.labels, classes=other.classes)
              for name, d in three.items()}  # fmt: skip
    calls = [
        lambda: tk.evaluate(trained, other),
        lambda: tk.predict(trained, other),
        lambda: tk.fine_tune(trained, splits, epochs=1, **QUIET),
        lambda: tk.Trainer(trained, **QUIET).fit(splits["train"], epochs=1),
        lambda: tk.interpolate(trained, trained, splits),
        lambda: tk.lr_find(trained, splits, steps=10),
    ]
    for call in calls:
        with pytest.raises(tk.DataError, match=r"cat.*dark"):
            call()
    assert trained.classes == CLASSES
    assert len(tk.predict(trained, test.images)) == len(test)  # images alone have no classes


def test_numbers_stand_for_no_names(trained, three) -> None:
    test = three["test"]
    unnamed = tk.ImageData(test.images, test.labels)
    assert tk.evaluate(trained, unnamed).classes == CLASSES
    assert figures(tk.evaluate(trained, unnamed)) == figures(tk.evaluate(trained, test))
    some = unnamed.subset(test.labels < 2)
    two = tk.ImageData(some.images, some.labels)  # without the last class
    assert tk.evaluate(trained, two).confusion[2].tolist() == [0, 0, 0]
    named = tk.ImageData(some.images, 1 - some.labels, classes=("low", "dark"))
    assert figures(tk.evaluate(trained, named)) == pytest.approx(
        figures(tk.evaluate(trained, two)), nan_ok=True
    )
    model = new()
    with pytest.warns(UserWarning, match="never trained"):
        assert tk.evaluate(model, test).classes == CLASSES
    assert model.classes == ("0", "1", "2")
    tk.Trainer(model, **QUIET).fit(three["train"], epochs=1)
    assert model.classes == CLASSES


def test_an_untrained_head_takes_the_order_of_its_own_names(three, swapped) -> None:
    built = [tk.create_classifier("test-three", 3, weights=None, classes=CLASSES, seed=0)
             for _ in range(2)]  # fmt: skip
    results = [tk.fine_tune(model, splits, epochs=1, **QUIET)
               for model, splits in zip(built, (three, swapped), strict=True)]  # fmt: skip
    for name, tensor in results[0].classifier.state_dict().items():
        assert torch.equal(tensor, results[1].classifier.state_dict()[name])
