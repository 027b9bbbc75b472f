from __future__ import annotations

import pytest

from transferkit._files import replacing
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
