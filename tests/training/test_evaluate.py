from __future__ import annotations

import csv
import io
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

import transferkit as tk
from transferkit.data import image_inputs
from transferkit.data.image_data import ImageData
from transferkit.errors import ConfigError, DataError
from transferkit.metrics.evaluation import Predictions
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
    own.classes = model.classes
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


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A folder of train and test images of many shapes; those of one class are taller."""
    root, rng = tmp_path_factory.mktemp("uneven"), np.random.default_rng(0)
    for split, count in (("train", 30), ("val", 20), ("test", 20)):
        for row in range(count):
            tall = row % 2
            height, width = (rng.integers(30, 60), rng.integers(16, 28))[:: 1 if tall else -1]
            pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
            folder = root / split / ("tall" if tall else "wide")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{row}.png")
    return root


@pytest.mark.parametrize("resize", ["pad", "crop", "squash"])
@pytest.mark.parametrize("channels", ["auto", 1])
@pytest.mark.parametrize("solver", ["minibatch", "lbfgs"])
def test_files_are_read_as_those_of_the_training(small, uneven, tmp_path, resize, channels, solver):
    splits = tk.load_splits(uneven, image_size=(24, 20), resize=resize, channels=channels)
    model = small()
    tk.linear_probe(model, splits, epochs=1, solver=solver, progress=False)
    tk.save_classifier(model, tmp_path / "model.safetensors")
    wanted = tk.predict(model, splits["test"])
    paths = [str(uneven / name) for name in wanted.names]
    for classifier in (model, tk.load_classifier(tmp_path / "model.safetensors")):
        for images in (paths, [Image.open(path) for path in paths]):
            found = tk.predict(classifier, images)
            np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-6)
    assert tk.predict(model, uneven / "test").names == tuple(sorted(paths))
    squashed = tk.load_images(paths)
    if resize == "pad":  # what the classifier would see without knowing
        other = tk.predict(model, squashed).probabilities
        assert np.abs(other - wanted.probabilities).max() > 0.01


def test_deep_files_are_read_with_the_depth_of_the_training(small, tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for row in range(8):
            folder = tmp_path / split / "ab"[row % 2]
            folder.mkdir(parents=True, exist_ok=True)
            top = 4095 if split == "train" else 900  # val alone would be taken for 10 bits
            pixels = rng.integers(0, top + 1, (16, 16)).astype(np.uint16)
            Image.fromarray(pixels).save(folder / f"{row}.png")
    splits = tk.load_splits(tmp_path, bits=12)
    model = small()
    tk.linear_probe(model, splits, epochs=1, progress=False)
    wanted = tk.predict(model, splits["test"])
    found = tk.predict(model, [str(tmp_path / name) for name in wanted.names])
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-6)


def test_patterns_tables_and_folders_lead_to_the_same_files(small, uneven, tmp_path):
    model = small()
    files = sorted((uneven / "test" / "tall").iterdir())
    wanted = tk.predict(model, [str(file) for file in files])
    table = tmp_path / "list.csv"
    table.write_text("id,Path\n" + "".join(f"{i},{file}\n" for i, file in enumerate(files)))
    for images in (uneven / "test" / "tall", str(uneven / "test" / "t*" / "*.png"), table):
        found = tk.predict(model, images)
        assert found.names == wanted.names
        assert np.array_equal(found.probabilities, wanted.probabilities)
    with pytest.raises(DataError, match="There is no file or folder"):
        tk.predict(model, str(uneven / "*.tiff"))
    table.write_text("id,text\n1,2\n")
    with pytest.raises(DataError, match=r"No column of list\.csv names images .*: id, text"):
        tk.predict(model, table)
    table.write_text(f"image\n{files[0]}\nnowhere.png\n")
    with pytest.raises(DataError, match=r"no file .*nowhere\.png, which .* lists"):
        tk.predict(model, table)


def test_many_files_are_never_in_memory_together(small, tmp_path, monkeypatch):
    pixels = np.zeros((300, 300, 3), np.uint8)
    for row in range(40):
        Image.fromarray(pixels + np.uint8(row)).save(tmp_path / f"{row:02}.png")
    model = small()
    wanted = tk.predict(model, tmp_path)
    monkeypatch.setattr(image_inputs, "AT_ONCE", 4)
    tracemalloc.start()
    found = tk.predict(model, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.names == wanted.names
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-6)
    assert peak < 20 * pixels.nbytes  # all of them are 40


def test_csv_is_neither_a_formula_nor_a_command_to_the_terminal():
    predictions = Predictions.of(
        [[0.25, 0.75], [1, 0]], classes=["=1+1", "-cmd|' /C calc'!A0"], names=["@a\x1b[31m", "b,c"]
    )
    assert "\x1b" not in str(predictions)
    rows = list(csv.reader(io.StringIO(predictions.to_csv())))
    assert rows[0] == ["image", "predicted", "p_=1+1", "p_-cmd|' /C calc'!A0"]
    assert rows[1] == ["'@a\\x1b[31m", "'-cmd|' /C calc'!A0", "0.250000", "0.750000"]
    assert rows[2] == ["b,c", "'=1+1", "1.000000", "0.000000"]
