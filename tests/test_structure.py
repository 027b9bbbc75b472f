"""The house rules: layers, no import cycle, public names, a fast import."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import transferkit as tk

SRC = Path(tk.__file__).parent
LAYERS = (
    {"__main__"},
    {"cli"},
    {"workflows", "plots"},
    {"training"},
    {"models"},
    {"backbones"},
    {"data", "selection", "audit"},
    {"metrics"},
    {"_validation", "_files", "_sampling"},
    {"_format"},
    {"errors", "_typing", "_version"},
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
# Below the waist of the hourglass: arrays in, results out, no network ever needed.
ARRAY_ROOMS = ("metrics", "selection", "audit")
HEAVY = {"torch", "torchvision", "timm", "matplotlib"}


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


TREES = modules()


def is_typing_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imported(node: ast.AST, *, inside_functions: bool) -> set[str]:
    names: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if is_typing_block(child):
            continue
        if isinstance(child, ast.Import):
            names |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom):
            names |= {f"{child.module}.{alias.name}" for alias in child.names}
        if inside_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            names |= imported(child, inside_functions=inside_functions)
    return names


def ours(names: set[str]) -> set[str]:
    """The modules of transferkit among ``names``, each cut to the module's own dotted name."""
    kept = {name for name in names if name.split(".")[0] == "transferkit"}
    return {name if name in TREES else name.rpartition(".")[0] for name in kept}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", [m for m in TREES if room(m) in RANK])
def test_imports_run_downward_only(module: str) -> None:
    targets = {room(m) for m in ours(imported(TREES[module], inside_functions=True))}
    wrong = {t for t in targets & RANK.keys() - {room(module)} if RANK[t] <= RANK[room(module)]}
    assert not wrong, f"{module} imports {sorted(wrong)}, which stand on its own line or above"


def test_every_room_has_a_layer() -> None:
    assert {room(m) for m in TREES} - {""} <= RANK.keys()


def test_there_is_no_import_cycle() -> None:
    edges = {m: ours(imported(tree, inside_functions=True)) - {m} for m, tree in TREES.items()}
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"import cycle: {' > '.join((*path, module))}"
        if module not in done:
            for target in sorted(edges.get(module, ())):
                walk(target, (*path, module))
            done.add(module)

    for module in edges:
        walk(module, ())


@pytest.mark.parametrize("module", [m for m in TREES if room(m) in ARRAY_ROOMS])
def test_array_rooms_need_no_network_library_to_import(module: str) -> None:
    tops = {name.split(".")[0] for name in imported(TREES[module], inside_functions=False)}
    assert not tops & HEAVY


@pytest.mark.parametrize("module", TREES)
def test_only_plots_imports_matplotlib(module: str) -> None:
    names = imported(TREES[module], inside_functions=True)
    assert room(module) == "plots" or not any(n.startswith("matplotlib") for n in names)


STUB = ast.parse((SRC / "__init__.pyi").read_text(encoding="utf-8"))
# Each public name and the module that it comes from, as the stub says.
HOMES = {
    alias.name: f"transferkit.{node.module}"
    for node in STUB.body
    if isinstance(node, ast.ImportFrom) and node.module
    for alias in node.names
}


def test_public_names_are_listed_and_loadable() -> None:
    assigned = next(node for node in STUB.body if isinstance(node, ast.Assign))
    listed = ast.literal_eval(assigned.value)
    assert listed == sorted(listed) == sorted({*HOMES, "plots"})
    assert sorted(tk.__all__) == sorted(dir(tk)) == listed
    for name in tk.__all__:
        assert getattr(tk, name) is not None


def test_public_things_live_where_they_are_said_to_and_have_docstrings() -> None:
    for name, module in HOMES.items():
        if name == "__version__":
            continue
        thing = getattr(importlib.import_module(module), name)
        assert thing.__module__ == module
        assert thing.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = tk.no_such_name  # type: ignore[attr-defined]


def test_every_error_is_a_transferkit_error() -> None:
    errors = [
        v
        for k, v in vars(importlib.import_module("transferkit.errors")).items()
        if k.endswith("Error")
    ]
    assert len(errors) >= 8
    assert all(issubclass(error, tk.TransferkitError) for error in errors)


@pytest.mark.parametrize("code", ["import transferkit", "from transferkit.cli import main"])
def test_import_leaves_the_heavy_libraries_alone(code: str) -> None:
    heavy = sorted(HEAVY | {"sklearn", "scipy", "numpy"})
    program = f"{code}\nimport sys\nprint([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
