from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from transferkit._files import replacing, write_text
from transferkit.errors import OutputError


def test_the_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with replacing(target) as draft:
        draft.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failing_block_leaves_nothing_behind(tmp_path):
    def write() -> None:
        with replacing(tmp_path / "a.txt") as draft:
            draft.write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match=r"a\.txt"), replacing(tmp_path / "no" / "a.txt") as draft:
        draft.write_text("text")


def test_disk_full(tmp_path):
    def write() -> None:
        with replacing(tmp_path / "a.txt") as draft:
            draft.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="there is no umask here")
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_a_file_has_the_permissions_that_open_would_give(tmp_path, umask):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "a.safetensors") as draft:
            save_file({"x": torch.zeros(2)}, draft)
        (tmp_path / "plain").write_text("x")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


@pytest.mark.skipif(os.name != "posix", reason="there are no such permissions here")
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    target = tmp_path / "a.safetensors"
    target.touch()
    target.chmod(0o640)
    with replacing(target) as draft:
        save_file({"x": torch.zeros(2)}, draft)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_text_with_names_that_are_no_unicode_is_written(tmp_path: Path) -> None:
    assert write_text(tmp_path / "a.csv", "scan\udcff,caf\u00e9\n") == tmp_path / "a.csv"
    assert (tmp_path / "a.csv").read_bytes() == b"scan\\udcff,caf\xc3\xa9\n"
