"""Reading weights files, and saying what does not fit."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

import transferkit as tk
from transferkit.backbones.catalog import build_network
from transferkit.backbones.spec import LicenseWarning, WeightsSpec, forbids_commercial_use
from transferkit.backbones.weights import (
    choose_weights,
    fetch,
    load_weights,
    read_state_dict,
    warn_of_licence,
)
from transferkit.errors import UnknownNameError, WeightsError


def tag(name: str, **options: object) -> WeightsSpec:
    facts = {"input_size": (3, 8, 8), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    return WeightsSpec(tag=name, interpolation="bilinear", num_classes=2, **facts | options)  # type: ignore[arg-type]


FORMULA = "transferkit/formula_resnet18"
SPECS = (tag("new"), tag("old"))


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.fixture
def state(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def test_choosing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "w.pth"
    file.touch()
    (tmp_path / "plain").touch()
    monkeypatch.chdir(tmp_path)
    assert choose_weights(None, SPECS, name="net") is None
    assert choose_weights("default", SPECS, name="net") is SPECS[0]
    assert choose_weights("DEFAULT", SPECS, name="net") is SPECS[0]
    assert choose_weights("old", SPECS, name="net") is SPECS[1]
    assert choose_weights(str(file), SPECS, name="net") == file
    assert choose_weights(file, SPECS, name="net") == file
    assert choose_weights("plain", SPECS, name="net") == Path("plain")


def test_choosing_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="'old'"):
        choose_weights("olt", SPECS, name="net")
    with pytest.raises(WeightsError, match="weights=None"):
        choose_weights("default", (), name="net")
    with pytest.raises(WeightsError, match="does not exist"):
        choose_weights(str(tmp_path / "absent.safetensors"), SPECS, name="net")
    with pytest.raises(WeightsError, match="not a file"):
        choose_weights(tmp_path, SPECS, name="net")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_half_precision_becomes_float32(
    suffix: str, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(half, path)
    else:
        save_file(half, path)
    read = read_state_dict(path)
    assert {v.dtype for v in read.values()} == {torch.float32, torch.int64}
    assert all(torch.equal(read[key], half[key].to(read[key].dtype)) for key in state)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_ema", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
def test_checkpoints_are_unwrapped(
    wrapper: str | None, prefix: str, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    content = {prefix + key: value for key, value in state.items()}
    path = tmp_path / "w.pth"
    torch.save({wrapper: content, "epoch": 3} if wrapper else content, path)
    assert list(read_state_dict(path)) == list(state)


class Dangerous:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("executed",))


def test_nothing_is_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.pth"
    torch.save({"weight": torch.ones(2), "extra": Dangerous()}, path)
    with pytest.raises(WeightsError, match="refused because they can run code"):
        read_state_dict(path)
    path.write_bytes(pickle.dumps(Dangerous(), protocol=2))
    with pytest.raises(WeightsError, match=r"w\.pth"):
        read_state_dict(path)
    assert capsys.readouterr().out == ""


def torch_bytes(content: object, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def zip_bytes(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"nothing")
    return file.getvalue()


def header(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


ZIP = torch_bytes({"weight": torch.ones(99)})
OLD = torch_bytes({"weight": torch.ones(99)}, _use_new_zipfile_serialization=False)
SAFE = save({"weight": torch.ones(99)})
DAMAGED = {
    "empty": b"",
    "text": b"not weights at all",
    "a web page": b"<!DOCTYPE html><html>Not found</html>",
    "a pointer to the file": b"version https://git-lfs.github.com/spec/v1",
    "a pickle's first bytes": b"\x80\x04junk",
    "an older pickle's": b"\x80\x02junk",
    "one byte of a pickle": b"\x80",
    "a zip's first bytes": b"PK\x03\x04broken",
    "a zip of other things": zip_bytes("picture.png"),
    "a zip in torch's folders": zip_bytes("archive/version"),
    "half a zip": ZIP[: len(ZIP) // 2],
    "a zip without its end": ZIP[:-9],
    "half an old file": OLD[: len(OLD) // 2],
    "an old file without its end": OLD[:-7],
    "half a safetensors file": SAFE[: len(SAFE) // 2],
    "a safetensors file without its end": SAFE[:-5],
    "a header that is too long": header(b"{}", 10**12),
    "a header of something else": header(b'{"weight": 3}'),
    "a header that is no JSON": header(b"{weight"),
    "a pickled list": pickle.dumps([1, 2]),
    "a pickled dictionary": pickle.dumps({"weight": 1}, protocol=2),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_are_named(suffix: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(DAMAGED[kind])
    with pytest.raises(WeightsError, match=rf"w{suffix}: .*Expected a state dict.*again, or save"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [ZIP, OLD, SAFE], ids=["zip", "before zip", "safetensors"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".ckpt"])
def test_a_file_is_read_by_its_content_and_not_by_its_suffix(
    content: bytes, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    assert torch.equal(read_state_dict(path)["weight"], torch.ones(99))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "no tensors by name, but a dict"),
        ([torch.ones(2)], "no tensors by name, but a list"),
        (torch.ones(2), "no tensors by name, but a Tensor"),
        ({"epoch": 3}, "entry 'epoch' is of type int"),
        ({"weight": torch.ones(2), "version": "2"}, "entry 'version' is of type str"),
        ({"a": {"b": torch.ones(1)}}, "entry 'a' is of type dict"),
        ({0: torch.ones(2)}, "key 0 is not a string"),
        ({"state_dict": {("a", 1): torch.ones(2)}}, "is not a string"),
        ({"weight": torch.empty(2, device="meta")}, "'weight' is sparse, quantised or without"),
        ({"weight": torch.zeros(1).expand(10**6, 10**6)}, "'weight' repeats a few numbers"),
        (nn.Linear(2, 2), "Python objects"),
    ],
)
def test_files_of_other_things_are_refused(content: object, reason: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"w\.pth: .*{reason}.*Expected a state dict"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "name", ["torchvision/resnet18", "timm/resnet18", FORMULA, "timm/test_vit"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_saved_classifier_gives_its_backbone(name: str, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "saved.safetensors"
    model = tk.create_classifier(name, 5, weights=None, in_channels=channels, image_size=32, seed=0)
    tk.save_classifier(model, path)
    torch.save(model.state_dict(), tmp_path / "saved.pth")
    for file in (path, tmp_path / "saved.pth"):
        again = tk.create_classifier(
            name, 2, weights=file, in_channels=channels, image_size=32, seed=1
        )
        states = model.backbone.state_dict(), again.backbone.state_dict()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_state_that_fits_is_loaded(network: nn.Module, state: dict[str, Tensor]) -> None:
    wanted = {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in state.items()}
    load_weights(network, wanted, name="net", origin="w.pth")
    assert all(torch.equal(network.state_dict()[key], wanted[key]) for key in wanted)


def test_every_kind_of_misfit_is_listed(network: nn.Module, state: dict[str, Tensor]) -> None:
    del state["0.bias"]
    state["0.weight"] = torch.ones(4, 1, 3, 3)
    state["3.bias"] = torch.tensor([1, 2])
    state["1.running_var"] = torch.full((4,), float("nan"))
    state |= {f"extra.{i}": torch.ones(1) for i in range(7)}
    with pytest.raises(WeightsError) as caught:
        load_weights(network, state, name="net", origin="w.pth")
    message = str(caught.value)
    assert "w.pth does not fit net" in message
    assert "1 missing: 0.bias" in message
    assert "7 unexpected: extra.0, extra.1, extra.2, extra.3, extra.4, ..." in message
    assert "0.weight ((4, 1, 3, 3) instead of (4, 3, 3, 3))" in message
    assert "3.bias (int64 (2,) instead of (2,))" in message
    assert "1 holding NaN: 1.running_var" in message


def test_the_files_own_classifier_is_dropped(network: nn.Module, state: dict[str, Tensor]) -> None:
    state |= {"3.weight": torch.ones(9, 4), "3.bias": torch.ones(9), "0.bias": torch.ones(4)}
    load_weights(network, state, name="net", origin="w.pth", dropped=("3",))
    assert torch.equal(network.state_dict()["0.bias"], torch.ones(4))
    del state["3.weight"], state["3.bias"]
    load_weights(network, state, name="net", origin="w.pth", dropped=("3",))


def test_spare_entries_and_absent_step_counts_are_let_pass(
    network: nn.Module, state: dict[str, Tensor]
) -> None:
    del state["1.num_batches_tracked"]
    load_weights(network, state, name="net", origin="w.pth")
    state["spare.weight"] = torch.ones(1)
    load_weights(network, state, name="net", origin="w.pth", spare=True)
    with pytest.raises(WeightsError, match=r"1 unexpected: spare\.weight"):
        load_weights(network, state, name="net", origin="w.pth")


def test_a_file_of_another_network_is_refused_by_both_libraries(tmp_path: Path) -> None:
    other = torch.nn.Sequential(nn.Conv2d(3, 4, 3))
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    for name in ("torchvision/resnet18", "timm/resnet18", "timm/vit_tiny_patch16_224"):
        with pytest.raises(WeightsError, match=r"missing[^\n]*\n *2 unexpected"):
            build_network(name, weights=tmp_path / "w.safetensors")


def test_any_failure_of_the_network_names_the_choices() -> None:
    def fail() -> None:
        raise TimeoutError("timed out")

    with pytest.raises(WeightsError, match=r"timed out.*weights=None"):
        fetch(fail, name="net", tag="new")
    with pytest.raises(WeightsError, match="'new' of net"):
        fetch(lambda: None, name="net", tag="new", url="http://127.0.0.1:9/nobody-listens")


def test_licences_that_forbid_commercial_use_warn() -> None:
    with pytest.warns(LicenseWarning, match="cc-by-nc-4.0"):
        warn_of_licence(tag("x", license="cc-by-nc-4.0", non_commercial=True), name="net")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_licence(tag("x", license="mit", non_commercial=False), name="net")
        warn_of_licence(tag("x"), name="net")


def test_licences() -> None:
    assert forbids_commercial_use("cc-by-nc-sa-4.0") is True
    assert forbids_commercial_use("apache-2.0") is False
    assert forbids_commercial_use("unheard-of") is None
    assert forbids_commercial_use(None) is None


def test_a_shared_tensor_may_be_in_the_file_once() -> None:
    layer = nn.Linear(2, 2)
    module = nn.Sequential(layer, nn.ReLU(), layer)
    state = {"0.weight": torch.ones(2, 2), "2.bias": torch.zeros(2)}
    load_weights(module, state, name="net", origin="w.safetensors")
    assert torch.equal(layer.weight, torch.ones(2, 2))
