"""What one thread does with a model cannot be seen by another."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

import transferkit as tk
from transferkit.models.classifier import Classifier

THREADS, ROUNDS = 8, 50


def in_threads(work: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))


def small(**options: object) -> Classifier:
    return tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, **options)


def marks(model: Classifier) -> dict[str, object]:
    modules = dict(model.named_modules())
    return {
        "modes": {name: module.training for name, module in modules.items()},
        "attributes": {name: set(vars(module)) for name, module in modules.items()},
        "tensors": {name: (id(t), t._version) for name, t in model.named_parameters()},
        "buffers": {name: (id(t), t._version) for name, t in model.named_buffers()},
    }


def test_features_and_predictions_in_threads_are_those_of_one_thread() -> None:
    model = small(seed=0, dropout=0.5).train()
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), dtype=np.uint8)
    data = tk.ImageData(images)
    features = tk.extract_features(model, data).features
    probabilities = tk.predict(model, data).probabilities
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before, wrong = marks(model), []

    def work(number: int) -> None:
        for turn in range(ROUNDS):
            if (number + turn) % 2:
                same = np.array_equal(tk.extract_features(model, data).features, features)
            else:
                same = np.array_equal(tk.predict(model, data).probabilities, probabilities)
            if not same or marks(model) != before:
                wrong.append((number, turn))

    in_threads(work)
    assert not wrong
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_audits_in_threads_are_equal() -> None:
    splits = tk.phantom_splits(sizes=(24, 12, 12), image_size=32, seed=0)
    model = small(seed=0)
    tk.linear_probe(model, splits, epochs=1, progress=False)
    model.train()
    before = marks(model)

    def audit() -> str:
        report = tk.audit_splits(splits, model=model, near_duplicates=False, seeds=[0])
        return report.to_json()

    reports: list[str] = []
    in_threads(lambda _: reports.append(audit()))
    assert set(reports) == {audit()}
    assert marks(model) == before


def test_a_cache_may_be_shared_by_threads() -> None:
    model, cache = small(seed=0), tk.Cache(where="memory", memory=7_000)
    parts = [tk.phantom_splits(sizes=(4, 4, 4), image_size=32, seed=i)["train"] for i in range(4)]
    want = [tk.extract_features(model, part).features for part in parts]

    def work(number: int) -> None:
        for turn in range(ROUNDS // 5):
            place = (number + turn) % 4
            found = tk.extract_features(model, parts[place], cache=cache)
            assert np.array_equal(found.features, want[place])

    in_threads(work)


def test_a_seed_gives_the_same_classifier_in_every_thread() -> None:
    want = small(seed=0, weights=None).state_dict()
    state = torch.get_rng_state()
    made: list[bool] = []

    def work(number: int) -> None:
        for turn in range(3):
            own = small(seed=0 if (number + turn) % 2 else turn + 1, weights=None).state_dict()
            if (number + turn) % 2:
                made.append(all(torch.equal(own[name], want[name]) for name in want))

    in_threads(work)
    assert len(made) == THREADS * 3 // 2
    assert all(made)
    assert torch.equal(torch.get_rng_state(), state)
