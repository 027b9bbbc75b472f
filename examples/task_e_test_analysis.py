"""Task E, explain the test score: audit, gap, reshuffle and swap, and the figures by class."""

from __future__ import annotations

import json

import transferkit as tk
from _common import EMBEDDED, Setting, draw, parse, save_figures, write_table
from _tiling import tiling_accident

FIXED = tk.Strategy("linear_probe", name="fixed")
AUGMENTED_FIXED = tk.Strategy(
    "linear_probe", name="fixed, augmented", options={"augment": tk.Augment()}
)
TUNED = tk.Strategy("fine_tune", name="fine-tuned", lr=1e-3, options={"optimizer": "adam"})
AUGMENTED_TUNED = tk.Strategy(
    "fine_tune",
    name="fine-tuned, augmented",
    lr=1e-3,
    options={"optimizer": "adam", "augment": tk.Augment()},
)


def explain(setting: Setting) -> None:
    """The audit of the splits, and what the gap is made of, with reshuffle and swap."""
    report = tk.audit_splits(
        setting.splits,
        seeds=range(2 if setting.quick else 10),
        max_images=200 if setting.quick else 2000,
        near_duplicates=not setting.quick,
    )
    print(f"{report}\n")
    report.to_html(setting.out / "audit.html")
    if report.gap is not None:
        (setting.out / "gap.json").write_text(json.dumps(report.gap.to_dict(), indent=2))


def by_class(setting: Setting, comparison: tk.Comparison) -> None:
    """Precision, recall and F1 of each class, on test, and the confusion matrices."""
    rows = []
    for cell in comparison.cells:
        if cell.test is None:
            continue
        for scores in cell.test.per_class:
            figures = (scores.precision, scores.recall, scores.f1)  # nan: never predicted
            rows.append([cell.name, scores.name, *(f"{value:.3f}" for value in figures),
                         str(scores.support)])  # fmt: skip
    header = ("network, strategy", "class", "precision", "recall", "F1", "images")
    write_table(setting.out, "by_class", header, rows)
    save_figures(
        setting.out,
        lambda: {
            f"confusion_{cell.strategy}_{cell.seed}".replace(", ", "_"): tk.plots.confusion_matrix(
                cell.test, name=f"test, {cell.strategy}"
            )
            for cell in comparison.cells
            if cell.test is not None
        },
    )


def accident(setting: Setting, comparison: tk.Comparison, backbone: str) -> None:
    """The three forms of ``Tensor.repeat`` that one report tried."""
    epochs = setting.epochs or 10
    chosen = tiling_accident(setting, backbone, epochs=epochs)
    plain = next(cell.test for cell in comparison.cells if cell.strategy == TUNED.name)
    forms = {
        "(1,3,1,1) / (1,3,1,1)": plain,
        "(1,3,3,1) / (1,3,3,1)": chosen["tiled"],
        "(1,3,3,1) / (1,3,1,1)": chosen["plain"],
    }
    rows = [[form, f"{100 * e.accuracy:.2f} %"] for form, e in forms.items() if e is not None]
    write_table(setting.out, "tiling", ("train / val images repeated", "test accuracy"), rows)
    print(
        "The last two rows are one and the same training, on images tiled three times in height:\n"
        "only the val images that chose the epoch differ. What lies between them is noise.\n"
    )


def main() -> None:
    setting = parse(
        "Task E: why is test below val?", backbones=(EMBEDDED,), quick_backbones=(EMBEDDED,)
    )
    explain(setting)
    comparison = setting.compare([FIXED, AUGMENTED_FIXED, TUNED, AUGMENTED_TUNED])
    print(f"{comparison}\n")
    draw(comparison, setting.out)
    by_class(setting, comparison)
    accident(setting, comparison, setting.backbones[0])


if __name__ == "__main__":
    main()
