from __future__ import annotations

import numpy as np
import pytest
import torch

import transferkit as tk
from transferkit.data.image_data import ImageData
from transferkit.errors import ConfigError, DataError
from transferkit.models.freezing import freeze
from transferkit.models.save_load import load_classifier, save_classifier
from transferkit.training.evaluate import evaluate, predict
from transferkit.training.trainer import Trainer


def test_evaluate_counts_what_the_model_says(small, val):
    model = small().eval()
    with torch.no_grad():
        logits = model(val.batch(np.arange(len(val))))
    with pytest.warns(UserWarning, match="never trained"):
        scores = evaluate(model, val, batch_size=7)
    assert scores.accuracy == pytest.approx(np.mean(logits.argmax(1).numpy() == val.labels))
    loss = torch.nn.functional.cross_entropy(logits.double(), torch.from_numpy(val.labels))
    assert scores.log_loss == pytest.approx(loss.item(), rel=1e-5)
    assert scores.n == len(val)
    assert scores.classes == val.classes


def test_predict_takes_data_and_arrays(small, val):
    model = small()
    of_data = predict(model, val)
    of_array = predict(model, val.images)
    of_tensor = predict(model, val.batch(np.arange(len(val))))
    assert np.array_equal(of_data.probabilities, of_array.probabilities)
    assert np.array_equal(of_data.probabilities, of_tensor.probabilities)
    assert of_data.names == val.names
    assert of_array.labels is None
    assert of_data.classes == model.classes
    assert np.allclose(of_data.probabilities.sum(1), 1)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_mode_of_every_module_is_put_back(small, val, frozen):
    model = small()
    if frozen:
        freeze(model)
    model.train()
    before = [module.training for module in model.modules()]
    predict(model, val)
    with pytest.warns(UserWarning, match="never trained"):
        evaluate(model, val)
    assert [module.training for module in model.modules()] == before


def test_a_head_that_was_trained_or_loaded_is_not_warned_of(small, train, val, tmp_path):
    model = small()
    Trainer(model, progress=False).fit(train, epochs=1)
    expected = evaluate(model, val).log_loss
    save_classifier(model, tmp_path / "model.safetensors")
    assert evaluate(load_classifier(tmp_path / "model.safetensors"), val).log_loss == expected
    own = small()
    own.load_state_dict(model.state_dict())
    assert evaluate(own, val).log_loss == expected


def test_batch_statistics_are_not_used_or_changed(small, val):
    model = small().train()
    before = [buffer.clone() for buffer in model.buffers()]
    one = predict(model, val, batch_size=1).probabilities
    assert np.allclose(one, predict(model, val, batch_size=30).probabilities, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), before, strict=True))


def test_bad_input(small, val):
    with pytest.raises(DataError, match="labels"):
        evaluate(small(), ImageData(val.images, classes=val.classes))
    with pytest.raises(DataError, match="2 classes"):
        evaluate(small(3), val)
    with pytest.raises(DataError, match="no images"):
        predict(small(), val.subset([]))
    with pytest.raises(ConfigError, match="nowhere"):
        predict(small(), val, device="nowhere")


def test_predict_takes_the_bit_depth_that_its_warning_asks_for(small):
    dark = np.random.default_rng(0).integers(0, 900, (5, 16, 16, 1)).astype(np.uint16)
    model = small()
    with pytest.warns(UserWarning, match="bits=10"):
        guessed = tk.predict(model, list(dark))
    said = tk.predict(model, list(dark), bits=12).probabilities
    right = tk.predict(model, tk.ImageData(dark, bits=12)).probabilities
    np.testing.assert_allclose(said, right, atol=1e-6)
    np.testing.assert_allclose(tk.predict(model, dark, bits=12).probabilities, right, atol=1e-6)
    assert not np.allclose(guessed.probabilities, right, atol=1e-4)
    with pytest.raises(tk.ConfigError, match="bits must be one of"):
        tk.predict(model, dark, bits=3)
    with pytest.raises(tk.ConfigError, match="bits is that of the ImageData"):
        tk.predict(model, tk.ImageData(dark, bits=12), bits=12)
