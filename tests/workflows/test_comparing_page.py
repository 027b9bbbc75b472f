"""The page on choosing and comparing runs as shown."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "comparing.md"


def test_the_page_runs_as_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    said = capsys.readouterr().out
    assert all(word in said for word in ("images/s", "the task is", "looked at 4 times"))
    assert (tmp_path / "ranking.png").is_file()
    assert (tmp_path / "runs" / "grid" / "comparison.html").is_file()
