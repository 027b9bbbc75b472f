"""What the example scripts share: their options, their data, and where results go."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import transferkit as tk

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EMBEDDED = "formula_resnet18"
"""The backbone that comes with the library, weights included: nothing is fetched for it."""


@dataclass(frozen=True)
class Setting:
    """What the command line asked for."""

    splits: tk.Splits
    backbones: tuple[str, ...]
    weights: str | Mapping[str, str | None] | None
    image_size: int | None
    epochs: int | None
    seeds: tuple[int, ...]
    device: str | None
    out: Path
    quick: bool

    def weights_of(self, backbone: str) -> str | None:
        if isinstance(self.weights, Mapping):
            return self.weights.get(backbone, "default")
        return self.weights

    def compare(
        self, strategies: Sequence[tk.Strategy], *, backbones: Sequence[str] = ()
    ) -> tk.Comparison:
        """Run a grid into the folder of results; the same command again goes on where it was."""
        names = tuple(backbones) or self.backbones
        weights = self.weights
        if isinstance(weights, Mapping):
            weights = {name: self.weights_of(name) for name in names}
        return tk.compare(
            names,
            [self.with_length(strategy) for strategy in strategies],
            self.splits,
            seeds=self.seeds,
            weights=weights,
            image_size=self.image_size,
            device=self.device,
            out=self.out,
        )

    def with_length(self, strategy: tk.Strategy) -> tk.Strategy:
        """The strategy with ``--epochs``, and three times as many for a probe: they cost little."""
        if self.epochs is None or strategy.epochs is not None:
            return strategy
        longer = 3 * self.epochs
        if strategy.method == "linear_probe":
            return replace(strategy, epochs=longer)
        if strategy.method in ("lp_ft", "interpolate"):
            strategy = replace(strategy, probe_epochs=longer)
        return replace(strategy, epochs=self.epochs)


def parse(description: str, *, backbones: Sequence[str], quick_backbones: Sequence[str]) -> Setting:
    """Read the command line; without options everything is offline, on phantom radiographs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", help="folder, .npz or .npy files; phantom radiographs by default")
    parser.add_argument("--groups", help="regular expression of the patient in a file name")
    parser.add_argument("--backbones", nargs="+", metavar="NAME")
    parser.add_argument(
        "--weights",
        nargs="+",
        default=["embedded"],
        metavar="W",
        help="default (fetches them), none, or NAME=FILE for each; without it the embedded "
        "backbone has its weights and the others random ones",
    )
    parser.add_argument("--image-size", type=int, help="side of the networks' input in pixels")
    parser.add_argument("--epochs", type=int, help="of fine-tuning; a probe takes three times")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device")
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    parser.add_argument("--out", type=Path, default=Path("results") / Path(parser.prog).stem)
    given = parser.parse_args()
    names = tuple(given.backbones or (quick_backbones if given.quick else backbones))
    given.out.mkdir(parents=True, exist_ok=True)
    setting = Setting(
        splits=load(
            given.data, image_size=given.image_size, groups=given.groups, quick=given.quick
        ),
        backbones=names,
        weights=weights_for(given.weights, names),
        image_size=given.image_size or (48 if given.quick else None if given.data else 64),
        epochs=given.epochs or (3 if given.quick else None),
        seeds=tuple(given.seeds),
        device=given.device,
        out=given.out,
        quick=given.quick,
    )
    print(f"{description}\n\n{setting.splits}\n\nweights: {' '.join(given.weights)}\n")
    return setting


def load(data: str | None, *, image_size: int | None, groups: str | None, quick: bool) -> tk.Splits:
    if data is not None:
        return tk.load_splits(data, image_size=image_size, groups=groups)
    sizes = (160, 80, 80) if quick else (1600, 400, 400)
    return tk.phantom_splits(sizes=sizes, image_size=64)


def weights_for(
    given: Sequence[str], backbones: Sequence[str]
) -> str | Mapping[str, str | None] | None:
    if given == ["embedded"]:
        return {name: "default" if EMBEDDED in name else None for name in backbones}
    if all("=" in text for text in given):
        files = dict(text.split("=", 1) for text in given)
        return {name: files.get(name, "default") for name in backbones}
    return None if given[0] == "none" else given[0]


def conditions(baseline: tk.Strategy) -> list[tk.Strategy]:
    """The conditions that the reports tried, each one change away from the baseline."""
    return [
        baseline,
        replace(baseline, name="lr 5e-4", lr=5e-4),
        replace(baseline, name="dropout 0.5", dropout=0.5),
        _scheduled(baseline, "constant rate", "constant"),
        _scheduled(baseline, "one-cycle", "one_cycle"),
        _scheduled(baseline, "step", "step"),
        replace(baseline, name="6 outputs", outputs=6),
        replace(baseline, name="10 outputs", outputs=10),
    ]


def _scheduled(baseline: tk.Strategy, name: str, scheduler: str) -> tk.Strategy:
    return replace(baseline, name=name, options={**baseline.options, "scheduler": scheduler})


def versions(backbones: Sequence[str]) -> list[str]:
    """The backbones that have weights V1 and V2, under the names that carry the tag."""
    found = []
    for name in backbones:
        tags = {weights.tag for weights in tk.get_backbone_spec(name).weights}
        if {"IMAGENET1K_V1", "IMAGENET1K_V2"} <= tags:
            found += [f"{name}.IMAGENET1K_V1", f"{name}.IMAGENET1K_V2"]
    return found


def write_table(out: Path, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, and write it as CSV and Markdown."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for line in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    print()
    with (out / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    lines = [header, ["---"] * len(header), *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    (out / f"{name}.md").write_text(f"{text}\n", encoding="utf-8")


def draw(comparison: tk.Comparison, out: Path) -> None:
    """Accuracies with intervals, accuracy against time, and learning curves."""
    save_figures(
        out,
        lambda: {
            "accuracy": tk.plots.comparison(comparison),
            "accuracy_vs_time": tk.plots.accuracy_vs_time(
                comparison.scores("test"), comparison.seconds()
            ),
            "learning_curves": tk.plots.learning_curves(comparison.histories()),
        },
    )


def save_figures(out: Path, figures: Callable[[], Mapping[str, Axes]]) -> None:
    """Write figures as PNG; without matplotlib say so, and leave them out."""
    try:
        for name, axes in figures().items():
            tk.plots.save(axes, out / f"{name}.png")
    except tk.MissingDependencyError as error:
        print(f"no figures: {error}\n")
