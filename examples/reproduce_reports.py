"""The five reports, cell by cell: what was reported beside what is measured here.

The notebook's recipe: Adam at 1e-3, batches of 32, 30 epochs, the best epoch on val. Its cosine
schedule was given the run's length in steps and stepped once an epoch, so that the rate hardly
moved: "constant" here, and the condition "LR scheduler" is the cosine that was meant. Frozen
layers stay in eval mode, and images are normalised with the mean and standard deviation of the
weights; the notebook did neither. Figures depend on data and weights; on phantom data and random
weights they only show that every cell runs.
"""

from __future__ import annotations

from dataclasses import replace

import transferkit as tk
from _common import Setting, parse, write_table
from _reports import REPORTED, Reported
from _tiling import tiling_accident

NETWORKS = tuple(dict.fromkeys(row.network for row in REPORTED))
QUICK_NETWORKS = ("resnet18", "mobilenet_v2")
EPOCHS = 30
TILED = {"train and val tiled": "tiled", "train tiled": "plain"}
OPTIONS: tk.TrainOptions = {"optimizer": "adam", "scheduler": "constant"}
BASELINE = tk.Strategy("fine_tune", name="fine-tune", lr=1e-3, options=OPTIONS)


def strategy_of(row: Reported) -> tk.Strategy:
    """What the report did, as a strategy."""
    strategy = replace(BASELINE, name=f"{row.strategy}, {row.condition}".strip(", "))
    if row.strategy == "fixed":
        strategy = replace(strategy, method="linear_probe")
    if row.strategy == "from scratch":
        strategy = replace(strategy, method="from_scratch")
    if row.condition == "LR scheduler":
        strategy = replace(strategy, options=OPTIONS | {"scheduler": "cosine"})
    if row.condition.endswith("outputs"):
        strategy = replace(strategy, outputs=int(row.condition.split()[0]))
    lr = 5e-4 if row.condition == "lr 5e-4" else 1e-3
    dropout = 0.5 if row.condition == "dropout 0.5" else 0.0
    return replace(strategy, lr=lr, dropout=dropout)


def backbone_of(row: Reported, setting: Setting) -> str:
    """The network, with the tag of its weights where the report says which and they are had."""
    tagged = row.condition in ("V1", "V2") and setting.weights == "default"
    return f"{row.network}.IMAGENET1K_{row.condition}" if tagged else row.network


def run(row: Reported, setting: Setting) -> tk.Comparison:
    """Train one cell; a cell that is in the folder already is not trained again."""
    if row.condition == "pooled and split again":
        setting = replace(setting, splits=tk.resplit(setting.splits, seed=0))
    strategy = replace(strategy_of(row), epochs=setting.epochs)
    return setting.compare([strategy], backbones=[backbone_of(row, setting)])


def measured(comparison: tk.Comparison) -> dict[str, float | None]:
    """The figures of its only cell, under the names of the reports' table."""
    (cell,) = comparison.cells
    if cell.history is None or cell.test is None:
        return {}
    summary = cell.history.summary()
    return {
        "final train loss": summary.final_train_loss,
        "best train accuracy": summary.best_train_accuracy,
        "final val loss": summary.final_val_loss,
        "best val accuracy": summary.best_val_accuracy,
        "best val loss": summary.best_val_loss,
        "epoch of it": summary.best_val_loss_epoch,
        "test accuracy": cell.test.accuracy,
        "seconds": cell.seconds,
    }


def shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if "accuracy" in name:
        return f"{100 * value:.2f} %"
    return f"{value:.4f}" if "loss" in name else f"{value:.0f}"


def lines(row: Reported, figures: dict[str, float | None]) -> list[list[str]]:
    """One line for each figure: those that were measured, beside those reported."""
    head = [str(row.report), row.network, row.strategy, row.condition or "-"]
    names = list(figures) or list(row.figures)
    return [
        [*head, name, shown(name, row.figures.get(name)), shown(name, figures.get(name))]
        for name in names
    ]


def main() -> None:
    setting = parse(
        "The five reports, reproduced", backbones=NETWORKS, quick_backbones=QUICK_NETWORKS
    )
    setting = replace(setting, epochs=1 if setting.quick else setting.epochs or EPOCHS)
    table: list[list[str]] = []
    by_class: list[list[str]] = []
    tilings: dict[str, tk.Evaluation] = {}
    for row in REPORTED:
        if row.network not in setting.backbones:
            table += lines(row, {})
            continue
        if row.condition in TILED:
            tilings = tilings or tiling_accident(
                setting, row.network, epochs=setting.epochs or EPOCHS
            )
            table += lines(row, {"test accuracy": tilings[TILED[row.condition]].accuracy})
            continue
        comparison = run(row, setting)
        table += lines(row, measured(comparison))
        (cell,) = comparison.cells
        if row.report == 5 and cell.test is not None:
            for scores in cell.test.per_class:
                figures = (scores.precision, scores.recall, scores.f1)
                by_class.append([cell.name, scores.name, *(f"{value:.3f}" for value in figures)])
    header = ("report", "network", "strategy", "condition", "figure", "reported", "measured")
    write_table(setting.out, "reports", header, table)
    write_table(
        setting.out, "report_5_by_class", ("cell", "class", "precision", "recall", "F1"), by_class
    )


if __name__ == "__main__":
    main()
