"""Runs that are killed and started again end as if they had never stopped, bit for bit."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict

import numpy as np
import pytest
import torch

import transferkit as tk
from transferkit.training import checkpoint, train_epoch

QUIET = {"progress": False, "device": "cpu"}
STRATEGIES = {
    "linear_probe": {"epochs": 4, "lr": 0.02},
    "fine_tune": {"epochs": 4, "lr": 0.01, "upto": "last"},
    "lp_ft": {"probe_epochs": 3, "probe_lr": 0.02, "epochs": 3, "lr": 0.01},
    "gradual_unfreeze": {"epochs": 5, "lr": 0.01, "steps": ["head", "last", "stem"]},
    "interpolate": {"probe_epochs": 2, "probe_lr": 0.02, "epochs": 3, "lr": 0.01},
    "from_scratch": {"epochs": 4, "lr": 0.01, "dropout": 0.2},
}
HARD = {
    "accumulate": 2,
    "augment": tk.Augment(),
    "scheduler": "plateau",
    "warmup": 2,
    "optimizer": "sgd",
    "monitor": "val_loss",
    "patience": 2,
    "batch_size": 8,
}


class Killed(BaseException):
    """Ends a run at any moment, as a signal does."""


def trained(method, pictures, killed_at=None, monkeypatch=None, **options):
    """The weights and history of a strategy, from a fresh network; or Killed at some step."""
    settings = dict(STRATEGIES[method])
    steps, real = 0, train_epoch.take_step

    def step(*arguments):
        nonlocal steps
        steps += 1
        if steps == killed_at:
            raise Killed
        real(*arguments)

    if monkeypatch is not None:
        monkeypatch.setattr(train_epoch, "take_step", step)
    try:
        model = tk.create_classifier(
            "test-three", 2, weights=None, seed=0, dropout=settings.get("dropout", 0.0)
        )
        strategy = tk.Strategy(method, **settings, options={**QUIET, **options})
        result = tk.run(strategy, model, pictures)
    finally:
        if monkeypatch is not None:
            monkeypatch.setattr(train_epoch, "take_step", real)
    records = [{**asdict(r), "seconds": 0} for r in result.history.records]
    return result.classifier.state_dict(), records, steps


def assert_same(one, other):
    assert one[1] == other[1]
    for name, tensor in one[0].items():
        assert torch.equal(tensor, other[0][name]), name


@pytest.mark.parametrize("options", [{"batch_size": 8}, HARD], ids=["plain", "hard"])
@pytest.mark.parametrize("method", STRATEGIES)
def test_a_run_killed_anywhere_and_started_again(
    network, pictures, tmp_path, monkeypatch, method, options
):
    whole = trained(method, pictures, monkeypatch=monkeypatch, **options)
    points = np.random.default_rng(0).integers(1, whole[2] + 1, 3)
    for number, point in enumerate(points.tolist()):
        folder = tmp_path / str(number)
        with pytest.raises(Killed):
            trained(method, pictures, point, monkeypatch, checkpoint=folder, **options)
        with suppress(Killed):  # and again, a little later
            trained(method, pictures, 4, monkeypatch, checkpoint=folder, **options)
        again = trained(method, pictures, monkeypatch=monkeypatch, checkpoint=folder, **options)
        assert_same(whole, again)
        assert len(list(folder.glob("*.safetensors"))) <= 2
        finished = trained(method, pictures, monkeypatch=monkeypatch, checkpoint=folder, **options)
        assert_same(whole, finished)
        assert finished[2] == 0  # nothing was left to train


def damage(path, how):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(b"junk" * 100)


@pytest.mark.parametrize("how", ["truncated", "empty", "junk"])
def test_a_damaged_state_is_named_and_the_one_before_used(
    network, pictures, tmp_path, monkeypatch, how
):
    whole = trained("fine_tune", pictures)
    with pytest.raises(Killed):
        trained("fine_tune", pictures, 7, monkeypatch, checkpoint=tmp_path)
    newest = max(tmp_path.glob("epoch-*.safetensors"))
    damage(newest, how)
    with pytest.warns(UserWarning, match=rf"{newest.name} does not hold .* the state before it"):
        again = trained("fine_tune", pictures, checkpoint=tmp_path)
    assert_same(whole, again)


def test_a_state_of_another_run_is_refused_by_what_differs(network, pictures, tmp_path):
    def run(folder=tmp_path, data=pictures, epochs=2, upto="last", **options):
        model = tk.create_classifier("test-three", 2, weights=None, seed=0)
        options = {"lr": 0.01, "checkpoint": folder, **QUIET, **options}
        return tk.fine_tune(model, data, upto=upto, epochs=epochs, **options)

    run()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    turned = pictures["train"].subset(range(48)[::-1])
    others = {
        "batch_size=32, and this run has batch_size=8": {"batch_size": 8},
        "made with lr=0.01": {"lr": 0.02},
        "epochs=2, and this run has epochs=3": {"epochs": 3},
        "frozen stages='stem, body', and this run has frozen stages=''": {"upto": None},
        "made with train images=": {"data": pictures.with_split("train", turned)},
    }
    for message, options in others.items():
        with pytest.raises(tk.TrainingError, match=f"{message}.* give another folder"):
            run(**options)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_ends_no_run(network, pictures, tmp_path, monkeypatch):
    whole = trained("fine_tune", pictures)
    saves = []
    real = checkpoint.save_file

    def full(tensors, path, **options):
        saves.append(path)
        if len(saves) == 2:
            raise OSError(28, "No space left on device")
        real(tensors, path, **options)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.warns(UserWarning, match="No space left .* goes on without this checkpoint"):
        again = trained("fine_tune", pictures, checkpoint=tmp_path)
    assert_same(whole, again)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "epoch-000003.safetensors",
        "epoch-000004.safetensors",
    ]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(tk.OutputError, match="output folder"):
        trained("fine_tune", pictures, checkpoint=tmp_path / "file" / "folder")


def test_an_interrupt_says_how_to_go_on(network, pictures, tmp_path, monkeypatch, capsys):
    with pytest.raises(Killed):
        trained("fine_tune", pictures, 6, monkeypatch, checkpoint=tmp_path)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "Stopped" in line]
    assert "Stopped after epoch 2 of 4; to go on from there, start the same run again" in line
    assert str(tmp_path) in line


def test_compare_keeps_cells_instead(network, pictures):
    with pytest.raises(tk.ConfigError, match=r"compare\(out=...\) keeps whole cells"):
        tk.compare(["test-three"], ["linear_probe"], pictures, weights=None, checkpoint="folder")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_that_is_killed_ends_as_if_it_had_not(tmp_path, how):
    splits = tk.phantom_splits(sizes=(400, 100, 50), image_size=32, seed=0)
    arrays = {}
    for name, data in splits.items():
        arrays |= {f"{name}_images": data.images[..., 0], f"{name}_labels": data.labels[:, None]}
    np.savez(tmp_path / "data.npz", **arrays)
    command = [
        sys.executable, "-m", "transferkit", "train", tmp_path / "data.npz", "--backbone",
        "transferkit/formula_resnet18", "--strategy", "lp_ft", "--probe-epochs", "4", "--epochs",
        "6", "--device", "cpu", "--image-size", "32", "--resume", "--out",
    ]  # fmt: skip

    def digest(folder):
        return hashlib.sha256((folder / "classifier.safetensors").read_bytes()).hexdigest()

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, tmp_path / "whole"], check=True, env=environment, capture_output=True)
    assert not (tmp_path / "whole" / "checkpoint").exists()
    rng, stopped = np.random.default_rng(int(how)), 0
    out = tmp_path / "killed"
    for _ in range(2):
        process = subprocess.Popen([*command, out], env=environment, stderr=subprocess.PIPE)
        while process.poll() is None and not list(out.glob("checkpoint/**/epoch-*")):
            time.sleep(0.05)
        time.sleep(float(rng.uniform(0, 1)))
        process.send_signal(how)
        _, said = process.communicate()
        stopped += process.returncode != 0
        if how != signal.SIGKILL and process.returncode != 0:
            assert b"start the same run again" in said or b"epoch" not in said
    assert stopped
    subprocess.run([*command, out], check=True, env=environment, capture_output=True)
    assert digest(out) == digest(tmp_path / "whole")
    shutil.rmtree(out)
