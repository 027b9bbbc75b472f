"""The README's Python runs as shown; the API page leaves no public name out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import transferkit as tk

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_the_tour_of_the_readme_runs_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks(README)
    assert len(blocks) >= 6
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert "accuracy" in capsys.readouterr().out
    assert (tmp_path / "classifier.safetensors").is_file()


@pytest.mark.parametrize("page", ["audit.md"])
def test_a_page_of_the_documentation_runs_as_shown(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in python_blocks((ROOT / "docs" / page).read_text(encoding="utf-8")):
        exec(compile(block, page, "exec"), names)
    assert (tmp_path / "audit.html").is_file()


def test_the_audit_page_names_checks_that_exist() -> None:
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    rows = [line.split("|")[2] for line in page.splitlines() if line.startswith("| ")]
    named = {name for row in rows[1:] for name in re.findall(r"`(\w+)`", row)}
    source = "".join(
        path.read_text(encoding="utf-8")
        for room in ("audit", "workflows")
        for path in (ROOT / "src" / "transferkit" / room).glob("*.py")
    )
    assert len(named) > 15
    assert not {name for name in named if f'"{name}"' not in source}


def test_the_api_page_names_everything_public() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"\.\. auto\w+:: ([\w.]+)", page))
    errors = {name for name in tk.__all__ if name.endswith("Error")}
    missing = set(tk.__all__) - listed - errors - {"__version__", "plots"}
    assert not missing
    assert {"transferkit.errors", "transferkit.plots"} <= listed


def test_the_set_up_is_two_commands() -> None:
    section = README.split("## Set up")[1].split("\n## ")[0]
    commands = re.findall(r"^```sh\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    assert [command.count("\n") for command in commands] == [1, 1]
    assert commands[0].strip().endswith("&& transferkit demo")
    assert commands[1].strip().endswith("&& pytest")
