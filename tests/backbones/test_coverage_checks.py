"""The checks of the coverage table find what they are there to find."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from transferkit.errors import ConfigError
from transferkit.models import classifier, freezing
from transferkit.models.frozen_prefix import HeadCut, StageCut

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
if not (FOLDER / "coverage_checks.py").is_file():
    pytest.skip("the benchmarks are not here", allow_module_level=True)
sys.path.append(str(FOLDER))
coverage_checks, coverage_real, coverage_shapes, coverage_summary = map(
    import_module, ("coverage_checks", "coverage_real", "coverage_shapes", "coverage_summary")
)
sys.path.remove(str(FOLDER))

NAME = "torchvision/mnasnet0_5"
DOCS = FOLDER.parent / "docs"
Patch = pytest.MonkeyPatch


def check() -> dict[str, str]:
    return coverage_checks.check_backbone(NAME, coverage_checks.Limits())


def only_gradients(model: nn.Module, upto: int | str | None = None) -> None:
    """What most do: the frozen stages learn nothing, and their normalisation still updates."""
    freezing.unfreeze(model, upto)
    for module in model.modules():
        module.__dict__.pop("train", None)


def test_a_sound_backbone_passes_everything() -> None:
    row = check()
    assert [row[name] for name in coverage_checks.CHECKS] == ["pass"] * 8
    assert (row["classifier"], row["feature_dim"], row["boundaries"]) == ("published", "1280", "4")
    assert (row["modes_differ"], row["reason"]) == ("yes", "")


def test_larger_ones_are_checked_by_construction() -> None:
    row = coverage_checks.check_backbone(NAME, coverage_checks.Limits(gigabytes=0.001))
    assert (row["freezing"], row["contract"], row["cut"]) == ("pass", "by construction", "not run")
    completed = coverage_checks.check_backbone(NAME, coverage_checks.Limits(thorough=0), row)
    assert (completed["contract"], completed["cut"], completed["boundaries"]) == (
        *("pass", "pass"),
        "2",
    )


def test_normalisation_that_still_updates_is_found(monkeypatch: Patch) -> None:
    monkeypatch.setattr(coverage_shapes, "unfreeze", only_gradients)
    monkeypatch.setattr(coverage_real, "freeze", lambda model: only_gradients(model, -1))
    row = check()
    assert row["freezing"] == row["contract"] == "fail"
    assert "holds frozen parts and is in train mode" in row["reason"]
    assert "differ between train and eval mode" in row["reason"]


def test_a_stage_that_is_forgotten_is_found(monkeypatch: Patch) -> None:
    whole = classifier.Classifier.stages.fget
    assert whole is not None
    monkeypatch.setattr(
        classifier.Classifier, "stages", property(lambda self: (*whole(self)[:1], *whole(self)[2:]))
    )
    row = check()
    assert row["staged"] == "fail"
    assert "parameters left out" in row["reason"]


def test_an_optimizer_that_lacks_a_parameter_is_found(monkeypatch: Patch) -> None:
    groups = coverage_shapes.param_groups
    monkeypatch.setattr(
        coverage_shapes, "param_groups", lambda *args, **options: groups(*args, **options)[:-1]
    )
    row = check()
    assert row["freezing"] == "fail"
    assert "does not hold what learns" in row["reason"]


@pytest.mark.parametrize("cut", [StageCut, HeadCut])
def test_a_cut_that_is_off_is_found(cut: type, monkeypatch: Patch) -> None:
    make = coverage_real.cut_at_boundary

    def off(model: classifier.Classifier, images: Tensor) -> object:
        made = make(model, images)
        return Off(made) if isinstance(made, cut) else made

    monkeypatch.setattr(coverage_real, "cut_at_boundary", off)
    row = check()
    assert row["cut"] == "fail"
    assert "of the logits" in row["reason"]


class Off:
    """A cut whose logits are one in a hundred too large."""

    def __init__(self, cut: StageCut | HeadCut) -> None:
        self.cut = cut

    def prefix(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.cut.prefix(images)

    def tail(self, *crossing: Tensor) -> Tensor:
        return 1.01 * self.cut.tail(*crossing)


@pytest.mark.parametrize(("error", "outcome"), [(ConfigError, "refused"), (ValueError, "fail")])
def test_a_clear_refusal_is_no_failure(
    error: type[Exception], outcome: str, monkeypatch: Patch
) -> None:
    build: Callable[..., classifier.Classifier] = coverage_checks.meta_classifier

    def refuse(name: str, *, channels: int = 3) -> classifier.Classifier:
        if channels != 3:
            raise error("three channels only")
        return build(name)

    monkeypatch.setattr(coverage_shapes, "meta_classifier", refuse)
    row = check()
    assert row["channels_1"] == row["channels_4"] == outcome
    assert "three channels only" in row["reason"]


def test_stirring_silences_no_branch() -> None:
    model = classifier.create_classifier("timm/test_resnet", 7, weights=None, seed=0)
    coverage_real.stir(model)
    assert all(bool(parameter.any()) for parameter in model.parameters())
    assert all(m.p == 0.5 for m in model.modules() if isinstance(m, nn.Dropout))
    assert torch.isfinite(model.eval()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))).all()


def test_the_page_says_what_the_table_says(tmp_path: Path) -> None:
    page = tmp_path / "coverage.md"
    page.write_text((DOCS / "coverage.md").read_text("utf-8"), "utf-8")
    coverage_summary.write_summary(DOCS / "data" / "coverage.csv", page)
    assert page.read_text("utf-8") == (DOCS / "coverage.md").read_text("utf-8")
    rows = coverage_summary.read_rows(DOCS / "data" / "coverage.csv")
    assert {row["classifier"] for row in rows} == {"published", "none"}
    assert sum(row["classifier"] == "none" for row in rows) == 7
