"""Laws of the public API: batches, threads and saving change no result."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import transferkit as tk

QUIET = {"progress": False, "device": "cpu", "batch_size": 8}
few = settings(max_examples=8, deadline=None)


@pytest.fixture(scope="module")
def trained(networks, pictures) -> tk.Classifier:
    model = tk.create_classifier("test-three", 2, weights=None, seed=0)
    return tk.fine_tune(model, pictures, epochs=2, lr=0.01, **QUIET).classifier


def joined(a: tk.ImageData, b: tk.ImageData) -> tk.ImageData:
    images, labels = np.concatenate([a.images, b.images]), np.concatenate([a.labels, b.labels])
    return tk.ImageData(images, labels, classes=a.classes)


@few
@given(cut=st.integers(1, 23), size=st.integers(1, 40))
def test_parts_of_the_images_give_parts_of_the_results(trained, pictures, cut, size) -> None:
    whole = pictures["test"]
    parts = [whole.subset(range(cut)), whole.subset(range(cut, len(whole)))]
    expected = tk.predict(trained, whole)
    found = [tk.predict(trained, part, batch_size=size) for part in parts]
    np.testing.assert_allclose(
        np.concatenate([one.probabilities for one in found]), expected.probabilities, atol=1e-6
    )
    features = [tk.extract_features(trained, part, batch_size=size).features for part in parts]
    of_whole = tk.extract_features(trained, whole).features
    np.testing.assert_allclose(np.concatenate(features), of_whole, atol=1e-5)
    counts = [tk.evaluate(trained, part, batch_size=size).confusion for part in parts]
    together = tk.evaluate(trained, joined(*parts))
    assert sum(counts).tolist() == together.confusion.tolist()
    assert together.accuracy == tk.evaluate(trained, whole).accuracy


@pytest.mark.parametrize("method", ["linear_probe", "fine_tune", "gradual_unfreeze"])
def test_another_thread_trains_the_same_model(pictures, method) -> None:
    recipe = tk.Strategy(method, epochs=2, options={**QUIET, "augment": tk.Augment()})

    def job() -> tk.Result:
        model = tk.create_classifier("test-three", 2, weights=None, dropout=0.3, seed=0)
        return tk.run(recipe, model, pictures)

    here = job()
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(job).result()
    for name, tensor in here.classifier.state_dict().items():
        assert torch.equal(tensor, there.classifier.state_dict()[name])
    assert here.test.log_loss == there.test.log_loss


def figures(history: tk.History) -> list[tuple[float | None, ...]]:
    return [(r.train_loss, r.train_accuracy, r.val_loss, r.lr) for r in history.records]


@few
@given(moment=st.integers(0, 3), frozen=st.booleans(), train_mode=st.booleans())
def test_a_classifier_may_be_saved_and_loaded_at_any_moment(
    networks, pictures, moment, frozen, train_mode
) -> None:
    def new() -> tk.Classifier:
        model = tk.create_classifier(
            "test-three", 2, weights=None, classes=("dark", "striped"), seed=0
        )
        if frozen:
            tk.freeze(model)
        return model

    train, val = pictures["train"], pictures["val"]
    undisturbed = tk.Trainer(new(), lr=0.01, **QUIET).fit(train, val, epochs=3)
    model = new().train(train_mode)
    trainer = tk.Trainer(model, lr=0.01, **QUIET)
    saved = saved_and_loaded(model) if moment == 0 else None
    for record in trainer.epochs(train, val, epochs=3):
        if record.epoch == moment:
            saved = saved_and_loaded(model)
    assert figures(trainer.history) == figures(undisturbed)
    before, after = saved
    assert before.head_is_trained == after.head_is_trained == (moment > 0)
    assert before.classes == after.classes
    a, b = (tk.predict(one, val).probabilities for one in saved)
    assert np.array_equal(a, b)


def saved_and_loaded(model: tk.Classifier) -> tuple[tk.Classifier, tk.Classifier]:
    """A copy of the model as it is, and the one that its file holds."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        tk.save_classifier(model, path)
        return copy.deepcopy(model), tk.load_classifier(path)
