"""The page on loading runs as shown, and says what the code does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
from PIL import Image

from transferkit.data import decoded_cache
from transferkit.data.load import load_splits

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "loading.md").read_text(encoding="utf-8")


def test_it_runs_as_shown(tmp_path, monkeypatch, capsys):
    for number in range(40):
        folder = tmp_path / "chest_xray" / ("train", "test")[number % 2] / "ab"[number // 20]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30), number, np.uint8)).save(folder / f"person{number}.png")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    exec(compile(block, "loading.md", "exec"), {})
    assert "128x128x1" in capsys.readouterr().out


def test_the_numbers_are_those_of_the_code():
    defaults = {k: v.default for k, v in inspect.signature(load_splits).parameters.items()}
    assert f"`memory_limit` ({defaults['memory_limit'] >> 30} GiB)" in PAGE
    assert f"`cache_limit` ({defaults['cache_limit'] // 10**9} GB)" in PAGE
    assert f"{decoded_cache.WORTH_KEEPING >> 20} MB" in PAGE
