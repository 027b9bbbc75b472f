"""Misspelt public names and wrong types fail in a type checker, as the stub promises."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import transferkit as tk

STUB = Path(tk.__file__).with_name("__init__.pyi")
PROGRAM = """
import transferkit as tk

def good(evaluation: tk.Evaluation, model: tk.Classifier, data: tk.ImageData) -> float:
    axes = tk.plots.roc(evaluation)
    tk.plots.save(axes, "roc.png")
    return tk.evaluate(model, data, device="cpu").accuracy

def bad(evaluation: tk.Evaluation, model: tk.Classifier) -> None:
    x: tk.Evalution
    tk.evalute
    tk.plots.rok(evaluation)
    tk.fine_tune(model, {}, learning_rate=0.1)
    options: tk.TrainOptions = {"batchsize": 8}
    tk.Strategy("fine-tune")
"""


def test_the_stub_knows_every_name_and_no_other() -> None:
    """A star import or a ``__getattr__`` in the stub would let any name pass."""
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert not any(alias.name == "*" for node in imports for alias in node.names)
    assert all(isinstance(node, ast.ImportFrom | ast.Assign) for node in tree.body)
    assert {alias.name for node in imports for alias in node.names} == set(tk.__all__)


@pytest.mark.slow
def test_a_type_checker_finds_misspelt_names(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy comes with the extra 'dev'")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache", program]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    start = PROGRAM[: PROGRAM.index("def bad")].count("\n")
    found = {
        int(line.split(":")[1])
        for line in result.stdout.splitlines()
        if line.startswith(program.name) and ": error:" in line
    }
    assert found == set(range(start + 2, start + 8)), result.stdout
