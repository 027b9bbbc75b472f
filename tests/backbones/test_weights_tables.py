"""The tables of published weights hold every tag, and the page says what they say."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest
import timm
import torch

from transferkit.backbones.catalog import resolve
from transferkit.backbones.spec import WeightsSpec

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
if not (FOLDER / "weights_paths.py").is_file():
    pytest.skip("the benchmarks are not here", allow_module_level=True)
sys.path.append(str(FOLDER))
weights_paths, weights_check = map(import_module, ("weights_paths", "weights_check"))
sys.path.remove(str(FOLDER))

# The tables were made with a newer timm than the oldest that the package works with.
needs_recent_timm = pytest.mark.skipif(
    "gemma4_vit_167m_enc" not in timm.list_models(), reason="the tables are of a newer timm"
)
FIXED_STEM = {"timm/csatv2", "timm/csatv2_21m"}
SMALL = "timm/test_vit"


def spec_of(name: str, tag: str) -> WeightsSpec:
    return next(spec for spec in weights_paths.tags(name) if spec.tag == tag)


@needs_recent_timm
@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_every_tag_has_one_row_and_none_failed(source: str) -> None:
    rows = weights_paths.read(weights_paths.table(source))
    names = weights_paths.architectures(source)
    assert [(row["name"], row["tag"]) for row in rows] == [
        (name, spec.tag) for name in names for spec in weights_paths.tags(name)
    ]
    wrong = {row["name"]: weights_paths.wrong(row) for row in rows if weights_paths.wrong(row)}
    assert wrong.keys() <= FIXED_STEM
    assert all("fixed stem for 3 channels" in reason for reason in wrong.values())


@needs_recent_timm
def test_what_takes_the_same_path_names_a_tag_that_was_loaded() -> None:
    rows = weights_paths.read(weights_paths.table("timm"))
    loaded = {(row["name"], row["tag"]) for row in rows if row["how"] in ("run", "shapes")}
    others = [row for row in rows if row["how"].startswith("as ")]
    assert len(loaded) + len(others) == len(rows)
    for row in others:
        first = row["how"].removeprefix("as ")
        assert (row["name"], first) in loaded
        ours, its = spec_of(row["name"], row["tag"]), spec_of(row["name"], first)
        assert (ours.num_classes, ours.input_size) == (its.num_classes, its.input_size)


@needs_recent_timm
def test_the_page_says_what_the_tables_say(tmp_path: Path) -> None:
    page = tmp_path / "coverage.md"
    text = weights_paths.PAGE.read_text("utf-8")
    page.write_text(text, "utf-8")
    weights_paths.put(page, weights_paths.START, weights_paths.summary())
    assert page.read_text("utf-8") == text


@needs_recent_timm
@pytest.mark.parametrize("numbers", [True, False])
def test_a_sound_tag_is_found_sound(numbers: bool) -> None:
    spec = resolve(SMALL).source.weights("test_vit")[0]
    row = weights_paths.outcomes(SMALL, spec, numbers=numbers, file=True)
    assert [row[f"channels_{count}"] for count in (3, 1, 4)] == ["ok"] * 3
    assert row.get("file") == ("ok" if numbers else None)


def test_weights_that_are_not_loaded_as_they_should_be_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = resolve(SMALL).source.weights("test_vit")[0]
    state = weights_check.published_state(SMALL, spec)
    without = {key: value for key, value in state.items() if key != "blocks.0.attn.qkv.weight"}
    assert "Missing key" in weights_check.check(SMALL, spec, 3, without)
    monkeypatch.setattr(
        "transferkit.backbones.channels.adapt_weight",
        lambda weight, channels, **_: torch.zeros(weight.shape[0], channels, *weight.shape[2:]),
    )
    assert weights_check.check(SMALL, spec, 1, state) == "patch_embed.proj.weight differs"
